//! The servers above: several base URLs, tried in order and by health, with one client and one
//! credential.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    address::BaseUrl,
    api::ErrorBody,
    upstream::{credentials::Credentials, error::UpstreamError},
};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an exchange of JSON may take.
const EXCHANGE: Duration = Duration::from_secs(30);

/// How long the headers of an answer, and then each next part of it, may take. Git counts objects
/// before it answers a first fetch: some seconds for 200,000 objects.
pub(crate) const SILENCE: Duration = Duration::from_secs(120);

/// The most bytes of a JSON answer; no answer between tiers comes near it.
const MOST_JSON: usize = 64 << 20;

/// Servers of one kind, in the order in which they were given.
///
/// A server that failed is tried last for a while (1 s, doubled up to 30 s while it keeps failing),
/// then in its own place again.
#[derive(Debug)]
pub struct Upstreams {
    list: Vec<Arc<Upstream>>,
}

/// One server.
#[derive(Debug)]
pub struct Upstream {
    base: BaseUrl,
    pub(crate) client: Client,
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
    pub fn new(urls: Vec<BaseUrl>, credentials: &Credentials) -> Result<Self, UpstreamError> {
        // The first provider of a process stays; a failure means that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            // http_proxy is for the way to the internet, not to the servers of this project.
            .no_proxy()
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(15))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("conf/", env!("CARGO_PKG_VERSION")));
        if urls.iter().all(|one| one.url().scheme() == "http") {
            // Plain HTTP works on a machine that has no certificates of authorities.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(UpstreamError::Client)?;
        let one = |base| {
            let (client, credentials) = (client.clone(), credentials.clone());
            Arc::new(Upstream { base, client, credentials, failing: Mutex::default() })
        };
        Ok(Upstreams { list: urls.into_iter().map(one).collect() })
    }

    /// All servers, the one to try first at the front.
    pub fn in_order(&self) -> Vec<Arc<Upstream>> {
        let now = Instant::now();
        let mut list: Vec<_> = self.list.iter().map(|one| (one.failing_until(now), one.clone())).collect();
        // The sort is stable: working servers keep their given order.
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

    /// Asks one server after the other until one answers; the error is the first server's.
    pub(crate) async fn first<T, F: Future<Output = Result<T, UpstreamError>>>(
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

    /// The `Authorization` header for Git's own requests.
    pub fn git_authorization(&self) -> Result<Option<String>, UpstreamError> {
        // Git's own clients can only send a password.
        let basic = |token| format!("Basic {}", STANDARD.encode(format!("conf:{token}")));
        let token = self.credentials.token()?.map(basic);
        Ok(token.or_else(|| Some(self.base.login()?.basic())))
    }

    /// Moves the server to the end for a while, or back to its place.
    pub fn report(&self, worked: bool) {
        let mut failing = self.failing.lock();
        if worked {
            *failing = None;
        } else {
            let times = failing.map_or(0, |before| before.times).saturating_add(1);
            let rest = Duration::from_secs(1 << (times - 1).min(5)).min(Duration::from_secs(30));
            *failing = Some(Failing { times, until: Instant::now() + rest });
        }
    }

    /// The end of the time in which other servers are tried before this one.
    fn failing_until(&self, now: Instant) -> Option<Instant> {
        let failing = self.failing.lock();
        failing.map(|failing| failing.until).filter(|until| *until > now)
    }

    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}/{}", self.url().as_str().trim_end_matches('/'), path.trim_start_matches('/'))
    }

    pub(crate) fn authorize(&self, request: RequestBuilder) -> Result<RequestBuilder, UpstreamError> {
        Ok(match (self.credentials.token()?, self.base.login()) {
            (Some(token), _) => request.bearer_auth(token),
            (None, Some(login)) => request.header(AUTHORIZATION, login.header()),
            (None, None) => request,
        })
    }

    /// Sends a request, notes whether the server worked, and makes an error of every status but
    /// success.
    pub(crate) async fn send(&self, url: &str, request: RequestBuilder) -> Result<Response, UpstreamError> {
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
    serde_json::from_slice(text).map_err(|error| unexpected(error.to_string()))
}

/// Makes an error of a refusal: the server's words, and the next step.
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
    // The status alone is an answer, if the body does not come in time.
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
