//! The hashes of all tokens, and whose they are: the content of `refs/conf/access`.

use std::collections::{BTreeMap, BTreeSet};

use libconf::name::{DatacenterName, GroupName, HostName, PrincipalName};
use serde::{Deserialize, Serialize};

use crate::access::principal::{Named, Scope};
use crate::access::token::{TokenHash, TokenId};
use crate::host_key::HostKey;

/// The format that this program writes; it refuses to read a higher one.
const FORMAT: u32 = 1;
/// Programs, people, and hosts that have a token.
const MOST_TOKENS: usize = 20_000;
/// The hosts that join one datacenter. Those of the others, and tokens, have room of their own.
const MOST_JOINED: usize = 20_000;
/// 90 days, in seconds: how long a token that is over is listed, and told from an unknown one.
const KEPT_AFTER_END: i64 = 90 * 24 * 3600;

/// One token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenEntry {
    /// The hash.
    pub hash: TokenHash,
    /// Whom it proves.
    pub name: PrincipalName,
    /// The groups that it gives, besides those of the policy.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<GroupName>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "is_for_policy")]
    pub scope: Scope,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// Who made it.
    pub by: String,
    /// When it ends by itself, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// When somebody revoked it, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<i64>,
    /// When it was suspended, in seconds since 1970: a restore cannot tell whether somebody had
    /// revoked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<i64>,
    /// The key of a host that joined. There is no token then; the hash is that of this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<HostKey>,
    /// The join token that this host has shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_by: Option<TokenId>,
    /// How many hosts may join by this token; without it as many as the datacenter has room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<u32>,
}

/// All tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessTable {
    tokens: BTreeMap<TokenHash, TokenEntry>,
    /// Everybody may do everything, without a token.
    is_open: bool,
    /// Nobody has said yet what is in it.
    is_awaited: bool,
}

/// The hosts that are known by a token or a key, and how many have joined each datacenter, and by
/// each join token.
#[derive(Debug, Default)]
pub struct KnownHosts {
    hosts: BTreeMap<(DatacenterName, HostName), (TokenId, bool)>,
    joined: BTreeMap<DatacenterName, usize>,
    by_token: BTreeMap<TokenId, u32>,
}

impl KnownHosts {
    /// The entry by which a host is known, and whether that is a key.
    pub fn of(&self, datacenter: &DatacenterName, host: &HostName) -> Option<&(TokenId, bool)> {
        self.hosts.get(&(datacenter.clone(), host.clone()))
    }

    fn note(&mut self, entry: &TokenEntry) {
        if let Scope::Host { datacenter, host } = &entry.scope {
            let by_key = entry.key.is_some();
            self.hosts.insert((datacenter.clone(), host.clone()), (entry.id(), by_key));
            *self.joined.entry(datacenter.clone()).or_default() += usize::from(by_key);
            if let Some(join) = &entry.joined_by {
                *self.by_token.entry(join.clone()).or_default() += 1;
            }
        }
    }
}

#[derive(Deserialize)]
struct Document {
    format: u32,
    tokens: Vec<TokenEntry>,
}

#[derive(Serialize)]
struct Written<'t> {
    format: u32,
    tokens: &'t [&'t TokenEntry],
}

/// Why a table cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum BadTable {
    /// It is no JSON of the right shape.
    #[error("the list of tokens cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A newer program wrote it.
    #[error("the list of tokens has format {0}; this program reads {FORMAT}")]
    Newer(u32),
    /// There is no room for more.
    #[error("{MOST_TOKENS} tokens are good already; revoke some")]
    Full,
    /// There is no room for more hosts.
    #[error("{MOST_JOINED} hosts have joined {0} already; revoke the keys of those that are gone")]
    FullOfHosts(DatacenterName),
    /// As many hosts have joined by this token as may.
    #[error("{0} hosts have joined by this token already; revoke the keys of those that are gone, or make another one")]
    FullOfToken(u32),
}

