//! The servers above: several base URLs, tried in order and by health, with one client and one
//! credential.

use std::{
    cmp::Reverse,
    future::Future,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::RwLock;
use reqwest::{Client, StatusCode, Url};
use rustls::ClientConfig;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{sleep, sleep_until, timeout};

use crate::{
    address::BaseUrl,
    daemon::chain,
    silence::notice_dead_peers,
    upstream::{
        credentials::Credentials,
        error::UpstreamError,
        server::{Naming, Upstream},
        spread::weight,
        standing::{RETURN, Signs, Standing, Well},
    },
};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// 2 s: a server that has not answered a question in JSON by then has the next one asked too.
const PATIENCE: Duration = Duration::from_secs(2);

/// 60 s between two looks whether a server of no use has become fit.
const LOOK: Duration = Duration::from_secs(60);

/// How long the answer of a server that failed may take when it is asked whether it is back.
const REVIVAL: Duration = Duration::from_secs(5);

/// Servers of one kind, in the order in which they were given, or in one that spreads many clients
/// over them.
///
/// A server that failed is tried last until it has worked again. [`Upstreams::revive`] asks it. One
/// whose answer was not whole in time is tried after the others for a while, and so is one that
/// asked for it by 503 with `Retry-After`.
#[derive(Debug)]
pub struct Upstreams {
    list: RwLock<Vec<Arc<Upstream>>>,
    maker: Maker,
    signs: Signs,
}

/// How a client asks servers of one kind.
#[derive(Clone, Debug, Default)]
pub struct Asking {
    /// The client's own name, where many clients are spread over servers that are all alike.
    pub spread: Option<String>,
    /// Servers may be found besides those that are given.
    pub finds: Option<Trust>,
}

/// To which of the servers that were found, and not given, this client proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those on this machine, and those with a certificate of the given authorities.
    Proven,
    /// All of them.
    Any,
}

/// Makes servers.
#[derive(Debug)]
struct Maker {
    client: Client,
    /// Makes a connection for each request.
    fresh: Client,
    /// Why nothing can be asked over TLS.
    no_tls: Option<String>,
    credentials: Credentials,
    asking: Asking,
}

impl Upstreams {
    /// Takes base URLs, without `/conf.git`.
    pub fn new(urls: Vec<BaseUrl>, credentials: &Credentials) -> Result<Self, UpstreamError> {
        Upstreams::asking(urls, credentials, Asking::default())
    }

    /// The same; where clients are spread, in an order of the client's own: as many clients ask one
    /// server first as any other. The clients of one that fails ask all the others, and each goes
    /// back to it at its own random time within 60 s of its return.
    pub fn asking(urls: Vec<BaseUrl>, credentials: &Credentials, asking: Asking) -> Result<Self, UpstreamError> {
        // The first provider of a process stays; a failure means that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let is_plain = urls.iter().all(|one| one.url().scheme() == "http");
        let mut no_tls = None;
        let tls = if is_plain && asking.finds.is_none() {
            None
        } else {
            match credentials.tls().config() {
                Ok(config) => Some(config),
                // Perhaps none of those that will be found speaks TLS.
                Err(error) if is_plain => {
                    no_tls = Some(chain(&error));
                    None
                }
                Err(error) => return Err(UpstreamError::Tls(error)),
            }
        };
        let client = client(tls.clone(), |client| client)?;
        let fresh = self::client(tls, |client| client.pool_max_idle_per_host(0))?;
        let (signs, credentials) = (Signs::default(), credentials.clone());
        let maker = Maker { client, fresh, no_tls, credentials, asking };
        let mut list: Vec<_> = urls.into_iter().map(|base| Arc::new(maker.make(base, true, &signs))).collect();
        maker.sort(&mut list);
        Ok(Upstreams { list: RwLock::new(list), maker, signs })
    }

    /// Takes the servers that are found now in place of those that were found before. Those that
    /// were given stay. Says which cannot be asked, and why.
    ///
    /// Where clients are spread, a server that was not there before is asked like one that has come
    /// back; but not at first, when all of them are new.
    pub fn found(&self, urls: Vec<BaseUrl>) -> Vec<String> {
        let mut faults = Vec::new();
        let mut list = self.list.write();
        let is_first = list.iter().all(|one| one.is_given());
        let mut next: Vec<_> = list.iter().filter(|one| one.is_given()).cloned().collect();
        for base in urls {
            if next.iter().any(|one| one.url() == base.url()) {
                continue;
            }
            if let Some(why) = self.maker.no_tls.as_ref().filter(|_| base.url().scheme() == "https") {
                faults.push(format!("{base} cannot be asked over TLS: {why}"));
                continue;
            }
            let known = list.iter().find(|one| one.url() == base.url()).cloned();
            next.push(known.unwrap_or_else(|| {
                let new = self.maker.make(base, false, &self.signs);
                if !is_first {
                    new.pass_over(None);
                }
                Arc::new(new)
            }));
        }
        self.maker.sort(&mut next);
        *list = next;
        drop(list);
        self.signs.back.notify_waiters();
        faults
    }

