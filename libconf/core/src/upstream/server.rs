//! One server above: its requests, with one credential, and what is known of its health.

use std::{
    ffi::OsString,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;
use reqwest::{
    Body, Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{
    address::BaseUrl,
    settings::without_value,
    silence::Pulse,
    upstream::{
        bearer::{HostProof, Session},
        credentials::Credentials,
        error::UpstreamError,
        hops::Hops,
        refusal::{refusal, retry_after},
        standing::Standing,
    },
};

/// How long an exchange of JSON may take.
const EXCHANGE: Duration = Duration::from_secs(30);

/// How long the headers of an answer, and then each next part of it, may take. Git counts objects
/// before it answers a first fetch: some seconds for 200,000 objects.
pub(crate) const SILENCE: Duration = Duration::from_secs(120);

/// 5 s: by then the kernel has ended idle connections that are dead.
const DISTRUST: Duration = Duration::from_secs(5);

/// The most bytes of a JSON answer; no answer between tiers comes near it.
const MOST_JSON: usize = 64 << 20;

/// One server. Clones share what is known about its health.
#[derive(Clone, Debug)]
pub struct Upstream {
    base: BaseUrl,
    pub(crate) client: Client,
    /// Makes a connection for each request.
    pub(crate) fresh: Client,
    pub(crate) credentials: Credentials,
    pub(crate) session: Arc<Session>,
    pub(crate) standing: Arc<Standing>,
    naming: Naming,
    /// Until then idle connections may be dead.
    distrusted: Arc<Mutex<Option<Instant>>>,
    /// Signs of life while it answers one question.
    pub(crate) pulse: Pulse,
}

/// Who named a server, and what follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Naming {
    /// The operator did; otherwise it was found.
    pub(crate) is_given: bool,
    /// What proves this client is shown to it.
    pub(crate) is_shown: bool,
}

impl Upstream {
    /// A server of which nothing is known yet.
    pub(crate) fn new(
        base: BaseUrl,
        (client, fresh): (Client, Client),
        credentials: Credentials,
        standing: Standing,
        naming: Naming,
    ) -> Self {
        Upstream {
            base,
            client,
            fresh,
            credentials,
            session: Arc::default(),
            standing: Arc::new(standing),
            naming,
            distrusted: Arc::default(),
            pulse: Pulse::new(),
        }
    }

    /// True for a server that the operator named.
    pub(crate) fn is_given(&self) -> bool {
        self.naming.is_given
    }

    /// What this client can prove to it by a key.
    pub(crate) fn proof(&self) -> Option<&HostProof> {
        self.credentials.host().filter(|proof| self.naming.is_shown && proof.identity.recipient().signs())
    }

    /// Its base URL, without a login.
    pub fn url(&self) -> &Url {
        self.base.url()
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

    /// Sends any request that is answered in JSON, refusals included; at most `wait` and 64 MiB.
    /// For callers that read more of a refusal than its words.
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

    /// Sends one request of Git protocol v2, somebody else's where it has `hops`; the response is
    /// still open.
    pub(crate) async fn upload_pack(&self, request: Bytes, hops: Option<Hops>) -> Result<Response, UpstreamError> {
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
        if let Some((name, value)) = hops.map(Hops::header) {
            post = post.header(name, value);
        }
        let response = self.send(&url, post).await?;
        if response.headers().get(CONTENT_TYPE).is_none_or(|kind| kind != KIND) {
            return Err(UpstreamError::Unexpected { url, reason: "no Git answer".to_owned() });
        }
        Ok(response)
    }

    /// What Git's own programs need to ask it: names and values of Git's configuration.
    pub fn git_settings(&self) -> Result<Vec<(&'static str, OsString)>, UpstreamError> {
        let header =
            self.git_authorization()?.map(|value| ("http.extraHeader", format!("Authorization: {value}").into()));
        // A redirect may lead to a server that nobody named, and the token with it.
        let no_other = ("http.followRedirects", "false".into());
        Ok(self.credentials.tls().git_settings().into_iter().chain([no_other]).chain(header).collect())
    }

    /// The `Authorization` header for Git's own requests.
    fn git_authorization(&self) -> Result<Option<String>, UpstreamError> {
        // Git's own clients can only send a password.
        let basic = |token| format!("Basic {}", STANDARD.encode(format!("conf:{token}")));
        let token = self.secret()?.map(basic);
        Ok(token.or_else(|| Some(self.base.login()?.basic())))
    }

    /// Moves the server to the end until it works, or back to its place.
    pub fn report(&self, worked: bool) {
        if worked {
            self.standing.is_in_time();
        }
        self.note(worked);
    }

    /// The same of the head of an answer: the rest may take long.
    fn note(&self, worked: bool) {
        if worked { self.standing.works() } else { self.standing.fails(false) }
    }

    /// Has the others asked first for a while, since the server cannot give what was asked for, or
    /// asks to be left alone for so long. Where clients are not spread it does nothing.
    pub fn pass_over(&self, asked: Option<Duration>) {
        self.standing.returns_after(asked.unwrap_or_default());
    }

    /// Moves the server to the end until it works, since it gave no answer.
    pub fn report_silent(&self) {
        self.distrust_connections();
        self.standing.fails(true);
    }

    /// Moves the server behind the others for a while, since its answer was not whole in time.
    pub fn report_late(&self) {
        self.standing.is_late();
    }

    /// For a while, asks over new connections: the idle ones may be as dead as one that is silent.
    pub(crate) fn distrust_connections(&self) {
        *self.distrusted.lock() = Some(Instant::now() + DISTRUST);
    }

    /// Tells whether it took the last question and gave no answer.
    pub fn is_silent(&self) -> bool {
        self.standing.is_silent()
    }

    /// Tells whether it failed when it was asked last.
    pub fn is_failing(&self) -> bool {
        self.standing.failing_until().is_some()
    }

    /// The same server for one question, whose signs of life are its own. A second question beside
    /// a silent one goes over a connection of its own.
    pub(crate) fn for_question(&self, is_second: bool) -> Arc<Self> {
        let mut one = Upstream { pulse: Pulse::new(), ..self.clone() };
        let is_distrusted = self.distrusted.lock().is_some_and(|until| Instant::now() < until);
        if is_second || is_distrusted {
            one.client = one.fresh.clone();
        }
        Arc::new(one)
    }

    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}/{}", self.url().as_str().trim_end_matches('/'), path.trim_start_matches('/'))
    }

    /// Passes somebody else's request on, with the headers that it came with and no others; any
    /// status is an answer. For `wait` there may be no head of one.
    pub async fn pass_on(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        wait: Duration,
    ) -> Result<Response, UpstreamError> {
        let url = self.at(path);
        let request = self.client.request(method, &url).headers(headers).body(Body::wrap_stream(body));
        match timeout(wait, request.send()).await {
            Err(_) => Err(UpstreamError::Silent { url, after: wait }),
            Ok(answer) => answer.map_err(|cause| UpstreamError::Unreachable { url, cause }),
        }
    }

    /// What proves who this is: the token, or what a session has in its place.
    pub(crate) fn secret(&self) -> Result<Option<Arc<str>>, UpstreamError> {
        if !self.naming.is_shown {
            return Ok(None);
        }
        Ok(self.credentials.token()?.or_else(|| self.session.bearer()))
    }

    async fn refusal(&self, url: &str, response: Response) -> UpstreamError {
        let credential = match self.credentials.host() {
            _ if !self.naming.is_shown => {
                "it was found and not given, and nothing proves who it is: this host shows it no token and no key. Have it \
                 speak TLS and give --ca, name it with --surrogate, or start conf-local with --trust-found"
            }
            Some(_) => "",
            None => "the credential is refused; see to the file of --token-file",
        };
        refusal(url, response, credential).await
    }

    pub(crate) fn authorize(&self, request: RequestBuilder) -> Result<RequestBuilder, UpstreamError> {
        Ok(match (self.secret()?, self.base.login()) {
            (Some(token), _) => request.bearer_auth(token),
            (None, Some(login)) => request.header(AUTHORIZATION, login.header()),
            (None, None) => request,
        })
    }

    /// Sends a request, notes whether the server worked, and makes an error of every status but
    /// success.
    pub(crate) async fn send(&self, url: &str, request: RequestBuilder) -> Result<Response, UpstreamError> {
        self.send_within(url, request, SILENCE).await
    }

    /// The same, where the head of the answer takes `limit` at most.
    pub(crate) async fn send_within(
        &self,
        url: &str,
        request: RequestBuilder,
        limit: Duration,
    ) -> Result<Response, UpstreamError> {
        self.pulse.wait();
        let answer = match timeout(limit, self.send_proven(request)).await {
            Err(_) => Err(UpstreamError::Silent { url: url.to_owned(), after: limit }),
            Ok(Err(cause)) => Err(UpstreamError::Unreachable { url: url.to_owned(), cause }),
            Ok(Ok(response)) => Ok(response),
        };
        let worked = answer.as_ref().is_ok_and(|response| {
            let status = response.status();
            !status.is_server_error() && status != StatusCode::UNAUTHORIZED && status != StatusCode::FORBIDDEN
        });
        match (&answer, answer.as_ref().ok().and_then(busy)) {
            (Err(UpstreamError::Silent { .. }), _) => self.report_silent(),
            (_, Some(asked)) => self.standing.is_busy(asked),
            _ => self.note(worked),
        }
        let response = answer?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(url, response).await) }
    }
}

/// How long a server asks to be left alone that has too much to do.
fn busy(response: &Response) -> Option<Duration> {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE { retry_after(response) } else { None }
}

/// Waits for the next part of an answer, at most for `silence`; `None` at its end.
pub(crate) async fn next_part(
    response: &mut Response,
    url: &str,
    silence: Duration,
) -> Result<Option<Bytes>, UpstreamError> {
    match tokio::time::timeout(silence, response.chunk()).await {
        Err(_) => Err(UpstreamError::Silent { url: url.to_owned(), after: silence }),
        Ok(part) => part.map_err(|cause| UpstreamError::Unreachable { url: url.to_owned(), cause }),
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
    serde_json::from_slice(text).map_err(|error| unexpected(without_value(&error.to_string())))
}
