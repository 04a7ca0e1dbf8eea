//! The servers above: several base URLs, tried in order and by health, with one client and one
//! credential.

use std::{
    ffi::OsString,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use rustls::ClientConfig;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::Notify, time::timeout};

use crate::{
    address::BaseUrl,
    settings::without_value,
    silence::{Pulse, notice_dead_peers},
    upstream::{bearer::Session, credentials::Credentials, error::UpstreamError, refusal::refusal, standing::Standing},
};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an exchange of JSON may take.
const EXCHANGE: Duration = Duration::from_secs(30);

/// How long the headers of an answer, and then each next part of it, may take. Git counts objects
/// before it answers a first fetch: some seconds for 200,000 objects.
pub(crate) const SILENCE: Duration = Duration::from_secs(120);

/// 2 s: a server that has not answered a question in JSON by then has the next one asked too.
const PATIENCE: Duration = Duration::from_secs(2);

/// 5 s: by then the kernel has ended idle connections that are dead.
const DISTRUST: Duration = Duration::from_secs(5);

/// How long the answer of a server that failed may take when it is asked whether it is back.
const REVIVAL: Duration = Duration::from_secs(5);

/// The most bytes of a JSON answer; no answer between tiers comes near it.
const MOST_JSON: usize = 64 << 20;

/// Servers of one kind, in the order in which they were given.
///
/// A server that failed is tried last until it has worked again. [`Upstreams::revive`] asks it. One
/// whose answer was not whole in time is tried after the others for a while.
#[derive(Debug)]
pub struct Upstreams {
    list: Vec<Arc<Upstream>>,
    failed: Arc<Notify>,
}

/// One server. Clones share what is known about its health.
#[derive(Clone, Debug)]
pub struct Upstream {
    base: BaseUrl,
    pub(crate) client: Client,
    /// Makes a connection for each request.
    fresh: Client,
    pub(crate) credentials: Credentials,
    pub(crate) session: Arc<Session>,
    standing: Arc<Standing>,
    /// Until then idle connections may be dead.
    distrusted: Arc<Mutex<Option<Instant>>>,
    /// Signs of life while it answers one question.
    pub(crate) pulse: Pulse,
}

impl Upstreams {
    /// Takes base URLs, without `/conf.git`.
    pub fn new(urls: Vec<BaseUrl>, credentials: &Credentials) -> Result<Self, UpstreamError> {
        // The first provider of a process stays; a failure means that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let is_plain = urls.iter().all(|one| one.url().scheme() == "http");
        let tls = if is_plain { None } else { Some(credentials.tls().config().map_err(UpstreamError::Tls)?) };
        let client = client(tls.clone(), |client| client)?;
        let fresh = self::client(tls, |client| client.pool_max_idle_per_host(0))?;
        let failed = Arc::new(Notify::new());
        let one = |base| {
            Arc::new(Upstream {
                base,
                client: client.clone(),
                fresh: fresh.clone(),
                credentials: credentials.clone(),
                session: Arc::default(),
                standing: Arc::new(Standing::new(Arc::clone(&failed))),
                distrusted: Arc::default(),
                pulse: Pulse::new(),
            })
        };
        Ok(Upstreams { list: urls.into_iter().map(one).collect(), failed })
    }

    /// The server with this URL.
    pub(crate) fn with_url(&self, base: &BaseUrl) -> Option<Arc<Upstream>> {
        self.list.iter().find(|one| one.url() == base.url()).cloned()
    }

    /// All servers, the one to try first at the front.
    pub fn in_order(&self) -> Vec<Arc<Upstream>> {
        let mut list: Vec<_> = self.list.iter().map(|one| (one.standing.order(), one.clone())).collect();
        // The sort is stable: working servers keep their given order.
        list.sort_by_key(|(order, _)| *order);
        list.into_iter().map(|(_, one)| one).collect()
    }

    /// Asks each server that failed whether it is back: 1 s after the failure, then ever less
    /// often, up to every 30 s. Calls `report` with each answer. Runs until it is dropped.
    pub async fn revive(&self, report: impl Fn(&Upstream, Result<(), UpstreamError>)) {
        loop {
            let failed = self.failed.notified();
            let next =
                self.list.iter().filter_map(|one| Some((one.standing.failing_until()?, one))).min_by_key(|one| one.0);
            let Some((until, one)) = next else {
                failed.await;
                continue;
            };
            tokio::select! {
                () = failed => continue,
                () = tokio::time::sleep_until(until.into()) => {}
            }
            let url = one.at("api/v1/status");
            let asked = async { one.send_within(&url, one.authorize(one.fresh.get(&url))?, REVIVAL).await };
            let refusal = asked.await.err();
            if matches!(refusal, Some(UpstreamError::Refused { status: StatusCode::FORBIDDEN, .. })) {
                // It knows who asks, and tells its state to others alone.
                one.report(true);
            }
            match refusal {
                // Another kind of server has no such path.
                Some(error) if one.is_failing() => report(one, Err(error)),
                _ => report(one, Ok(())),
            }
        }
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

    /// Asks one server after the other until one answers, and the next one already while one is
    /// silent; the error is that of the first server that failed.
    pub(crate) async fn first<T, F: Future<Output = Result<T, UpstreamError>>>(
        &self,
        ask: impl Fn(Arc<Upstream>) -> F,
    ) -> Result<T, UpstreamError> {
        let (mut waiting, mut asked) = (self.in_order().into_iter(), FuturesUnordered::new());
        let mut first = None;
        loop {
            let newest = waiting.next();
            match &newest {
                Some(one) => asked.push(ask(Arc::clone(one))),
                None if asked.is_empty() => return Err(first.unwrap_or(UpstreamError::NoServer)),
                None => {}
            }
            let answer = if waiting.len() == 0 {
                asked.next().await
            } else if let Ok(answer) = timeout(PATIENCE, asked.next()).await {
                answer
            } else {
                newest.inspect(|silent| silent.report_silent());
                continue;
            };
            match answer {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(error)) => first = first.or(Some(error)),
                None => {}
            }
        }
    }
}

/// Makes a client, with the options of `with`.
fn client(
    tls: Option<ClientConfig>,
    with: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> Result<Client, UpstreamError> {
    let mut builder = notice_dead_peers(Client::builder())
        // http_proxy is for the way to the internet, not to the servers of this project.
        .no_proxy()
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("conf/", env!("CARGO_PKG_VERSION")));
    builder = match tls {
        Some(tls) => builder.tls_backend_preconfigured(tls),
        // Plain HTTP works on a machine that has no certificates of authorities.
        None => builder.tls_certs_only([]),
    };
    with(builder).build().map_err(UpstreamError::Client)
}

impl Upstream {
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

    /// Sends one request of Git protocol v2; the response is still open.
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

    /// What proves who this is: the token, or what a session has in its place.
    pub(crate) fn secret(&self) -> Result<Option<Arc<str>>, UpstreamError> {
        Ok(self.credentials.token()?.or_else(|| self.session.bearer()))
    }

    async fn refusal(&self, url: &str, response: Response) -> UpstreamError {
        let credential = match self.credentials.host() {
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
        match &answer {
            Err(UpstreamError::Silent { .. }) => self.report_silent(),
            _ => self.note(worked),
        }
        let response = answer?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(url, response).await) }
    }
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
