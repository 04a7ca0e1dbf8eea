//! `git upload-pack` over smart HTTP, behind a cache of answers.
//!
//! A step asked for by object id ([`Step`]) has one answer, whoever asks: it is computed once and
//! kept. Every other request (listings, first fetches, plain git clients) runs a process of its
//! own, within limits.

use std::{path::PathBuf, process::Command, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use http::StatusCode;
use moka::future::Cache;
use parking_lot::Mutex;
use tokio::{
    io::AsyncReadExt as _,
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore},
};

use crate::{
    daemon::chain,
    git::{self, Packet, PacketReader, Step, error_words, push_line},
    git_http::{
        answer::{announced, streamed, uncached, whole},
        child::{Failure, Output, decoded, input_of, start},
    },
    http::{self as answers, Request, Response},
    upstream::Upstreams,
};

const RESULT: &str = "application/x-git-upload-pack-result";
const ADVERTISEMENT: &str = "application/x-git-upload-pack-advertisement";

/// How long an answer is remembered that nobody asks for: hosts that are not away ask within
/// seconds.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// How long a step or a listing waits until another process ends.
const STEP_PATIENCE: Duration = Duration::from_secs(10);
/// How long any other fetch waits until another process ends.
const START_PATIENCE: Duration = Duration::from_secs(1);

/// How long a server above may take to begin its answer to a relayed step.
const RELAY_PATIENCE: Duration = Duration::from_secs(3);

/// Bounds of a server.
#[derive(Clone, Debug)]
pub struct UploadLimits {
    /// Bytes of remembered answers; one answer is remembered up to a sixteenth of it.
    pub cache_bytes: u64,
    /// `upload-pack` processes at once, for steps and listings and, counted apart, for all other
    /// fetches.
    pub processes: usize,
    /// Bytes of a decoded request.
    pub request_bytes: u64,
}

impl Default for UploadLimits {
    fn default() -> Self {
        UploadLimits { cache_bytes: 64 << 20, processes: 16, request_bytes: 4 << 20 }
    }
}

/// `git upload-pack` of one repository.
#[derive(Debug)]
pub struct UploadPack {
    repo: PathBuf,
    limits: UploadLimits,
    upstreams: Option<Arc<Upstreams>>,
    /// Answers to steps, by request.
    steps: Cache<Bytes, Bytes>,
    /// Permits for steps and listings.
    light: Arc<Semaphore>,
    /// Permits for fetches that may be large.
    heavy: Arc<Semaphore>,
    /// The announcement of protocol v2. It lists what the server can do and no refs, so it stays
    /// the same while this program runs.
    announcement: OnceCell<Bytes>,
    counts: Arc<Mutex<Counts>>,
}

/// Numbers of what a server has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests answered from memory, or by waiting for another request's process.
    pub cached: u64,
    /// Processes started.
    pub processes: u64,
    /// Requests turned away with 503.
    pub refused: u64,
    /// Requests relayed upstream.
    pub relayed: u64,
    /// Processes that failed, though they were asked for objects that are here: the repository may
    /// be damaged.
    pub failed: u64,
}

/// Why there is no answer to keep.
#[derive(Debug)]
enum NotKept {
    /// The answer is too large: it is streamed to the request that started it.
    Large,
    /// Git refused, in an answer of its own.
    Refusal(Bytes),
    Failed(Failure),
}

/// The place where a request finds the process that it started, when the answer became too large to
/// keep.
type Started = Arc<Mutex<Option<(Bytes, Output)>>>;

impl UploadPack {
    /// Serves `repo`.
    pub fn new(repo: PathBuf, limits: UploadLimits) -> Arc<Self> {
        UploadPack::with(repo, limits, None)
    }

    /// Like [`UploadPack::new`], but a step whose `have` is not here is relayed to these servers,
    /// and computed here only when none of them answers: a cache that was emptied would otherwise
    /// send everything to every host.
    pub fn relaying(repo: PathBuf, limits: UploadLimits, upstreams: Arc<Upstreams>) -> Arc<Self> {
        UploadPack::with(repo, limits, Some(upstreams))
    }

    fn with(repo: PathBuf, limits: UploadLimits, upstreams: Option<Arc<Upstreams>>) -> Arc<Self> {
        let size = |request: &Bytes, answer: &Bytes| u32::try_from(request.len() + answer.len()).unwrap_or(u32::MAX);
        Arc::new(UploadPack {
            steps: Cache::builder().max_capacity(limits.cache_bytes).time_to_idle(FORGOTTEN).weigher(size).build(),
            light: Arc::new(Semaphore::new(limits.processes)),
            heavy: Arc::new(Semaphore::new(limits.processes)),
            announcement: OnceCell::new(),
            counts: Arc::default(),
            repo,
            limits,
            upstreams,
        })
    }