/// Why a token proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// Nobody has made it, or it was revoked long ago.
    #[error("the token is not known here")]
    Unknown,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Somebody revoked it.
    #[error("the token was revoked")]
    Revoked,
    /// Nobody has said yet which tokens there are.
    #[error("this server does not know yet who may ask")]
    Awaited,
    /// A restore suspended it.
    #[error("the token is suspended since the server was restored; `conf-master token resume` makes it good again")]
    Suspended,
}

impl TokenEntry {
    /// A token without groups that is good until somebody ends it; `created` in seconds since 1970.
    pub fn new(hash: TokenHash, name: PrincipalName, scope: Scope, (created, by): (i64, String)) -> Self {
        let (groups, expires, revoked, suspended) = (BTreeSet::new(), None, None, None);
        let (key, joined_by, hosts) = (None, None, None);
        TokenEntry { hash, name, groups, scope, created, by, expires, revoked, suspended, key, joined_by, hosts }
    }

    /// The token of the first administrator, of a new server or of one that was restored.
    pub fn of_administrator(hash: TokenHash, made: (i64, String)) -> Self {
        let name = PrincipalName::administrator();
        let groups = BTreeSet::from([GroupName::administrators()]);
        TokenEntry { groups, ..TokenEntry::new(hash, name, Scope::Policy, made) }
    }

    /// How people name it.
    pub fn id(&self) -> TokenId {
        self.hash.id()
    }

    /// Whom it proves.
    pub fn principal(&self) -> Named {
        Named {
            name: self.name.clone(),
            groups: self.groups.clone(),
            scope: self.scope.clone(),
            token: Some(self.id()),
        }
    }

    /// Tells whether it is for this host.
    pub fn is_of(&self, datacenter: &DatacenterName, host: &HostName) -> bool {
        matches!(&self.scope, Scope::Host { datacenter: own, host: name } if own == datacenter && name == host)
    }

    /// The reason why it proves nothing at `now`, in seconds since 1970.
    pub fn fault(&self, now: i64) -> Option<Unproven> {
        if self.revoked.is_some() {
            return Some(Unproven::Revoked);
        }
        if self.expires.is_some_and(|end| end <= now) {
            return Some(Unproven::Expired);
        }
        self.suspended.is_some().then_some(Unproven::Suspended)
    }

    /// A key that was revoked never joins again, and so is never forgotten.
    fn is_forgotten(&self, now: i64) -> bool {
        if self.key.is_some() {
            return false;
        }
        let end = self.revoked.or(self.expires);
        end.is_some_and(|end| end.saturating_add(KEPT_AFTER_END) < now)
    }
}

impl AccessTable {
    /// Reads what [`AccessTable::to_json`] wrote.
    pub fn parse(text: &[u8]) -> Result<Self, BadTable> {
        let Document { format, tokens } = serde_json::from_slice(text)?;
        if format > FORMAT {
            return Err(BadTable::Newer(format));
        }
        Ok(AccessTable::of(tokens, false))
    }

    /// In place of a table that is in other files: a program that does not know them says that it
    /// cannot read this.
    pub const NOT_HERE: &str = "{\"format\": 2, \"tokens\": []}\n";

    /// Joins the parts of a table.
    pub fn joined(parts: impl IntoIterator<Item = Self>) -> Self {
        AccessTable::of(parts.into_iter().flat_map(|part| part.tokens.into_values()), false)
    }

    /// Makes a table of these tokens; an open one asks nobody for them.
    pub(crate) fn of(tokens: impl IntoIterator<Item = TokenEntry>, is_open: bool) -> Self {
        let tokens = tokens.into_iter().map(|one| (one.hash.clone(), one)).collect();
        AccessTable { tokens, is_open, is_awaited: false }
    }

    /// Makes the table of a server that does not know yet who may ask.
    pub fn awaited() -> Self {
        AccessTable { is_awaited: true, ..AccessTable::default() }
    }

    /// Tells whether nobody is asked for a token.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Writes it as JSON, a token a paragraph, so that Git shows what a change has changed.
    pub fn to_json(&self) -> Result<Vec<u8>, BadTable> {
        AccessTable::json_of(&self.tokens.values().collect::<Vec<_>>())
    }

