//! Who asks, proven by a token, and whether they may: before any route.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::access::{AccessTable, Principal, Token, TokenEntry, TokenHash, TokenId, Unproven};
use crate::audit::{AuditEntry, AuditLog, Verdict};
use crate::http::answer::{Response, error, text};
use crate::http::joining::{Joined, Joining, Joins, NotJoined};
use crate::http::peer::Peer;
use crate::http::tries::Tries;
use crate::session::{KnownKeys, SessionHost, Sessions};

/// How clients of Consul send a token.
const CONSUL_TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
/// Paths that anybody may ask for: supervisors and load balancers have no token.
const OF_HEALTH: [&str; 2] = ["/healthz", "/readyz"];
/// Where a host proves itself by its key.
pub(crate) const SESSIONS: &str = "/api/v1/sessions";
/// Wrong tokens of one peer in a minute that are answered and told one by one.
pub(crate) const MOST_TRIES: u32 = 20;
/// One day: how often a token without an end is looked at although nothing changed.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Says why a principal may not ask for something.
type Objection = dyn Fn(&Principal, &Method, &Uri) -> Result<(), String> + Send + Sync;

/// Proves who asks by the tokens of a table, and asks for the right that a request needs.
#[derive(Clone)]
pub struct Authenticator(pub(crate) Arc<Inner>);

/// What all copies share.
pub(crate) struct Inner {
    table: watch::Receiver<Arc<AccessTable>>,
    pub(crate) sessions: Option<Sessions>,
    is_open: bool,
    may: Box<Objection>,
    pub(crate) tries: Mutex<Tries>,
    uses: Mutex<BTreeMap<TokenId, TokenUse>>,
    audit: OnceLock<Audit>,
    pub(crate) joins: OnceLock<Joins>,
}

/// Where it is written down who was not let in.
struct Audit {
    log: AuditLog,
    /// Names the rights that hold now.
    policy: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

/// The last request with a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// When, in seconds since 1970.
    pub at: i64,
    /// The address that it came from.
    pub from: String,
}

/// Who asks, and until when that is proven.
pub(crate) struct Visitor {
    pub(crate) principal: Principal,
    pub(crate) proof: Option<Proof>,
}

/// What is good now.
#[derive(Clone)]
pub(crate) enum Proof {
    /// A token.
    Token(TokenHash, watch::Receiver<Arc<AccessTable>>),
    /// A host's key: what goes on when its session is over goes on.
    Key(SessionHost, KnownKeys),
}

impl Authenticator {
    /// Proves names by the newest table; `may` says what a proven principal may ask for.
    pub fn new(
        table: watch::Receiver<Arc<AccessTable>>,
        may: impl Fn(&Principal, &Method, &Uri) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Authenticator::with(table, None, false, Box::new(may))
    }

    /// Like [`Authenticator::new`], and proves hosts by their keys besides.
    pub fn with_sessions(
        table: watch::Receiver<Arc<AccessTable>>,
        sessions: Sessions,
        may: impl Fn(&Principal, &Method, &Uri) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Authenticator::with(table, Some(sessions), false, Box::new(may))
    }

    /// Lets everybody do everything; a good token still says who it is.
    pub fn open(table: watch::Receiver<Arc<AccessTable>>) -> Self {
        Authenticator::with(table, None, true, Box::new(|_, _, _| Ok(())))
    }

    fn with(
        table: watch::Receiver<Arc<AccessTable>>,
        sessions: Option<Sessions>,
        is_open: bool,
        may: Box<Objection>,
    ) -> Self {
        let (tries, uses, audit) = (Mutex::default(), Mutex::default(), OnceLock::new());
        Authenticator(Arc::new(Inner { table, sessions, is_open, may, tries, uses, audit, joins: OnceLock::new() }))
    }

    /// Writes down who is not let in; `policy` names the rights that hold at that time.
    #[must_use]
    pub fn audited(self, log: AuditLog, policy: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        // The first log stays: there is one for each program.
        let _ = self.0.audit.set(Audit { log, policy: Box::new(policy) });
        self
    }

    /// Lets hosts join by what `joins` decides.
    #[must_use]
    pub fn joining(self, joins: impl Fn(Joining) -> Joined + Send + Sync + 'static) -> Self {
        // The first way stays: there is one for each program.
        let _ = self.0.joins.set(Joins(Arc::new(joins)));
        self
    }