    /// The server with this URL.
    pub(crate) fn with_url(&self, base: &BaseUrl) -> Option<Arc<Upstream>> {
        self.list.read().iter().find(|one| one.url() == base.url()).cloned()
    }

    /// All servers, the one to try first at the front.
    pub fn in_order(&self) -> Vec<Arc<Upstream>> {
        let mut list: Vec<_> = self.list.read().iter().map(|one| (one.standing.order(), one.clone())).collect();
        // The sort is stable: working servers keep their order.
        list.sort_by_key(|(order, _)| *order);
        list.into_iter().map(|(_, one)| one).collect()
    }

    /// Where clients are spread, waits until a server is well that comes before this one in the
    /// client's order, and that is fit for the client's purpose. One that is not found any more may
    /// work all the same: its clients leave it at random times.
    pub async fn until_better(&self, than: &Url, is_fit: impl Fn(&Upstream) -> bool) {
        if self.maker.asking.spread.is_none() {
            return std::future::pending().await;
        }
        loop {
            let mut back = std::pin::pin!(self.signs.back.notified());
            back.as_mut().enable();
            let list = self.list.read().clone();
            let mut next = Instant::now() + LOOK;
            let place = list.iter().position(|one| one.url() == than);
            for one in &list[..place.unwrap_or(list.len())] {
                match one.standing.well() {
                    Well::Now if is_fit(one) && place.is_none() => return sleep(RETURN.mul_f64(rand::random())).await,
                    Well::Now if is_fit(one) => return,
                    Well::At(until) => next = next.min(until),
                    Well::Now | Well::No => {}
                }
            }
            tokio::select! {
                () = back => {}
                () = sleep_until(next.into()) => {}
            }
        }
    }

    /// Has every server that works asked as usual that this client would go back to later: the
    /// client must leave another one, and all of them have room for it.
    pub fn end_returns(&self) {
        self.list.read().iter().for_each(|one| one.standing.has_returned());
    }

