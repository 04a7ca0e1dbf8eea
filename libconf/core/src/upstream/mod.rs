//! The servers above: several base URLs, tried in order and by health, with one client and one credential.

pub mod events;
pub mod fetch;
pub mod hedge;

use std::{
    future::Future,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
pub use reqwest::Url;
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{api::ErrorBody, upstream::events::Events};

/// Connecting takes no longer.
const CONNECT: Duration = Duration::from_secs(5);
/// An exchange of JSON takes no longer.
const EXCHANGE: Duration = Duration::from_secs(30);
/// The headers of an answer, and then each next part of it, take no longer. Git counts objects before it answers a
/// first fetch: some seconds for 200,000 objects.
pub(crate) const SILENCE: Duration = Duration::from_secs(120);
/// No JSON between tiers comes near it.
const MOST_JSON: usize = 64 << 20;

/// The token of `--token-file`, read again whenever the file changes; or none.
#[derive(Clone, Debug, Default)]
pub struct Credentials(Option<Arc<TokenFile>>);

#[derive(Debug)]
struct TokenFile {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Arc<str>)>>,
}

/// What changes when a file is written or replaced.
type Stamp = (u64, u64, Option<SystemTime>);

impl Credentials {
    /// Sends no credential.
    pub fn none() -> Self {
        Credentials(None)
    }

    /// Sends the first line of this file; without a file, nothing.
    pub fn from_file(path: Option<PathBuf>) -> Self {
        Credentials(path.map(|path| Arc::new(TokenFile { path, read: Mutex::default() })))
    }

    /// The token as it is now.
    fn token(&self) -> Result<Option<Arc<str>>, UpstreamError> {
        let Some(file) = &self.0 else { return Ok(None) };
        let failed = |cause| UpstreamError::Token { path: file.path.clone(), cause };
        let about = std::fs::metadata(&file.path).map_err(failed)?;
        let stamp = (about.ino(), about.len(), about.modified().ok());
        let mut read = file.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, token)) = read.as_ref().filter(|(of, _)| *of == stamp) {
            return Ok(Some(token.clone()));
        }
        let text = std::fs::read_to_string(&file.path).map_err(failed)?;
        let token: Arc<str> = text.lines().next().unwrap_or_default().trim().into();
        *read = Some((stamp, token.clone()));
        Ok(Some(token))
    }
}

/// Servers of one sort, in the order in which they were given.
///
/// A server that failed is tried last for a while (1 s, doubled up to 30 s while it keeps failing), then in its place
/// again.
#[derive(Debug)]
pub struct Upstreams {
    list: Vec<Arc<Upstream>>,
}

/// One server.
#[derive(Debug)]
pub struct Upstream {
    url: Url,
    client: Client,
    credentials: Credentials,
    failing: Mutex<Option<Failing>>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    times: u32,
    until: Instant,
}

impl Upstreams {
    /// Takes base URLs, without `/conf.git`.
    pub fn new(urls: Vec<Url>, credentials: &Credentials) -> Result<Self, UpstreamError> {
        // Only the first provider of a process counts; that one is there already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            // What stands in http_proxy is for the way to the internet, not for the servers beside us.
            .no_proxy()
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(15))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("conf/", env!("CARGO_PKG_VERSION")));
        if urls.iter().all(|url| url.scheme() == "http") {
            // A machine without certificates of authorities is none the worse for it.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(UpstreamError::Client)?;
        let one = |url| {
            let (client, credentials) = (client.clone(), credentials.clone());
            Arc::new(Upstream { url, client, credentials, failing: Mutex::default() })
        };
        Ok(Upstreams { list: urls.into_iter().map(one).collect() })
    }

    /// All servers, the one to try first at the front.
    pub fn in_order(&self) -> Vec<Arc<Upstream>> {
        let now = Instant::now();
        let mut list: Vec<_> = self.list.iter().map(|one| (one.failing_until(now), one.clone())).collect();
        // Stable: those that work keep the order in which they were given.
        list.sort_by_key(|(until, _)| *until);
        list.into_iter().map(|(_, one)| one).collect()
    }

    /// [`Upstream::get_json`] from the first server that answers.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, UpstreamError> {
        self.first(|one| async move { one.get_json(path).await }).await
    }

    /// [`Upstream::post_json`] to the first server that answers.
    pub async fn post_json<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, UpstreamError> {
        self.first(|one| async move { one.post_json(path, body).await }).await
    }

    /// [`Upstream::events`] of the first server that answers.
    pub async fn events(&self, path: &str, last_id: Option<&str>) -> Result<Events, UpstreamError> {
        self.first(|one| async move { one.events(path, last_id).await }).await
    }

    /// Asks one after the other until one answers; the error is that of the first.
    async fn first<T, F: Future<Output = Result<T, UpstreamError>>>(
        &self,
        ask: impl Fn(Arc<Upstream>) -> F,
    ) -> Result<T, UpstreamError> {
        let mut first = None;
        for one in self.in_order() {
            match ask(one).await {
                Ok(answer) => return Ok(answer),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or(UpstreamError::NoServer))
    }
}