    /// Takes the last uses of tokens before the start.
    #[must_use]
    pub fn remembering(self, uses: BTreeMap<TokenId, TokenUse>) -> Self {
        *self.0.uses.lock() = uses;
        self
    }

    /// The last use of each token that is still listed.
    pub fn uses(&self) -> BTreeMap<TokenId, TokenUse> {
        let listed: BTreeSet<TokenId> = self.0.table.borrow().tokens().map(TokenEntry::id).collect();
        let mut uses = self.0.uses.lock();
        uses.retain(|id, _| listed.contains(id));
        uses.clone()
    }

    fn is_open(&self) -> bool {
        self.0.is_open || self.0.table.borrow().is_open()
    }

    /// Finds who asks, or the answer to who may not.
    pub(crate) fn admit(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        peer: Peer,
    ) -> Result<Visitor, Response> {
        let anybody = || Visitor { principal: Principal::Anybody, proof: None };
        let asked = Asked { method, uri, peer };
        let found = self.prove(headers, &asked);
        if self.is_open() || OF_HEALTH.contains(&uri.path()) || uri.path() == SESSIONS {
            return Ok(found.unwrap_or_else(|_| anybody()));
        }
        let visitor = found?;
        (self.0.may)(&visitor.principal, method, uri).map_err(|words| {
            let who = peer.into();
            if self.0.tries.lock().count(who) <= MOST_TRIES {
                tracing::warn!(from = %who, by = %visitor.principal, %method, path = uri.path(), "denied: {words}");
            }
            self.note(&asked, Verdict::Denied, Noted::of(&visitor.principal), &words);
            error(StatusCode::FORBIDDEN, words)
        })?;
        Ok(visitor)
    }

    /// Writes down that somebody was not let in.
    pub(crate) fn note(&self, asked: &Asked<'_>, verdict: Verdict, who: Noted, why: &str) {
        let Some(Audit { log, policy }) = self.0.audit.get() else { return };
        let entry = AuditEntry::at_the_door(verdict, asked.peer.through(), asked.peer.who().to_string(), why);
        let request = Some(format!("{} {}", asked.method, asked.uri.path()));
        let Noted { by, token, is_host } = who;
        log.note(AuditEntry { by, token, is_host, request, policy: policy(), ..entry });
    }

    /// The answer in place of one that says why the daemon cannot serve, or makes remarks, for who
    /// proved nothing.
    pub(crate) fn conceals(&self, path: &str, visitor: &Visitor, response: &Response) -> Option<Response> {
        if self.is_open() || visitor.proof.is_some() || !OF_HEALTH.contains(&path) {
            return None;
        }
        match response.status() {
            StatusCode::SERVICE_UNAVAILABLE => {
                Some(error(StatusCode::SERVICE_UNAVAILABLE, "not ready; with a token this answer says why"))
            }
            // It may have remarks.
            StatusCode::OK if path == "/readyz" => Some(text(StatusCode::OK, "ready\n")),
            _ => None,
        }
    }

    fn prove(&self, headers: &HeaderMap, asked: &Asked<'_>) -> Result<Visitor, Response> {
        // Where a conf-slave stands in for Consul, clients send the token as they do to Consul.
        let token = headers.get(header::AUTHORIZATION).map(token_in).or_else(|| {
            let value = headers.get(CONSUL_TOKEN)?.to_str().map_err(|_| "X-Consul-Token is not text".to_owned());
            Some(value.map(|token| Zeroizing::new(token.to_owned())))
        });
        let Some(token) = token else {
            return Err(unproven(
                "this server asks for a token; an administrator makes one with `conf-master token add NAME`",
            ));
        };
        let token = token.map_err(|words| self.refuse(asked, None, &words))?;
        if Sessions::is_bearer(&token) {
            return self.prove_host(&token);
        }
        let token = token.parse::<Token>().map_err(|bad| self.refuse(asked, None, &bad.to_string()))?;
        let (hash, now) = (token.hash(), now());
        let entry = self.0.table.borrow().find(&hash, now).cloned();
        let entry: TokenEntry = entry.map_err(|fault| match fault {
            // It is no wrong token as far as anybody knows.
            Unproven::Awaited => NotJoined::Later(fault.to_string()).answer(StatusCode::UNAUTHORIZED),
            _ => self.refuse(asked, Some(hash.id()), &fault.to_string()),
        })?;
        self.0.uses.lock().insert(entry.id(), TokenUse { at: now, from: asked.peer.who().to_string() });
        let proof = Proof::Token(hash, self.0.table.clone());
        Ok(Visitor { principal: Principal::Named(entry.principal()), proof: Some(proof) })
    }