    /// Answers `GET info/refs?service=git-upload-pack`.
    pub async fn advertise(&self, request: Request) -> Response {
        let protocol = request.header("git-protocol").unwrap_or_default();
        let advertised = async {
            if protocol == "version=2" {
                let compute = async { self.advertisement(protocol).await?.all().await };
                return Ok(whole(ADVERTISEMENT, self.announcement.get_or_try_init(|| compute).await?.clone()));
            }
            announced("git-upload-pack", ADVERTISEMENT, self.advertisement(protocol).await?).await
        };
        advertised.await.unwrap_or_else(|failure: Failure| failure.response())
    }

    async fn advertisement(&self, protocol: &str) -> Result<Output, Failure> {
        let permit = self.permit(&self.light, STEP_PATIENCE).await?;
        let mut git = self.command(protocol);
        git.arg("--http-backend-info-refs");
        self.start(git, Bytes::new(), permit)
    }

    /// Answers `POST git-upload-pack`.
    pub async fn serve(&self, request: Request) -> Response {
        let protocol = request.header("git-protocol").unwrap_or_default().to_owned();
        let served = async {
            let body = self.read(request).await?;
            match Step::parse(&body).filter(|_| protocol == "version=2") {
                Some(step) if step.have.is_some() => self.step(step, body).await,
                _ => self.other(&protocol, body).await,
            }
        };
        served.await.unwrap_or_else(|failure| failure.response())
    }

    /// Remembers the answer to a step, byte for byte: see
    /// [`Fetched::answer`](crate::upstream::Fetched::answer).
    pub async fn prime(&self, request: Bytes, response: Bytes) {
        if response.len() <= self.most_kept() {
            self.steps.insert(request, response).await;
        }
    }

    /// Numbers of what the server has done since its start.
    pub fn counts(&self) -> Counts {
        *self.counts.lock()
    }

    /// Reads a request, decoded and bounded: the reader stops at the limit, however much the
    /// request unpacks to.
    async fn read(&self, request: Request) -> Result<Bytes, Failure> {
        let limit = self.limits.request_bytes;
        let mut input = decoded(request)?.take(limit + 1);
        let mut body = Vec::new();
        input.read_to_end(&mut body).await.map_err(|cause| Failure::Input(cause.to_string()))?;
        if body.len() as u64 > limit { Err(Failure::TooLarge(limit)) } else { Ok(body.into()) }
    }

    /// Answers a step from memory, or by one process for all that ask for it now.
    async fn step(&self, step: Step, request: Bytes) -> Result<Response, Failure> {
        let started = Started::default();
        let mut first = false;
        if !self.steps.contains_key(&request) {
            match self.look(step).await? {
                (true, true) => {}
                (false, _) => return Ok(whole(RESULT, not_our_ref(step))),
                // An answer that was computed without knowing `have` is not the answer to this
                // step: it is not kept.
                (true, false) => return self.unknown_have(request).await,
            }
        }
        let compute = async {
            first = true;
            self.compute(request.clone(), started.clone()).await
        };
        let kept = self.steps.try_get_with(request.clone(), compute).await;
        if !first {
            self.counts.lock().cached += 1;
        }
        let own = started.lock().take();
        match (kept, own) {
            (Ok(answer), _) => Ok(whole(RESULT, answer)),
            (Err(_), Some((head, output))) => Ok(streamed(RESULT, [head, Bytes::new()], output)),
            (Err(reason), None) => match &*reason {
                NotKept::Large => self.other("version=2", request).await,
                NotKept::Refusal(words) => Ok(whole(RESULT, words.clone())),
                NotKept::Failed(failure) => Err(failure.clone()),
            },
        }
    }

    /// Runs the process for a step. Only an answer that ended well, with a pack, is kept.
    async fn compute(&self, request: Bytes, started: Started) -> Result<Bytes, NotKept> {
        let permit = self.permit(&self.light, STEP_PATIENCE).await.map_err(NotKept::Failed)?;
        let mut output = self.start(self.command("version=2"), request, permit).map_err(NotKept::Failed)?;
        let mut all = BytesMut::new();
        while let Some(part) = output.next().await {
            match part {
                Ok(part) => all.extend_from_slice(&part),
                Err(_) if refuses(&all) => return Err(NotKept::Refusal(all.freeze())),
                Err(failure) => return Err(NotKept::Failed(failure)),
            }
            if all.len() > self.most_kept() {
                *started.lock() = Some((all.freeze(), output));
                return Err(NotKept::Large);
            }
        }
        if refuses(&all) { Err(NotKept::Refusal(all.freeze())) } else { Ok(all.freeze()) }
    }