    /// Writes a table of these tokens.
    pub fn json_of(tokens: &[&TokenEntry]) -> Result<Vec<u8>, BadTable> {
        let mut text = serde_json::to_vec_pretty(&Written { format: FORMAT, tokens })?;
        text.push(b'\n');
        Ok(text)
    }

    /// All tokens.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenEntry> {
        self.tokens.values()
    }

    /// Finds whom a token proves at `now`, in seconds since 1970.
    pub fn find(&self, hash: &TokenHash, now: i64) -> Result<&TokenEntry, Unproven> {
        let unknown = if self.is_awaited { Unproven::Awaited } else { Unproven::Unknown };
        let entry = self.tokens.get(hash).ok_or(unknown)?;
        entry.fault(now).map_or(Ok(entry), Err)
    }

    /// Finds the good entry of a host's key, by which the host joined.
    pub fn bound(&self, datacenter: &DatacenterName, host: &HostName, key: &HostKey, now: i64) -> Option<&TokenEntry> {
        let entry = self.find(&TokenHash::of_key(datacenter, key), now).ok()?;
        (entry.key.as_ref() == Some(key) && entry.is_of(datacenter, host)).then_some(entry)
    }

    /// Forgets those that were over long ago.
    fn forget(&mut self, now: i64) {
        self.tokens.retain(|_, one| !one.is_forgotten(now));
    }

    /// Lists the hosts that are known by a token or a key at `now`, for those that join then.
    pub fn known_hosts(&mut self, now: i64) -> KnownHosts {
        self.forget(now);
        let mut known = KnownHosts::default();
        self.tokens.values().filter(|one| one.fault(now).is_none()).for_each(|one| known.note(one));
        known
    }

    /// Adds the entry of a host that joins, and notes it among those that are known.
    pub fn put_joined(&mut self, entry: TokenEntry, known: &mut KnownHosts) -> Result<(), BadTable> {
        if let Scope::Host { datacenter, .. } = &entry.scope
            && known.joined.get(datacenter).is_some_and(|count| *count >= MOST_JOINED)
        {
            return Err(BadTable::FullOfHosts(datacenter.clone()));
        }
        if let Some(join) = &entry.joined_by
            && let Some(most) = self.by_id(join).and_then(|join| join.hosts)
            && known.by_token.get(join).is_some_and(|count| *count >= most)
        {
            return Err(BadTable::FullOfToken(most));
        }
        known.note(&entry);
        self.tokens.insert(entry.hash.clone(), entry);
        Ok(())
    }

    /// Suspends at `now` every good token but those of `shown`, which conf-slaves were told of, and
    /// adds those of them that are not here. Returns how many are suspended, and how many added.
    pub fn suspend_all_but(&mut self, shown: AccessTable, now: i64) -> (usize, usize) {
        let (mut suspended, mut added) = (0, 0);
        for one in self.tokens.values_mut() {
            if one.fault(now).is_none() && !shown.tokens.contains_key(&one.hash) {
                one.suspended = Some(now);
                suspended += 1;
            }
        }
        for (hash, one) in shown.tokens {
            self.tokens.entry(hash).or_insert_with(|| {
                added += 1;
                one
            });
        }
        (suspended, added)
    }

    /// Ends at `now` the keys of all hosts that joined by a token, and returns what these are for.
    pub fn revoke_joined(&mut self, join: &TokenId, now: i64) -> Vec<Scope> {
        let is_such = |one: &&mut TokenEntry| one.joined_by.as_ref() == Some(join) && one.revoked.is_none();
        let ended = self.tokens.values_mut().filter(is_such).map(|one| {
            one.revoked = Some(now);
            one.scope.clone()
        });
        ended.collect()
    }

    /// Finds a token by the name that people use.
    pub fn by_id(&self, id: &TokenId) -> Option<&TokenEntry> {
        let (_, entry) = self.tokens.range(id.lowest()..).next()?;
        (entry.id() == *id).then_some(entry)
    }

    /// The groups that live tokens of this name give.
    pub fn groups_of(&self, name: &PrincipalName, now: i64) -> BTreeSet<GroupName> {
        let live = self.tokens.values().filter(|one| one.name == *name && one.fault(now).is_none());
        live.flat_map(|one| one.groups.iter().cloned()).collect()
    }

    /// Adds a token or replaces its entry, and forgets those that were over long ago.
    pub fn put(&mut self, entry: TokenEntry, now: i64) -> Result<(), BadTable> {
        self.forget(now);
        if !self.tokens.contains_key(&entry.hash) {
            let of_tokens = || self.tokens.values().filter(|one| one.key.is_none());
            if of_tokens().filter(|one| one.fault(now).is_none()).count() >= MOST_TOKENS {
                return Err(BadTable::Full);
            }
            // Those that are over are listed for people, and take no room from others.
            while self.tokens.values().filter(|one| one.key.is_none()).count() >= 2 * MOST_TOKENS {
                let over = self.tokens.values().filter(|one| one.key.is_none() && one.fault(now).is_some());
                let Some(first) = over.min_by_key(|one| one.revoked.or(one.expires)) else { break };
                let first = first.hash.clone();
                self.tokens.remove(&first);
            }
        }
        self.tokens.insert(entry.hash.clone(), entry);
        Ok(())
    }
}