    /// Proves a host by its session. Where that is over, the host opens another.
    fn prove_host(&self, bearer: &str) -> Result<Visitor, Response> {
        let over = || unproven("the session is over; open another by POST /api/v1/sessions");
        let sessions = self.0.sessions.as_ref().ok_or_else(over)?;
        // One of before a restart is no try of somebody, and nobody guesses 256 bits.
        let host = sessions.find(bearer).map_err(|_| over())?;
        let named = host.principal().ok_or_else(over)?;
        Ok(Visitor { principal: Principal::Named(named), proof: Some(Proof::Key(host, sessions.keys())) })
    }

    /// Answers a wrong token. Who tries many is told so, and the log says no more of it.
    fn refuse(&self, asked: &Asked<'_>, token: Option<TokenId>, words: &str) -> Response {
        let who = asked.peer.who();
        if !self.is_open() {
            self.note(asked, Verdict::Unproven, Noted { token: token.clone(), ..Noted::default() }, words);
        }
        let count = self.0.tries.lock().count(who);
        if count > MOST_TRIES {
            return too_many();
        }
        if !self.is_open() {
            let token = token.map(|id| id.to_string());
            tracing::warn!(from = %who, token, count, "a token was refused: {words}");
        }
        unproven(words)
    }
}

/// What somebody asks for.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) peer: Peer,
}

/// Whom the audit log names.
#[derive(Default)]
pub(crate) struct Noted {
    by: Option<String>,
    token: Option<TokenId>,
    is_host: bool,
}

impl Noted {
    fn of(principal: &Principal) -> Self {
        let token = principal.named().and_then(|named| named.token.clone());
        Noted { by: Some(principal.to_string()), token, is_host: principal.is_host() }
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("is_open", &self.0.is_open).finish_non_exhaustive()
    }
}

impl Proof {
    /// Waits until it proves nothing any more.
    pub(crate) async fn ended(self) {
        match self {
            Proof::Token(hash, table) => token_ended(&hash, table).await,
            Proof::Key(host, keys) => keys.forgotten(host).await,
        }
    }
}

async fn token_ended(hash: &TokenHash, mut table: watch::Receiver<Arc<AccessTable>>) {
    loop {
        let left = match table.borrow_and_update().find(hash, now()) {
            Err(_) => return,
            Ok(entry) => entry.expires.map(|end| end.saturating_sub(now())),
        };
        let left = left.map_or(NEVER, |left| Duration::from_secs(left.unsigned_abs()));
        tokio::select! {
            changed = table.changed() => if changed.is_err() {
                // The server stops: its streams end with it.
                std::future::pending::<()>().await;
            },
            () = tokio::time::sleep(left) => {}
        }
    }
}

/// The token in `Authorization`: `Bearer TOKEN`, or as the password, which is how Git sends it.
fn token_in(value: &HeaderValue) -> Result<Zeroizing<String>, String> {
    let unreadable = || "the header Authorization is neither `Bearer TOKEN` nor `Basic …`".to_owned();
    let text = value.to_str().map_err(|_| unreadable())?;
    let (scheme, rest) = text.split_once(' ').ok_or_else(unreadable)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Zeroizing::new(rest.trim().to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(unreadable());
    }
    let login = STANDARD.decode(rest.trim()).map_err(|_| unreadable())?;
    let login = Zeroizing::new(String::from_utf8(login).map_err(|_| unreadable())?);
    let (_, password) = login.split_once(':').ok_or_else(unreadable)?;
    Ok(Zeroizing::new(password.trim().to_owned()))
}

/// Asks for a token, in the form that Git answers with its credentials.
pub(crate) fn unproven(words: &str) -> Response {
    let mut response = error(StatusCode::UNAUTHORIZED, words);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"conf\""));
    response
}