impl Upstream {
    /// Its base URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// `GET <base>/<path>`; at most 30 s and 64 MiB.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, UpstreamError> {
        let url = self.at(path);
        self.exchange(&url, self.client.get(&url)).await
    }

    /// `POST <base>/<path>`; at most 30 s and 64 MiB. An empty answer reads as JSON `null`.
    pub async fn post_json<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, UpstreamError> {
        let url = self.at(path);
        self.exchange(&url, self.client.post(&url).json(body)).await
    }

    /// Any request that is answered in JSON, refusals included; at most `wait` and 64 MiB. For callers that read what a
    /// refusal says beside its words.
    pub async fn call<B: Serialize + Sync>(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Option<&B>,
        wait: Duration,
    ) -> Result<(StatusCode, serde_json::Value), UpstreamError> {
        let url = self.at(path);
        let mut request = self.authorize(self.client.request(method, &url))?.timeout(wait);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|cause| UpstreamError::Unreachable { url: url.clone(), cause })?;
        let status = response.status();
        let body = read_json(&url, response).await?;
        Ok((status, body))
    }

    async fn exchange<T: DeserializeOwned>(&self, url: &str, request: RequestBuilder) -> Result<T, UpstreamError> {
        let response = self.send(url, self.authorize(request)?.timeout(EXCHANGE)).await?;
        read_json(url, response).await
    }

    /// Opens a stream of server-sent events; `last_id` is sent as `Last-Event-ID`.
    pub async fn events(self: Arc<Self>, path: &str, last_id: Option<&str>) -> Result<Events, UpstreamError> {
        let url = self.at(path);
        let mut request = self.authorize(self.client.get(&url))?.header(ACCEPT, "text/event-stream");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = self.send(&url, request).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            let reason = format!("{kind:?} instead of text/event-stream");
            return Err(UpstreamError::Unexpected { url, reason });
        }
        Ok(Events::new(self, url, response))
    }

    /// One request of Git protocol v2; the response is open.
    pub(crate) async fn upload_pack(&self, request: Bytes) -> Result<Response, UpstreamError> {
        const KIND: &str = "application/x-git-upload-pack-result";
        let url = self.at("conf.git/git-upload-pack");
        let mut post = self
            .client
            .post(&url)
            .header("git-protocol", "version=2")
            .header(CONTENT_TYPE, "application/x-git-upload-pack-request")
            .header(ACCEPT, KIND)
            .body(request);
        if let Some(authorization) = self.git_authorization()? {
            post = post.header(AUTHORIZATION, authorization);
        }
        let response = self.send(&url, post).await?;
        if response.headers().get(CONTENT_TYPE).is_none_or(|kind| kind != KIND) {
            return Err(UpstreamError::Unexpected { url, reason: "no Git answer".to_owned() });
        }
        Ok(response)
    }

    /// The `Authorization` that Git's own requests carry.
    pub fn git_authorization(&self) -> Result<Option<String>, UpstreamError> {
        // Git's own clients can send a password only.
        let basic = |token| format!("Basic {}", STANDARD.encode(format!("conf:{token}")));
        Ok(self.credentials.token()?.map(basic))
    }

    /// Puts the server last for a while, or back in its place.
    pub fn report(&self, worked: bool) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if worked {
            *failing = None;
        } else {
            let times = failing.map_or(0, |before| before.times).saturating_add(1);
            let rest = Duration::from_secs(1 << (times - 1).min(5)).min(Duration::from_secs(30));
            *failing = Some(Failing { times, until: Instant::now() + rest });
        }
    }

    /// Until when others are to be tried before this one.
    fn failing_until(&self, now: Instant) -> Option<Instant> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.map(|failing| failing.until).filter(|until| *until > now)
    }

    fn at(&self, path: &str) -> String {
        format!("{}/{}", self.url.as_str().trim_end_matches('/'), path.trim_start_matches('/'))
    }

    fn authorize(&self, request: RequestBuilder) -> Result<RequestBuilder, UpstreamError> {
        Ok(match self.credentials.token()? {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    /// Sends, notes how the server fares, and turns every status but success into words.
    async fn send(&self, url: &str, request: RequestBuilder) -> Result<Response, UpstreamError> {
        let answer = match tokio::time::timeout(SILENCE, request.send()).await {
            Err(_) => Err(UpstreamError::Silent { url: url.to_owned(), after: SILENCE }),
            Ok(Err(cause)) => Err(UpstreamError::Unreachable { url: url.to_owned(), cause }),
            Ok(Ok(response)) => Ok(response),
        };
        let worked = answer.as_ref().is_ok_and(|response| {
            let status = response.status();
            !status.is_server_error() && status != StatusCode::UNAUTHORIZED && status != StatusCode::FORBIDDEN
        });
        self.report(worked);
        let response = answer?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(url, response).await) }
    }
}

