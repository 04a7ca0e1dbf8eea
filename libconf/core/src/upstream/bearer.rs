//! Who a host is, and what one server gave it for the proof.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use libconf::name::{DatacenterName, HostName};
use parking_lot::Mutex;
use reqwest::{
    Response, StatusCode,
    header::{HeaderValue, RETRY_AFTER},
};

use crate::secret::Identity;

/// 5 s: so long a refused host does not ask again for a session. Each request of it would, and too
/// many refusals make a server refuse the whole address.
const REFUSED: Duration = Duration::from_secs(5);
/// The same at most, whatever `Retry-After` says.
const REFUSED_AT_MOST: Duration = Duration::from_secs(60);
/// The most bytes of a refusal that are read, and how long that may take.
const MOST_OF_REFUSAL: usize = 16 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

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
    pub(crate) bearer: Mutex<Option<(Arc<str>, Instant)>>,
    /// The last refusal of a session, which counts for a while.
    refusal: Mutex<Option<Refusal>>,
    /// One task opens it for all.
    pub(crate) opening: tokio::sync::Mutex<()>,
}

impl Session {
    /// What is sent like a token now.
    pub(crate) fn bearer(&self) -> Option<Arc<str>> {
        let bearer = self.bearer.lock();
        bearer.as_ref().filter(|(_, until)| Instant::now() < *until).map(|(bearer, _)| bearer.clone())
    }

    /// What the server answered when it refused a session just now.
    pub(crate) fn refusal(&self) -> Option<Response> {
        let refusal = self.refusal.lock();
        refusal.as_ref().filter(|one| Instant::now() < one.until).map(Refusal::answer)
    }

    /// Keeps a refusal for 5 s, or as long as it says itself.
    pub(crate) async fn keep_refusal(&self, answer: Response) -> Response {
        let refusal = Refusal::read(answer).await;
        let answer = refusal.answer();
        *self.refusal.lock() = Some(refusal);
        answer
    }
}

/// An answer other than success.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    retry_after: Option<HeaderValue>,
    body: Bytes,
    until: Instant,
}

impl Refusal {
    /// Reads what came of it within 5 s and 16 KiB: the status alone is an answer.
    async fn read(mut answer: Response) -> Self {
        let (status, retry_after) = (answer.status(), answer.headers().get(RETRY_AFTER).cloned());
        let mut body = Vec::new();
        let reading = async {
            while let Ok(Some(part)) = answer.chunk().await
                && body.len() < MOST_OF_REFUSAL
            {
                body.extend_from_slice(&part);
            }
        };
        let _ = tokio::time::timeout(PATIENCE, reading).await;
        let seconds = retry_after.as_ref().and_then(|value| value.to_str().ok()?.parse().ok());
        let wait = seconds.map_or(REFUSED, Duration::from_secs).clamp(REFUSED, REFUSED_AT_MOST);
        Refusal { status, retry_after, body: body.into(), until: Instant::now() + wait }
    }

    fn answer(&self) -> Response {
        let mut answer = http::Response::new(self.body.clone());
        *answer.status_mut() = self.status;
        if let Some(value) = &self.retry_after {
            answer.headers_mut().insert(RETRY_AFTER, value.clone());
        }
        answer.into()
    }
}

impl fmt::Debug for HostProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostProof")
            .field("datacenter", &self.datacenter)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}