fn is_for_policy(scope: &Scope) -> bool {
    *scope == Scope::Policy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::token::Token;
    use crate::secret::Identity;

    fn entry(token: &Token) -> TokenEntry {
        let (name, scope) = ("ann".parse().unwrap(), Scope::Slave("lab/*".to_owned()));
        let groups = BTreeSet::from(["web".parse().unwrap()]);
        TokenEntry {
            groups,
            expires: Some(200),
            ..TokenEntry::new(token.hash(), name, scope, (100, "root".to_owned()))
        }
    }

    #[test]
    fn a_restore_suspends_what_nobody_vouches_for() {
        let (mut table, kept, other, gone) =
            (AccessTable::default(), Token::generate(), Token::generate(), Token::generate());
        for token in [&kept, &other] {
            table.put(entry(token), 100).unwrap();
        }
        table.put(TokenEntry { revoked: Some(100), ..entry(&gone) }, 100).unwrap();
        let (newer, mut shown) = (Token::generate(), AccessTable::default());
        for token in [&kept, &gone, &newer] {
            shown.put(entry(token), 100).unwrap();
        }
        assert_eq!(table.suspend_all_but(shown, 120), (1, 1));
        assert!(table.find(&kept.hash(), 150).is_ok() && table.find(&newer.hash(), 150).is_ok());
        assert_eq!(table.find(&other.hash(), 150).unwrap_err(), Unproven::Suspended);
        assert_eq!(table.find(&gone.hash(), 150).unwrap_err(), Unproven::Revoked, "none that was revoked revives");
        assert_eq!(table.find(&other.hash(), 200).unwrap_err(), Unproven::Expired);
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let (mut table, token) = (AccessTable::default(), Token::generate());
        table.put(entry(&token), 100).unwrap();
        table.put(TokenEntry { scope: Scope::Policy, expires: None, ..entry(&Token::generate()) }, 100).unwrap();
        let text = table.to_json().unwrap();
        assert_eq!(AccessTable::parse(&text).unwrap(), table);
        assert!(!String::from_utf8_lossy(&text).contains(token.reveal()));
        let newer = String::from_utf8_lossy(&text).replace("\"format\": 1", "\"format\": 2");
        assert!(matches!(AccessTable::parse(newer.as_bytes()), Err(BadTable::Newer(2))));
        assert!(matches!(AccessTable::parse(b""), Err(BadTable::Malformed(_))));
    }

    #[test]
    fn a_token_proves_its_name_until_it_ends() {
        let (mut table, token) = (AccessTable::default(), Token::generate());
        table.put(entry(&token), 100).unwrap();
        assert_eq!(table.find(&token.hash(), 199).unwrap().name.as_str(), "ann");
        assert_eq!(table.find(&token.hash(), 200).unwrap_err(), Unproven::Expired);
        assert_eq!(table.find(&Token::generate().hash(), 199).unwrap_err(), Unproven::Unknown);
        assert_eq!(table.groups_of(&"ann".parse().unwrap(), 199).len(), 1);
        assert!(table.groups_of(&"ann".parse().unwrap(), 200).is_empty());
        table.put(TokenEntry { revoked: Some(150), ..entry(&token) }, 150).unwrap();
        assert_eq!(table.find(&token.hash(), 150).unwrap_err(), Unproven::Revoked);
        assert_eq!(table.tokens().count(), 1);
        table.put(entry(&Token::generate()), 151 + KEPT_AFTER_END).unwrap();
        assert!(table.by_id(&token.hash().id()).is_none(), "it was over long ago");
    }

    #[test]
    fn tokens_that_are_good_have_room_and_those_that_are_over_leave_it() {
        let one = |number: usize, expires: Option<i64>| {
            let hash = format!("{number:064x}").parse().unwrap();
            TokenEntry { hash, expires, ..entry(&Token::generate()) }
        };
        let now = 1_000_000_000;
        let full = AccessTable::of((0..MOST_TOKENS).map(|number| one(number, None)), false);
        let put = |table: &AccessTable, entry: TokenEntry| {
            let mut table = table.clone();
            table.put(entry, now).map(|()| table)
        };
        assert!(matches!(put(&full, one(MOST_TOKENS, None)), Err(BadTable::Full)));
        // A token that is there may be replaced, and what ends one leaves room for another.
        let revoked = put(&full, TokenEntry { revoked: Some(now), ..one(7, None) }).unwrap();
        let again = put(&revoked, one(MOST_TOKENS, None)).unwrap();
        assert_eq!(again.tokens().count(), MOST_TOKENS + 1);
        assert!(matches!(put(&again, one(MOST_TOKENS + 1, None)), Err(BadTable::Full)));
        // Those that are over are listed for a while, and the one that was over first goes first.
        let over = (0..2 * MOST_TOKENS).map(|number| one(number, Some(now - 1 - i64::from(number == 9))));
        let over = put(&AccessTable::of(over, false), one(2 * MOST_TOKENS, None)).unwrap();
        assert_eq!(over.tokens().count(), 2 * MOST_TOKENS);
        let first = one(9, None).hash;
        assert!(over.tokens().all(|found| found.hash != first));
        // Hosts that join one datacenter take no room from tokens, or from those of another.
        let folder = tempfile::tempdir().unwrap();
        let key = Identity::create(&folder.path().join("identity")).unwrap().recipient().clone();
        let joined = |number: usize, of: &str| {
            let (datacenter, host) = (of.parse().unwrap(), format!("web-{number}").parse().unwrap());
            TokenEntry { scope: Scope::Host { datacenter, host }, key: Some(key.clone()), ..one(number, None) }
        };
        let mut full = AccessTable::of((0..MOST_JOINED).map(|number| joined(number, "lab/v1")), false);
        put(&full, one(MOST_JOINED, None)).unwrap();
        let mut known = full.known_hosts(now);
        assert!(known.of(&"lab/v1".parse().unwrap(), &"web-7".parse().unwrap()).unwrap().1);
        let words = full.put_joined(joined(MOST_JOINED, "lab/v1"), &mut known).unwrap_err().to_string();
        assert!(words.contains("20000 hosts have joined lab/v1 already"), "{words}");
        full.put_joined(joined(MOST_JOINED, "lab/v2"), &mut known).unwrap();
        // A key that was revoked is known for good.
        let late = now + 2 * KEPT_AFTER_END;
        full.put(TokenEntry { revoked: Some(now), ..joined(3, "lab/v1") }, late).unwrap();
        full.put(one(MOST_JOINED + 9, None), 2 * late).unwrap();
        assert!(full.by_id(&joined(3, "lab/v1").id()).is_some());
    }
}