/// Answers who has shown too many wrong tokens.
pub(crate) fn too_many() -> Response {
    let mut response = error(StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens; try again in a minute");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
    response
}

/// Now, in seconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Scope;

    fn entry(token: &Token, expires: Option<i64>) -> TokenEntry {
        let made = (0, "root".to_owned());
        TokenEntry { expires, ..TokenEntry::new(token.hash(), "ann".parse().unwrap(), Scope::Policy, made) }
    }

    fn user(uid: u32) -> Peer {
        Peer::Unix { uid, pid: None }
    }

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    fn guarded(token: &Token) -> (watch::Sender<Arc<AccessTable>>, Authenticator) {
        let mut table = AccessTable::default();
        table.put(entry(token, None), now()).unwrap();
        let (sender, receiver) = watch::channel(Arc::new(table));
        let may = |_: &Principal, _: &Method, uri: &Uri| match uri.path() {
            "/forbidden" => Err("ann may not".to_owned()),
            _ => Ok(()),
        };
        (sender, Authenticator::new(receiver, may))
    }

    fn status(guard: &Authenticator, path: &str, headers: &HeaderMap) -> u16 {
        let admitted = guard.admit(&Method::GET, &path.parse().unwrap(), headers, user(1));
        admitted.map_or_else(|answer| answer.status().as_u16(), |_| 200)
    }

    #[test]
    fn a_token_proves_a_name_as_bearer_and_as_password() {
        let token = Token::generate();
        let (_table, guard) = guarded(&token);
        let text = token.reveal();
        let basic = |login: String| format!("Basic {}", STANDARD.encode(login));
        for value in
            [format!("Bearer {text}"), format!("bearer {text}"), basic(format!("x:{text}")), basic(format!(":{text}"))]
        {
            let visitor = guard.admit(&Method::GET, &Uri::from_static("/"), &headers(&value), user(1)).ok().unwrap();
            assert_eq!(visitor.principal.to_string(), "ann");
        }
        assert_eq!(guard.uses().keys().next(), Some(&token.hash().id()));
        let other = Token::generate();
        for value in
            [format!("Bearer {}", other.reveal()), "Bearer ".to_owned(), basic("ann".to_owned()), text.to_owned()]
        {
            assert_eq!(status(&guard, "/", &headers(&value)), 401, "{value}");
        }
        assert_eq!(status(&guard, "/", &HeaderMap::new()), 401);
        assert_eq!(status(&guard, "/healthz", &HeaderMap::new()), 200);
        assert_eq!(status(&guard, "/forbidden", &headers(&format!("Bearer {text}"))), 403);
    }

    #[test]
    fn who_tries_many_tokens_is_put_off_and_nobody_else() {
        let token = Token::generate();
        let (_table, guard) = guarded(&token);
        let wrong = headers("Bearer conf_wrong");
        for _ in 0..MOST_TRIES {
            assert_eq!(status(&guard, "/", &wrong), 401);
        }
        assert_eq!(status(&guard, "/", &wrong), 429);
        // Who has a good token at the same address is not held up by it.
        assert_eq!(status(&guard, "/", &headers(&format!("Bearer {}", token.reveal()))), 200);
        let other = guard.admit(&Method::GET, &Uri::from_static("/"), &wrong, user(2)).err().unwrap();
        assert_eq!(other.status(), StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn a_proof_ends_with_its_token() {
        let token = Token::generate();
        let (table, guard) = guarded(&token);
        let proven = || {
            let visitor = guard.admit(
                &Method::GET,
                &Uri::from_static("/"),
                &headers(&format!("Bearer {}", token.reveal())),
                user(1),
            );
            visitor.ok().unwrap().proof.unwrap()
        };
        let ended = tokio::spawn(proven().ended());
        let mut changed = AccessTable::clone(&table.borrow());
        changed.put(entry(&Token::generate(), None), now()).unwrap();
        table.send_replace(Arc::new(changed.clone()));
        tokio::task::yield_now().await;
        assert!(!ended.is_finished(), "another token was added");
        changed.put(TokenEntry { revoked: Some(now()), ..entry(&token, None) }, now()).unwrap();
        table.send_replace(Arc::new(changed));
        ended.await.unwrap();
    }
}
