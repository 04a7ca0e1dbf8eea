//! Hosts that open a session by their keys, and join on the way where they may.

use http::{Method, StatusCode, Uri};

use crate::access::Token;
use crate::api::SessionRequest;
use crate::audit::Verdict;
use crate::http::answer::{Response, error, json};
use crate::http::authenticator::{Asked, Authenticator, MOST_TRIES, Noted, SESSIONS, too_many, unproven};
use crate::http::joining::{Joining, Joins, NotJoined};
use crate::http::peer::Peer;
use crate::session::NoSession;

impl Authenticator {
    /// Answers a host that opens a session.
    pub(crate) async fn open_session(&self, request: &SessionRequest, peer: Peer) -> Response {
        let Some(sessions) = &self.0.sessions else {
            return error(StatusCode::NOT_FOUND, "this server is open: it asks nobody for a token or a session");
        };
        let SessionRequest { datacenter, host, .. } = request;
        let answer = match (sessions.answer(request), joining(request)) {
            // conf-master is not asked for those who show wrong tokens again and again.
            (Err(NoSession::MayJoin), Some(_)) if self.0.tries.lock().recent(peer.who()) > MOST_TRIES => {
                return too_many();
            }
            (Err(NoSession::MayJoin), Some(joining)) => match self.join(joining, peer).await {
                Ok(()) => sessions.answer(request),
                Err(NotJoined::Refused(words)) => {
                    let is_told = self.refuse_session(request, peer, &words);
                    let words = format!("the host {host} of {datacenter} cannot join: {words}");
                    return if is_told { unproven(&words) } else { too_many() };
                }
                Err(later) => return later.answer(StatusCode::UNAUTHORIZED),
            },
            (answer, _) => answer,
        };
        match answer {
            Ok(answer) => json(StatusCode::OK, &answer),
            Err(fault) if self.refuse_session(request, peer, &fault.to_string()) => {
                // Who is listed is nothing for those who prove nothing.
                unproven(&format!(
                    "this is no proof of the host {host} of {datacenter}; its `key` in `inventories` must be what \
                     `conf-local identity` prints there, or its --token-file needs a join token, and the server's log \
                     says what is missing"
                ))
            }
            Err(_) => too_many(),
        }
    }

    /// Lets a host join.
    async fn join(&self, joining: Joining, peer: Peer) -> Result<(), NotJoined> {
        let none = || NotJoined::Refused("nobody can join here".to_owned());
        let Joins(joins) = self.0.joins.get().ok_or_else(none)?;
        let (datacenter, host) = (joining.datacenter.clone(), joining.host.clone());
        joins(joining).await?;
        tracing::info!(from = %peer.who(), %datacenter, %host, "a host has joined");
        Ok(())
    }

    /// Writes down that a host got no session. False when its address has tried too often to be
    /// told why.
    fn refuse_session(&self, request: &SessionRequest, peer: Peer, why: &str) -> bool {
        let (SessionRequest { datacenter, host, .. }, who) = (request, peer.who());
        let (method, uri) = (&Method::POST, &Uri::from_static(SESSIONS));
        let words = format!("the host {host} of {datacenter}: {why}");
        self.note(&Asked { method, uri, peer }, Verdict::Unproven, Noted::default(), &words);
        if self.0.tries.lock().count(who) > MOST_TRIES {
            return false;
        }
        tracing::warn!(from = %who, %datacenter, %host, "a host's session was refused: {why}");
        true
    }
}

/// What a host joins with, if it shows that.
fn joining(request: &SessionRequest) -> Option<Joining> {
    let SessionRequest { datacenter, host, key, join, .. } = request;
    let token = join.as_ref().filter(|text| Token::is_for_joining(&text.0))?.0.parse().ok()?;
    let key = key.as_ref()?.key().ok()?;
    Some(Joining { datacenter: datacenter.clone(), host: host.clone(), key, token })
}
