//! Tokens: requests to make, to revoke and to replace one.

use std::collections::BTreeSet;

use conf_core::access::{AccessTable, KnownHosts, Scope, TokenEntry, TokenHash, TokenId, Unproven};
use conf_core::secret::HostKey;
use libconf::name::{DatacenterName, GroupName, HostName, PrincipalName};
use serde::{Deserialize, Serialize};

use crate::fault::{Refusal, RefusalKind};
use crate::text::some_of;

/// Whom a new token proves, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// The principal.
    pub(crate) name: PrincipalName,
    /// The groups that it gives, besides those of the policy.
    #[serde(default)]
    pub(crate) groups: BTreeSet<GroupName>,
    /// What it is for.
    #[serde(default)]
    pub(crate) scope: Scope,
    /// How long it is good, in seconds; without that until it is revoked.
    #[serde(default)]
    pub(crate) lives: Option<u32>,
    /// How many hosts may join by it.
    #[serde(default)]
    pub(crate) hosts: Option<u32>,
}

impl NewToken {
    /// Refuses names and patterns that would say something else than they seem to.
    fn check(&self) -> Result<(), Refusal> {
        let refused = |words: String| Err(Refusal::new(RefusalKind::Invalid, words));
        if self.name.as_str() == SERVER {
            return refused(format!("`{SERVER}` is the name of the server itself; choose another one"));
        }
        if self.scope != Scope::Policy && !self.groups.is_empty() {
            return refused("a token for a conf-slave or for hosts gives no groups".to_owned());
        }
        if self.hosts.is_some() && !matches!(self.scope, Scope::Join(_)) {
            return refused("only a join token says how many hosts may join by it".to_owned());
        }
        let Scope::Slave(pattern) = &self.scope else { return Ok(()) };
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/*?".contains(&byte);
        if pattern.is_empty() || pattern.len() > 200 || !pattern.bytes().all(is_good) {
            return refused(
                "write the datacenters of a conf-slave as ID/VERSION, where `*` stands for any text".to_owned(),
            );
        }
        Ok(())
    }
}

/// The name under which the server's own changes are recorded.
const SERVER: &str = "conf-master";

/// A change of the tokens; it lands as a change of its own.
#[derive(Clone, Debug)]
pub(crate) enum AccessRequest {
    /// Adds the token with this hash.
    Add(TokenHash, NewToken),
    /// Ends a token at once.
    Revoke(TokenId),
    /// Ends a join token, and the keys of all hosts that joined by it.
    RevokeJoined(TokenId),
    /// Makes a suspended token good again.
    Resume(TokenId),
    /// Begins anew after a restore: a token for an administrator, and of those before only the ones
    /// that conf-slaves were told of.
    Restore {
        /// The hash of the administrator's token.
        administrator: TokenHash,
        /// What conf-slaves were told after the change from which this server was restored.
        shown: AccessTable,
    },
    /// Adds the token with this hash for the same principal, and ends the old one after so many
    /// seconds.
    Rotate(TokenId, TokenHash, u32),
    /// Has hosts known by their keys, each of which has shown a join token.
    Bind(Vec<Binding>),
}

/// A host's key, and the join token that the host has shown.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) datacenter: DatacenterName,
    pub(crate) host: HostName,
    pub(crate) key: HostKey,
    pub(crate) join: TokenHash,
}

impl Binding {
    /// Tells whether the host is known by this key already.
    pub(crate) fn is_made(&self, table: &AccessTable, now: i64) -> bool {
        table.bound(&self.datacenter, &self.host, &self.key, now).is_some()
    }

    /// Finds the join token, or says why the host cannot join by it.
    pub(crate) fn join_token<'t>(&self, table: &'t AccessTable, now: i64) -> Result<&'t TokenEntry, String> {
        let join = table.find(&self.join, now).map_err(|fault| fault.to_string())?;
        if join.scope != Scope::Join(self.datacenter.clone()) {
            return Err(format!(
                "the token is not for hosts that join {1}; it is for: {0}",
                join.scope, self.datacenter
            ));
        }
        Ok(join)
    }

    /// Says why the host cannot be known by this key.
    pub(crate) fn objection(&self, table: &AccessTable, known: &KnownHosts, now: i64) -> Option<String> {
        self.entry(table, known, now).err()
    }

    /// Makes the entry, or says why there cannot be one.
    fn entry(&self, table: &AccessTable, known: &KnownHosts, now: i64) -> Result<TokenEntry, String> {
        let Binding { datacenter, host, key, .. } = self;
        let join = self.join_token(table, now)?;
        let by = format!("{} ({})", join.name, join.id());
        let hash = TokenHash::of_key(datacenter, key);
        if let Some(known) = table.by_id(&hash.id()) {
            return Err(match known.fault(now) {
                Some(_) => {
                    "its key was revoked; make another one: stop the agent, remove the file `identity` from its \
                            state folder, and start it"
                        .to_owned()
                }
                None => format!("its key is that of the {}; each host needs one of its own", known.scope),
            });
        }
        if let Some((id, by_key)) = known.of(datacenter, host) {
            let how = if *by_key { "has joined with another key" } else { "has a token of its own" };
            return Err(format!(
                "{host} {how}; if this is the same host, an administrator says so: `conf-master token revoke {id}`"
            ));
        }
        if host.as_str() == SERVER {
            return Err(format!("`{SERVER}` is the name of the server itself"));
        }
        let name = host.as_str().parse().map_err(|bad| format!("{bad}"))?;
        let scope = Scope::Host { datacenter: datacenter.clone(), host: host.clone() };
        let (key, joined_by) = (Some(key.clone()), Some(join.id()));
        Ok(TokenEntry { key, joined_by, ..TokenEntry::new(hash, name, scope, (now, by)) })
    }
}

/// The most hosts that a line names.
const MOST_NAMED: usize = 10;

/// The tokens after a request, and a line about it.
pub(crate) type Changed = (AccessTable, String);

impl AccessRequest {
    /// Works out the tokens after it, at `now` in seconds since 1970, for somebody called `by`.
    pub(crate) fn apply(&self, table: &AccessTable, by: &str, now: i64) -> Result<Changed, Refusal> {
        let mut changed = table.clone();
        let words = match self {
            AccessRequest::Add(hash, new) => {
                new.check()?;
                let entry = TokenEntry {
                    groups: new.groups.clone(),
                    expires: new.lives.map(|lives| now + i64::from(lives)),
                    hosts: new.hosts,
                    ..TokenEntry::new(hash.clone(), new.name.clone(), new.scope.clone(), (now, by.to_owned()))
                };
                put(&mut changed, entry, now)?;
                format!("{} has the new token {}", new.name, hash.id())
            }
            AccessRequest::Revoke(id) => {
                let entry = match listed(table, id)? {
                    suspended if suspended.fault(now) == Some(Unproven::Suspended) => suspended,
                    _ => live(table, id, now)?,
                };
                put(&mut changed, TokenEntry { revoked: Some(now), ..entry.clone() }, now)?;
                format!("the token {id} of {} is revoked", entry.name)
            }
            AccessRequest::Resume(id) => resume(&mut changed, id, now)?,
            AccessRequest::Restore { administrator, shown } => {
                let (suspended, added) = changed.suspend_all_but(shown.clone(), now);
                put(&mut changed, TokenEntry::of_administrator(administrator.clone(), (now, by.to_owned())), now)?;
                format!(
                    "tokens: {suspended} suspended, since they may have been revoked after the copy was made; {added} known from \
                     conf-slaves alone"
                )
            }
            AccessRequest::RevokeJoined(id) => revoke_joined(&mut changed, id, now)?,
            AccessRequest::Rotate(id, hash, overlap) => {
                let old = live(table, id, now)?;
                if old.key.is_some() {
                    let words = format!("{id} is the key of the {}, and no token; revoke it", old.scope);
                    return Err(Refusal::new(RefusalKind::Invalid, words));
                }
                let lives = old.expires.map(|end| end - old.created);
                let (expires, revoked) = (lives.map(|lives| now + lives), None);
                let new =
                    TokenEntry { hash: hash.clone(), created: now, by: by.to_owned(), expires, revoked, ..old.clone() };
                put(&mut changed, new, now)?;
                let end = now + i64::from(*overlap);
                let old = match *overlap {
                    0 => TokenEntry { revoked: Some(now), ..old.clone() },
                    _ => TokenEntry { expires: Some(old.expires.map_or(end, |before| before.min(end))), ..old.clone() },
                };
                put(&mut changed, old.clone(), now)?;
                format!("{} has the new token {} in place of {id}", old.name, hash.id())
            }
            AccessRequest::Bind(bindings) => {
                let (mut joined, mut why, mut known) = (Vec::new(), None, changed.known_hosts(now));
                for binding in bindings {
                    // One that cannot join holds up no other.
                    let entry = binding.entry(&changed, &known, now);
                    let put = |entry| changed.put_joined(entry, &mut known).map_err(|full| full.to_string());
                    let put = entry.and_then(put);
                    match put {
                        Ok(()) => joined.push(format!("{}/{}", binding.datacenter, binding.host)),
                        Err(words) => why = why.or(Some(words)),
                    }
                }
                if joined.is_empty() {
                    let words = why.unwrap_or_else(|| "no host joins".to_owned());
                    return Err(Refusal::new(RefusalKind::Invalid, words));
                }
                format!("joined: {}", some_of(&joined, MOST_NAMED).join(", "))
            }
        };
        Ok((changed, words))
    }
}

fn put(table: &mut AccessTable, entry: TokenEntry, now: i64) -> Result<(), Refusal> {
    table.put(entry, now).map_err(|full| Refusal::new(RefusalKind::Invalid, full.to_string()))
}

/// Makes a suspended token good again.
fn resume(table: &mut AccessTable, id: &TokenId, now: i64) -> Result<String, Refusal> {
    let entry = listed(table, id)?.clone();
    let name = entry.name.clone();
    match entry.fault(now) {
        Some(Unproven::Suspended) => {}
        Some(fault) => return Err(refused(format!("{fault} already ({id} of {name})"))),
        None => return Err(refused(format!("the token {id} of {name} is good"))),
    }
    put(table, TokenEntry { suspended: None, ..entry }, now)?;
    Ok(format!("the token {id} of {name} is good again"))
}

/// Ends a join token and the keys of those that joined by it; a line says which these were.
fn revoke_joined(table: &mut AccessTable, id: &TokenId, now: i64) -> Result<String, Refusal> {
    let join = listed(table, id)?.clone();
    if !matches!(join.scope, Scope::Join(_)) {
        return Err(refused(format!("{id} is no join token; it is for: {}", join.scope)));
    }
    let hosts = table.revoke_joined(id, now);
    let (is_over, name) = (join.fault(now).is_some(), join.name.clone());
    if is_over && hosts.is_empty() {
        return Err(refused(format!("{id} of {name} is over already, and no host is known by it any more")));
    }
    if !is_over {
        put(table, TokenEntry { revoked: Some(now), ..join }, now)?;
    }
    let named: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let (count, named) = (hosts.len(), some_of(&named, MOST_NAMED).join(", "));
    let of_hosts = if hosts.is_empty() { String::new() } else { format!(": {named}") };
    Ok(format!("the token {id} of {name} is revoked, and the keys of {count} hosts that joined by it{of_hosts}"))
}

fn refused(words: String) -> Refusal {
    Refusal::new(RefusalKind::Invalid, words)
}

fn listed<'t>(table: &'t AccessTable, id: &TokenId) -> Result<&'t TokenEntry, Refusal> {
    table.by_id(id).ok_or_else(|| refused(format!("there is no token {id}; `conf-master token list` shows all")))
}

fn live<'t>(table: &'t AccessTable, id: &TokenId, now: i64) -> Result<&'t TokenEntry, Refusal> {
    let entry = listed(table, id)?;
    match entry.fault(now) {
        None => Ok(entry),
        Some(fault) => Err(refused(format!("{fault} already ({id} of {})", entry.name))),
    }
}

#[cfg(test)]
mod tests {
    use conf_core::access::Token;
    use conf_core::secret::Identity;

    use super::*;

    fn new(lives: Option<u32>) -> NewToken {
        let groups = BTreeSet::from(["web".parse().unwrap()]);
        NewToken { name: "ann".parse().unwrap(), groups, scope: Scope::Policy, lives, hosts: None }
    }

    #[test]
    fn a_token_is_made_replaced_and_revoked() {
        let (first, second) = (Token::generate().hash(), Token::generate().hash());
        let add = AccessRequest::Add(first.clone(), new(Some(100)));
        let (table, words) = add.apply(&AccessTable::default(), "root", 1000).unwrap();
        assert_eq!(words, format!("ann has the new token {}", first.id()));
        assert_eq!(table.find(&first, 1099).unwrap().by, "root");
        let rotate = AccessRequest::Rotate(first.id(), second.clone(), 10);
        let (table, _) = rotate.apply(&table, "ann", 1050).unwrap();
        assert!(table.find(&first, 1059).is_ok() && table.find(&first, 1060).is_err());
        let fresh = table.find(&second, 1149).unwrap();
        assert_eq!((fresh.expires, fresh.groups.len(), fresh.by.as_str()), (Some(1150), 1, "ann"));
        let (table, _) = AccessRequest::Revoke(second.id()).apply(&table, "root", 1060).unwrap();
        assert!(table.find(&second, 1061).is_err());
        for (id, words) in
            [(second.id(), "revoked"), (first.id(), "expired"), (Token::generate().hash().id(), "no token")]
        {
            let refusal = AccessRequest::Revoke(id).apply(&table, "root", 1061).unwrap_err();
            assert!(refusal.reason.contains(words), "{}", refusal.reason);
        }
    }

    #[test]
    fn hosts_join_one_by_one_and_none_holds_up_another() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| Identity::create(&folder.path().join(name)).unwrap().recipient().clone();
        let lab: DatacenterName = "lab/v1".parse().unwrap();
        let (join, other) = (Token::generate_for_joining().hash(), Token::generate().hash());
        let scope = Scope::Join(lab.clone());
        let (groups, name) = (BTreeSet::new(), "fleet".parse().unwrap());
        let fleet = NewToken { name, groups, scope, lives: Some(100), hosts: Some(2) };
        let (table, _) = AccessRequest::Add(join.clone(), fleet).apply(&AccessTable::default(), "root", 0).unwrap();
        let (table, _) = AccessRequest::Add(other.clone(), new(None)).apply(&table, "root", 0).unwrap();
        let (first, second, third, fourth) = (key("first"), key("second"), key("third"), key("fourth"));
        let binding = |host: &str, key: &HostKey, join: &TokenHash| Binding {
            datacenter: lab.clone(),
            host: host.parse().unwrap(),
            key: key.clone(),
            join: join.clone(),
        };
        let asked = vec![
            binding("web-1", &first, &join),
            binding("web-1", &second, &join),
            binding("web-2", &first, &join),
            binding("web-3", &third, &other),
            binding("web-4", &second, &join),
        ];
        let (joined, words) = AccessRequest::Bind(asked.clone()).apply(&table, "conf-master", 50).unwrap();
        assert_eq!(words, "joined: lab/v1/web-1, lab/v1/web-4");
        let made: Vec<bool> = asked.iter().map(|one| one.is_made(&joined, 50)).collect();
        assert_eq!(made, [true, false, false, false, true]);
        let known = joined.clone().known_hosts(50);
        let why = |one: &Binding, at: i64| one.objection(&joined, &known, at).unwrap();
        assert!(why(&binding("web-1", &third, &join), 50).contains("web-1 has joined with another key"));
        assert!(why(&asked[2], 50).contains("its key is that of the host lab/v1/web-1"));
        assert!(why(&asked[3], 50).contains("it is for: as the policy says"));
        assert!(why(&binding("web-5", &third, &join), 100).contains("expired"));
        // Who has joined stays when the token is over.
        assert!(asked[0].is_made(&joined, 200));
        let id = TokenHash::of_key(&lab, &first).id();
        let (ended, _) = AccessRequest::Revoke(id.clone()).apply(&joined, "root", 60).unwrap();
        assert!(!asked[0].is_made(&ended, 60));
        let known = ended.clone().known_hosts(60);
        assert!(asked[0].objection(&ended, &known, 60).unwrap().contains("its key was revoked"));
        let (again, _) = AccessRequest::Bind(vec![binding("web-1", &third, &join)]).apply(&ended, "x", 61).unwrap();
        // As many as may have joined; of those that are revoked another one takes the place.
        let full = |table: &AccessTable| {
            AccessRequest::Bind(vec![binding("web-6", &fourth, &join)])
                .apply(table, "x", 61)
                .err()
                .map(|why| why.reason)
        };
        assert!(full(&joined).unwrap().contains("2 hosts have joined by this token already"));
        assert!(full(&again).is_some() && full(&ended).is_none());
        let third = TokenHash::of_key(&lab, &third);
        assert_eq!(again.find(&third, 61).unwrap().by, format!("fleet ({})", join.id()));
        let refused = AccessRequest::Rotate(third.id(), other, 0).apply(&again, "root", 62);
        assert!(refused.unwrap_err().reason.contains("and no token; revoke it"));
        AccessRequest::Bind(vec![asked[1].clone()]).apply(&joined, "x", 63).unwrap_err();
        // All of them at once.
        let all = AccessRequest::RevokeJoined(join.id());
        let (none, words) = all.apply(&joined, "root", 70).unwrap();
        let hosts = "2 hosts that joined by it: host lab/v1/web-1, host lab/v1/web-4";
        assert!(words.ends_with(hosts) || words.ends_with("host lab/v1/web-4, host lab/v1/web-1"), "{words}");
        assert!(!asked[0].is_made(&none, 70) && !asked[4].is_made(&none, 70) && none.find(&join, 70).is_err());
        assert!(all.apply(&none, "root", 71).unwrap_err().reason.contains("over already"));
        let of_person = AccessRequest::RevokeJoined(id);
        assert!(of_person.apply(&joined, "root", 70).unwrap_err().reason.contains("is no join token"));
    }

    #[test]
    fn a_token_says_what_it_seems_to_say() {
        let hash = Token::generate().hash();
        let refused =
            |new: NewToken| AccessRequest::Add(hash.clone(), new).apply(&AccessTable::default(), "root", 0).is_err();
        let slave = |pattern: &str| {
            let (groups, scope) = (BTreeSet::new(), Scope::Slave(pattern.to_owned()));
            NewToken { groups, scope, ..new(None) }
        };
        assert!(!refused(new(None)) && !refused(slave("lab/*")) && !refused(slave("*")));
        assert!(refused(NewToken { name: SERVER.parse().unwrap(), ..new(None) }));
        assert!(refused(NewToken { scope: Scope::Slave("lab/*".to_owned()), ..new(None) }), "with groups");
        for pattern in ["", "lab/*\nreader x", "\u{1b}[31m", &"x".repeat(201)] {
            assert!(refused(slave(pattern)), "{pattern:?}");
        }
    }

    #[test]
    fn a_replaced_token_may_end_at_once_and_never_later_than_it_would() {
        let (first, second) = (Token::generate().hash(), Token::generate().hash());
        let table =
            AccessRequest::Add(first.clone(), new(Some(20))).apply(&AccessTable::default(), "root", 0).unwrap().0;
        let rotate =
            |overlap| AccessRequest::Rotate(first.id(), second.clone(), overlap).apply(&table, "root", 10).unwrap().0;
        assert!(rotate(0).find(&first, 10).is_err());
        assert!(rotate(100).find(&first, 19).is_ok());
        assert!(rotate(100).find(&first, 20).is_err());
    }
}
