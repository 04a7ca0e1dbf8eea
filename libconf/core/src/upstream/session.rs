//! A host's session with one server above: where that asks who this is and there is no token, the
//! host proves itself by its identity key.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use libconf::name::{DatacenterName, HostName};
use parking_lot::Mutex;
use reqwest::{
    Error, RequestBuilder, Response, StatusCode,
    header::{AUTHORIZATION, HeaderValue},
};

use crate::{
    api::{SessionAnswer, SessionRequest},
    secret::Identity,
    sign::sign_session,
    upstream::servers::Upstream,
};

/// 5 s for each of the two questions that open a session.
const PATIENCE: Duration = Duration::from_secs(5);
/// 5 s before its end a session is no longer used.
const MARGIN: Duration = Duration::from_secs(5);

/// A host that can prove itself.
#[derive(Clone)]
pub struct HostProof {
    /// Its datacenter.
    pub datacenter: DatacenterName,
    /// Its name in the inventory.
    pub host: HostName,
    /// Its private key.
    pub identity: Arc<Identity>,
}

/// The session with one server. Copies of the server share it.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// What is sent like a token, and until when.
    bearer: Mutex<Option<(Arc<str>, Instant)>>,
    opening: tokio::sync::Mutex<()>,
}

impl Session {
    /// What is sent like a token now.
    pub(crate) fn bearer(&self) -> Option<Arc<str>> {
        let bearer = self.bearer.lock();
        bearer.as_ref().filter(|(_, until)| Instant::now() < *until).map(|(bearer, _)| bearer.clone())
    }
}

impl Upstream {
    /// Sends a request. Where the server then asks who this is, opens a session, and sends it once
    /// more; a session that the server refuses is the answer.
    pub(crate) async fn send_proven(&self, request: RequestBuilder) -> Result<Response, Error> {
        let Some(proof) = self.credentials.host().filter(|proof| proof.identity.recipient().signs()) else {
            return request.send().await;
        };
        let (again, before) = (request.try_clone(), self.session.bearer());
        let response = request.send().await?;
        let Some(again) = again.filter(|_| response.status() == StatusCode::UNAUTHORIZED) else { return Ok(response) };
        let bearer = match self.open_session(proof, before).await? {
            Opened::Bearer(bearer) => bearer,
            // One that knows of no sessions asks for a token.
            Opened::Refused(answer) if answer.status() == StatusCode::NOT_FOUND => return Ok(response),
            Opened::Refused(answer) => return Ok(answer),
        };
        let (client, request) = again.build_split();
        let mut request = request?;
        if let Ok(mut value) = HeaderValue::try_from(format!("Bearer {bearer}")) {
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        client.execute(request).await
    }

    /// Opens a session in place of the one `before`, unless another task has done so meanwhile.
    async fn open_session(&self, proof: &HostProof, before: Option<Arc<str>>) -> Result<Opened, Error> {
        let _opening = self.session.opening.lock().await;
        if let Some(bearer) = self.session.bearer().filter(|bearer| Some(bearer) != before.as_ref()) {
            return Ok(Opened::Bearer(bearer));
        }
        let HostProof { datacenter, host, identity } = proof;
        let mut asked =
            SessionRequest { datacenter: datacenter.clone(), host: host.clone(), nonce: None, signature: None };
        let nonce = match self.ask(&asked).await? {
            Ok(SessionAnswer { nonce, .. }) => nonce.unwrap_or_default(),
            Err(refusal) => return Ok(Opened::Refused(refusal)),
        };
        asked.signature = sign_session((datacenter, host), &nonce, identity);
        asked.nonce = Some(nonce);
        let answer = match self.ask(&asked).await? {
            Ok(answer) => answer,
            Err(refusal) => return Ok(Opened::Refused(refusal)),
        };
        let bearer: Arc<str> = answer.bearer.unwrap_or_default().into();
        let lives = Duration::from_secs(answer.lives.unwrap_or_default().into()).saturating_sub(MARGIN);
        *self.session.bearer.lock() = Some((bearer.clone(), Instant::now() + lives));
        tracing::debug!(server = %self.url(), "a session is open");
        Ok(Opened::Bearer(bearer))
    }

    /// Asks the server; the inner error is an answer that is none of a session.
    async fn ask(&self, request: &SessionRequest) -> Result<Result<SessionAnswer, Response>, Error> {
        let response = self.client.post(self.at("api/v1/sessions")).json(request).timeout(PATIENCE).send().await?;
        if response.status() != StatusCode::OK {
            return Ok(Err(response));
        }
        Ok(Ok(response.json().await?))
    }
}

enum Opened {
    Bearer(Arc<str>),
    Refused(Response),
}

impl fmt::Debug for HostProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostProof")
            .field("datacenter", &self.datacenter)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}