    /// Answers a step from a commit that is not here.
    async fn unknown_have(&self, request: Bytes) -> Result<Response, Failure> {
        for upstream in self.upstreams.iter().flat_map(|upstreams| upstreams.in_order()) {
            let asked = tokio::time::timeout(RELAY_PATIENCE, upstream.upload_pack(request.clone())).await;
            match asked
                .inspect_err(|_| upstream.report_silent())
                .map_err(|_| "no answer in time".to_owned())
                .and_then(|asked| asked.map_err(|error| chain(&error)))
            {
                Ok(answer) => {
                    self.counts.lock().relayed += 1;
                    let answer = answer.bytes_stream().map_err(Box::new);
                    return Ok(uncached(answers::stream(StatusCode::OK, RESULT, answer)));
                }
                Err(error) => tracing::warn!(error, "a step from an unknown commit could not be relayed"),
            }
        }
        self.other("version=2", request).await
    }

    /// Answers any other request by a process of its own.
    async fn other(&self, protocol: &str, request: Bytes) -> Result<Response, Failure> {
        let is_listing =
            protocol == "version=2" && request.get(4..).is_some_and(|line| line.starts_with(b"command=ls-refs"));
        let (permits, patience) = if is_listing { (&self.light, STEP_PATIENCE) } else { (&self.heavy, START_PATIENCE) };
        let permit = self.permit(permits, patience).await?;
        let mut output = self.start(self.command(protocol), request, permit)?;
        Ok(match output.next().await.transpose()? {
            // Git's own words of refusal must arrive, though Git ends with an error: so they end
            // the answer.
            Some(head) if refuses(&head) => whole(RESULT, head),
            Some(head) => streamed(RESULT, [head, Bytes::new()], output),
            None => whole(RESULT, Bytes::new()),
        })
    }

    /// Whether the commit that a step wants, and the one that it has, are here.
    async fn look(&self, step: Step) -> Result<(bool, bool), Failure> {
        let path = self.repo.clone();
        let look = move || -> Result<(bool, bool), git2::Error> {
            let repo = git2::Repository::open_bare(path)?;
            let odb = repo.odb()?;
            Ok((odb.exists(step.want.into()), step.have.is_some_and(|have| odb.exists(have.into()))))
        };
        let looked = tokio::task::spawn_blocking(look).await.map_err(|error| Failure::Git(error.to_string()))?;
        looked.map_err(|error| Failure::Git(error.message().to_owned()))
    }

    async fn permit(&self, of: &Arc<Semaphore>, patience: Duration) -> Result<OwnedSemaphorePermit, Failure> {
        let permit = tokio::time::timeout(patience, of.clone().acquire_owned()).await.ok().and_then(Result::ok);
        permit.ok_or_else(|| {
            self.counts.lock().refused += 1;
            Failure::Busy
        })
    }

    fn start(&self, mut git: Command, input: Bytes, permit: OwnedSemaphorePermit) -> Result<Output, Failure> {
        let counts = self.counts.clone();
        counts.lock().processes += 1;
        git.arg(&self.repo);
        start(git, input_of(input), u64::MAX, permit, move || counts.lock().failed += 1)
    }

    fn command(&self, protocol: &str) -> Command {
        let mut git = git::command(&self.repo);
        // With a bitmap Git leaves out whatever any ancestor of `have` held, which a host that
        // started late never had.
        git.args(["-c", "pack.useBitmaps=false", "-c", "uploadpack.allowAnySHA1InWant=true"]);
        // A reader takes an answer that does not go on for a dead connection.
        git.args(["-c", "uploadpack.keepAlive=1"]);
        git.args(["upload-pack", "--strict", "--stateless-rpc"]);
        if !protocol.is_empty() {
            git.env("GIT_PROTOCOL", protocol);
        }
        git
    }

    fn most_kept(&self) -> usize {
        usize::try_from(self.limits.cache_bytes / 16).unwrap_or(usize::MAX)
    }
}

/// Git's own answer when it does not have the wanted object.
fn not_our_ref(step: Step) -> Bytes {
    let mut words = String::new();
    push_line(&mut words, &format!("ERR upload-pack: not our ref {}", step.want));
    words.into()
}

/// True when an answer is, or begins with, Git's own words of refusal.
fn refuses(answer: &[u8]) -> bool {
    let mut packets = PacketReader::default();
    packets.feed(&answer[..answer.len().min(4 << 10)]);
    std::iter::from_fn(|| packets.next().ok().flatten())
        .take(4)
        .any(|packet| matches!(packet, Packet::Data(data) if error_words(&data).is_some()))
}