    /// Asks each server that failed whether it is back: 1 s after the failure, then ever less
    /// often, up to every 30 s; and one that had too much to do when it wants to be asked again.
    /// Calls `report` with each answer. Runs until it is dropped.
    pub async fn revive(&self, report: impl Fn(&Upstream, Result<(), UpstreamError>)) {
        loop {
            let failed = self.signs.failed.notified();
            let list = self.list.read().clone();
            let next =
                list.iter().filter_map(|one| Some((one.standing.asked_again_at()?, one))).min_by_key(|one| one.0);
            let Some((until, one)) = next else {
                failed.await;
                continue;
            };
            tokio::select! {
                () = failed => continue,
                () = sleep_until(until.into()) => {}
            }
            let url = one.at("api/v1/status");
            let asked = async { one.send_within(&url, one.authorize(one.fresh.get(&url))?, REVIVAL).await };
            let refusal = asked.await.err();
            if matches!(refusal, Some(UpstreamError::Refused { status: StatusCode::FORBIDDEN, .. })) {
                // It knows who asks, and tells its state to others alone.
                one.report(true);
            }
            if matches!(refusal, Some(UpstreamError::Token { .. })) {
                // It was not asked, and is asked again later.
                one.report(false);
            }
            match refusal {
                // Another kind of server has no such path.
                Some(error) if one.is_failing() || error.is_busy() => report(one, Err(error)),
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

impl Maker {
    fn make(&self, base: BaseUrl, is_given: bool, signs: &Signs) -> Upstream {
        let is_shown = is_given || self.asking.finds == Some(Trust::Any) || self.is_proven(base.url());
        let standing = Standing::new(self.asking.spread.is_some(), signs.clone());
        let (client, fresh) = (self.client.clone(), self.fresh.clone());
        Upstream::new(base, (client, fresh), self.credentials.clone(), standing, Naming { is_given, is_shown })
    }

    /// True for a server on this machine, and for one that must have a certificate of the
    /// authorities that were given. Those of the system sign for whoever has any name.
    fn is_proven(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_loopback = host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        is_loopback || url.scheme() == "https" && self.credentials.tls().names_authorities()
    }

    fn sort(&self, list: &mut [Arc<Upstream>]) {
        if let Some(client) = &self.asking.spread {
            list.sort_by_cached_key(|one| Reverse(weight(client, one.url())));
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{
        access::Token,
        tls::{Certificates, ClientFiles, ClientTls, NamedFile, OldestTls},
    };

    fn urls(urls: &[&str]) -> Vec<BaseUrl> {
        urls.iter().map(|url| url.parse().unwrap()).collect()
    }

    fn order(upstreams: &Upstreams) -> Vec<String> {
        upstreams.in_order().iter().map(|one| one.url().to_string()).collect()
    }

    fn finding(credentials: &Credentials, trust: Trust) -> Upstreams {
        let asking = Asking { spread: Some("web-1".to_owned()), finds: Some(trust) };
        Upstreams::asking(urls(&["http://10.0.0.9:7401"]), credentials, asking).unwrap()
    }

    #[tokio::test]
    async fn what_proves_a_client_goes_to_those_it_was_given_and_to_those_that_prove_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, Token::generate().reveal()).unwrap();
        let authority = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem();
        let ca = folder.path().join("ca.crt");
        std::fs::write(&ca, authority).unwrap();
        let plain = Credentials::from_file(Some(file));
        let named = |path: PathBuf| ClientFiles { ca: Some(NamedFile::new("--ca", path)), ..ClientFiles::default() };
        let tls = ClientTls::load(named(ca), OldestTls::default(), &Certificates::default()).unwrap();
        let with_ca = plain.clone().over(tls);
        let found = ["http://10.0.0.1:7401", "https://10.0.0.1:7401", "http://127.0.0.1:7401", "http://[::1]:7401"];
        for (credentials, trust, shown) in [
            (&plain, Trust::Proven, [false, false, true, true]),
            (&with_ca, Trust::Proven, [false, true, true, true]),
            (&plain, Trust::Any, [true; 4]),
        ] {
            let upstreams = finding(credentials, trust);
            upstreams.found(urls(&found));
            for (url, shown) in found.into_iter().chain(["http://10.0.0.9:7401"]).zip(shown.into_iter().chain([true])) {
                let Some(one) = upstreams.with_url(&url.parse().unwrap()) else {
                    // This machine has no authorities.
                    assert!(url.starts_with("https"), "{url}");
                    continue;
                };
                assert_eq!(one.secret().unwrap().is_some(), shown, "{url}, {trust:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_found_takes_the_place_of_what_was_found_before_and_keeps_its_standing() {
        let upstreams = finding(&Credentials::none(), Trust::Proven);
        upstreams.found(urls(&["http://10.0.0.1:7401", "http://10.0.0.2:7401"]));
        upstreams.with_url(&"http://10.0.0.1:7401".parse().unwrap()).unwrap().report(false);
        upstreams.found(urls(&["http://10.0.0.2:7401", "http://10.0.0.1:7401", "http://10.0.0.9:7401"]));
        let all = order(&upstreams);
        assert_eq!(
            (all.len(), all[2].as_str()),
            (3, "http://10.0.0.1:7401/"),
            "it fails still, and none is there twice"
        );
        upstreams.found(urls(&["http://10.0.0.3:7401"]));
        let now = order(&upstreams);
        assert_eq!(now, ["http://10.0.0.9:7401/", "http://10.0.0.3:7401/"], "a new one gets its clients by and by");
    }

    #[tokio::test]
    async fn a_client_goes_back_to_its_own_server_when_that_is_well() {
        let upstreams = finding(&Credentials::none(), Trust::Proven);
        upstreams.found(urls(&["http://10.0.0.1:7401"]));
        let [own, other] = &upstreams.in_order()[..] else { panic!("two") };
        let better = || timeout(Duration::from_millis(50), upstreams.until_better(other.url(), |_| true));
        assert!(better().await.is_ok(), "its own is well");
        own.report(false);
        assert!(better().await.is_err(), "it fails");
        own.report(true);
        assert!(better().await.is_err(), "it has just come back");
        upstreams.end_returns();
        assert!(better().await.is_ok());
        let fit = timeout(Duration::from_millis(50), upstreams.until_better(other.url(), |_| false));
        assert!(fit.await.is_err(), "it is not fit");
        assert!(timeout(Duration::from_millis(50), upstreams.until_better(own.url(), |_| true)).await.is_err());
    }
}