/// Reads a JSON body of at most 64 MiB; an empty one is `null`.
async fn read_json<T: DeserializeOwned>(url: &str, mut response: Response) -> Result<T, UpstreamError> {
    let unreachable = |cause| UpstreamError::Unreachable { url: url.to_owned(), cause };
    let unexpected = |reason: String| UpstreamError::Unexpected { url: url.to_owned(), reason };
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(unreachable)? {
        if body.len() + part.len() > MOST_JSON {
            return Err(unexpected("more than 64 MiB".to_owned()));
        }
        body.extend_from_slice(&part);
    }
    let text = if body.is_empty() { b"null".as_slice() } else { &body };
    serde_json::from_slice(text).map_err(|error| unexpected(error.to_string()))
}

/// What a refusal says, with the next step.
async fn refusal(url: &str, mut response: Response) -> UpstreamError {
    let status = response.status();
    let seconds = response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(part)) = response.chunk().await {
            body.extend_from_slice(&part);
            if body.len() > 16 << 10 {
                break;
            }
        }
    };
    // The status alone is an answer.
    let _ = tokio::time::timeout(CONNECT, reading).await;
    let said = match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(error) => error.error,
        Err(_) => String::from_utf8_lossy(&body).trim().chars().take(300).collect(),
    };
    let step = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "the credential is refused; see to the file of --token-file"
        }
        StatusCode::NOT_FOUND if said.is_empty() => "is the URL right? give the base URL, without /conf.git",
        StatusCode::SERVICE_UNAVAILABLE => "it is busy or not ready; tried again later",
        status if status.is_redirection() => "it redirects; give the URL that it redirects to",
        _ => "",
    };
    let words = [said.as_str(), step].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
    let retry_after = seconds.map(Duration::from_secs);
    UpstreamError::Refused { url: url.to_owned(), status, words, retry_after }
}

/// Waiting times between attempts: full jitter below a bound that doubles with every failure.
#[derive(Debug)]
pub struct Backoff {
    attempt: u32,
    first: Duration,
    most: Duration,
}

impl Default for Backoff {
    /// From 100 ms up to 15 s.
    fn default() -> Self {
        Backoff::new(Duration::from_millis(100), Duration::from_secs(15))
    }
}

impl Backoff {
    /// The first bound and the last.
    pub fn new(first: Duration, most: Duration) -> Self {
        Backoff { attempt: 0, first, most }
    }

    /// How long to wait now: anything between nothing and the bound.
    #[must_use]
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.first.saturating_mul(1 << self.attempt.min(20)).min(self.most);
        self.attempt = self.attempt.saturating_add(1);
        bound.mul_f64(rand::random::<f64>())
    }

    /// Like [`Backoff::next_wait`], but no shorter than a server asked for.
    #[must_use]
    pub fn after(&mut self, error: &UpstreamError) -> Duration {
        let wait = self.next_wait();
        match error.retry_after() {
            // Jitter again, so that all who got the same answer do not come back together.
            Some(asked) => asked.min(Duration::from_secs(300)) + wait,
            None => wait,
        }
    }

    /// An attempt worked: start from the first bound next time.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// Why a server gave no answer of use.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection, or it broke; try again, or another one.
    #[error("cannot reach {url}; see that the URL is right and the server runs")]
    Unreachable {
        /// What was asked.
        url: String,
        /// The client's words.
        #[source]
        cause: reqwest::Error,
    },
    /// Nothing was heard for too long.
    #[error("{url} was silent for {} s", after.as_secs())]
    Silent {
        /// What was asked.
        url: String,
        /// For how long.
        after: Duration,
    },
    /// The stream was closed by the server.
    #[error("{url} closed the stream")]
    Closed {
        /// What was asked.
        url: String,
    },
    /// The server understood and says no.
    #[error("{url} answered {status}: {words}")]
    Refused {
        /// What was asked.
        url: String,
        /// The status.
        status: StatusCode,
        /// Its words, and the next step.
        words: String,
        /// `Retry-After`, where it was sent.
        retry_after: Option<Duration>,
    },
    /// An answer of another shape than expected: hardly a server of this project.
    #[error("{url} gave an answer that is not of this project ({reason}); is the URL right?")]
    Unexpected {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The token cannot be read.
    #[error("cannot read the token file {path}")]
    Token {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        #[source]
        cause: std::io::Error,
    },
    /// No client could be made.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// There is no server in the list.
    #[error("no server was given")]
    NoServer,
}

impl UpstreamError {
    /// How long the server asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            UpstreamError::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The status of a refusal.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            UpstreamError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}
