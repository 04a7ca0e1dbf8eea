//! Serving Git over smart HTTP: `git upload-pack` behind a cache of answers.

use std::{
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use http::StatusCode;
use moka::future::Cache;
use tokio::{
    io::AsyncReadExt as _,
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore},
};

use crate::{
    git::{self, Packet, PacketReader, Step, error_words, push_line},
    git_http::{
        answer::{announced, busy, streamed, uncached},
        child::{Failure, Output, decoded, start, whole},
    },
    http::{self as answers, Request, Response},
    upstream::Upstreams,
};

const RESULT: &str = "application/x-git-upload-pack-result";

/// A step waits so long for a process of another to end, and a first fetch so long.
const STEP_PATIENCE: Duration = Duration::from_secs(10);

const START_PATIENCE: Duration = Duration::from_secs(1);

/// Bounds of a server.
#[derive(Clone, Debug)]
pub struct UploadLimits {
    /// Bytes of remembered answers; one answer is remembered up to a sixteenth of it.
    pub cache_bytes: u64,
    /// `upload-pack` processes at once, for steps and listings and, counted apart, for all other fetches.
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
    /// For steps and listings.
    light: Arc<Semaphore>,
    /// For what may be large.
    heavy: Arc<Semaphore>,
    /// Protocol v2 announces what the server can do, and no refs: the same for as long as this program runs.
    announcement: OnceCell<Bytes>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    cached: AtomicU64,
    processes: AtomicU64,
    refused: AtomicU64,
    relayed: AtomicU64,
    failed: Arc<AtomicU64>,
}

/// What a server has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests answered from memory, by waiting for another's process included.
    pub cached: u64,
    /// Processes started.
    pub processes: u64,
    /// Requests turned away with 503.
    pub refused: u64,
    /// Requests relayed upstream.
    pub relayed: u64,
    /// Processes that failed, though they were asked for what is here: the repository may be damaged.
    pub failed: u64,
}

/// Why there is no answer to keep.
#[derive(Debug)]
enum NotKept {
    /// Too large: it is streamed to whoever started it.
    Large,
    /// Refused by Git, in an answer of its own.
    Said(Bytes),
    Failed(Failure),
    Busy,
}

/// Where an asker finds what it started, when that became too large to keep.
type Started = Arc<Mutex<Option<(Bytes, Output)>>>;

impl UploadPack {
    /// Serves `repo`.
    pub fn new(repo: PathBuf, limits: UploadLimits) -> Arc<Self> {
        UploadPack::with(repo, limits, None)
    }

    /// Like [`UploadPack::new`], but a step whose `have` is not here is relayed to these servers, and computed here only
    /// when none of them answers: a cache that was emptied would otherwise send everything to every host.
    pub fn relaying(repo: PathBuf, limits: UploadLimits, upstreams: Arc<Upstreams>) -> Arc<Self> {
        UploadPack::with(repo, limits, Some(upstreams))
    }

    fn with(repo: PathBuf, limits: UploadLimits, upstreams: Option<Arc<Upstreams>>) -> Arc<Self> {
        let size = |request: &Bytes, answer: &Bytes| u32::try_from(request.len() + answer.len()).unwrap_or(u32::MAX);
        Arc::new(UploadPack {
            steps: Cache::builder().max_capacity(limits.cache_bytes).weigher(size).build(),
            light: Arc::new(Semaphore::new(limits.processes)),
            heavy: Arc::new(Semaphore::new(limits.processes)),
            announcement: OnceCell::new(),
            counters: Counters::default(),
            repo,
            limits,
            upstreams,
        })
    }

    /// Answers `GET info/refs?service=git-upload-pack`.
    pub async fn advertise(&self, request: Request) -> Response {
        let protocol = request.header("git-protocol").unwrap_or_default();
        let is_v2 = protocol == "version=2";
        if let Some(known) = self.announcement.get().filter(|_| is_v2) {
            return uncached(answers::bytes_of(
                StatusCode::OK,
                "application/x-git-upload-pack-advertisement",
                known.clone(),
            ));
        }
        let Some(permit) = self.permit(&self.light, STEP_PATIENCE).await else { return busy() };
        let mut git = self.command(protocol);
        git.arg("--http-backend-info-refs").arg(&self.repo);
        let mut output = match self.start(git, Bytes::new(), permit) {
            Ok(output) => output,
            Err(failure) => return failure.response(),
        };
        if !is_v2 {
            return announced("git-upload-pack", output).await;
        }
        let mut all = BytesMut::new();
        while let Some(part) = output.next().await {
            match part {
                Ok(part) => all.extend_from_slice(&part),
                Err(failure) => return failure.response(),
            }
        }
        let known = self.announcement.get_or_init(|| async { all.freeze() }).await.clone();
        uncached(answers::bytes_of(StatusCode::OK, "application/x-git-upload-pack-advertisement", known))
    }

    /// Answers `POST git-upload-pack`.
    pub async fn serve(&self, request: Request) -> Response {
        let protocol = request.header("git-protocol").unwrap_or_default().to_owned();
        let body = match self.read(request).await {
            Ok(body) => body,
            Err(failure) => return failure.response(),
        };
        match Step::parse(&body).filter(|_| protocol == "version=2") {
            Some(step) if step.have.is_some() => self.step(step, body).await,
            _ => self.other(&protocol, body).await,
        }
    }

    /// Remembers the answer to a step, byte for byte: see [`crate::upstream::fetch::Fetched::answer`].
    pub async fn prime(&self, request: Bytes, response: Bytes) {
        if response.len() <= self.most_kept() {
            self.steps.insert(request, response).await;
        }
    }

    /// What it has done since its start.
    pub fn counts(&self) -> Counts {
        let Counters { cached, processes, refused, relayed, failed } = &self.counters;
        Counts {
            cached: cached.load(Relaxed),
            processes: processes.load(Relaxed),
            refused: refused.load(Relaxed),
            relayed: relayed.load(Relaxed),
            failed: failed.load(Relaxed),
        }
    }

    /// Reads a request, decoded and bounded: what unpacks to more than the limit is refused on the way.
    async fn read(&self, request: Request) -> Result<Bytes, Failure> {
        let limit = self.limits.request_bytes;
        let mut input = decoded(request)?.take(limit + 1);
        let mut body = Vec::new();
        input.read_to_end(&mut body).await.map_err(|cause| Failure::Input(cause.to_string()))?;
        if body.len() as u64 > limit { Err(Failure::TooLarge(limit)) } else { Ok(body.into()) }
    }

    /// A step: from memory, or by one process for all who ask for it now.
    async fn step(&self, step: Step, request: Bytes) -> Response {
        let started = Started::default();
        let mut first = false;
        if !self.steps.contains_key(&request) {
            match self.look(step).await {
                Ok((true, true)) => {}
                Ok((false, _)) => return said(not_our_ref(step)),
                // An answer that was computed without knowing `have` is not the answer to this step: it is not kept.
                Ok((true, false)) => return self.unknown_have(request).await,
                Err(words) => return Failure::Git(words).response(),
            }
        }
        let compute = async {
            first = true;
            self.compute(request.clone(), started.clone()).await
        };
        let kept = self.steps.try_get_with(request.clone(), compute).await;
        if !first {
            self.counters.cached.fetch_add(1, Relaxed);
        }
        let mine = started.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (kept, mine) {
            (Ok(answer), _) => uncached(answers::bytes_of(StatusCode::OK, RESULT, answer)),
            (Err(_), Some((head, output))) => streamed(RESULT, [head, Bytes::new()], output),
            (Err(reason), None) => match &*reason {
                NotKept::Large => self.other("version=2", request).await,
                NotKept::Said(words) => said(words.clone()),
                NotKept::Failed(failure) => failure.response(),
                NotKept::Busy => busy(),
            },
        }
    }

    /// Runs the process for a step; only an answer that ended well, with a pack, is kept.
    async fn compute(&self, request: Bytes, started: Started) -> Result<Bytes, NotKept> {
        let permit = self.permit(&self.light, STEP_PATIENCE).await.ok_or(NotKept::Busy)?;
        let mut output = self.run("version=2", request, permit).map_err(NotKept::Failed)?;
        let mut all = BytesMut::new();
        while let Some(part) = output.next().await {
            match part {
                Ok(part) => all.extend_from_slice(&part),
                Err(_) if refuses(&all) => return Err(NotKept::Said(all.freeze())),
                Err(failure) => return Err(NotKept::Failed(failure)),
            }
            if all.len() > self.most_kept() {
                *started.lock().unwrap_or_else(PoisonError::into_inner) = Some((all.freeze(), output));
                return Err(NotKept::Large);
            }
        }
        if refuses(&all) { Err(NotKept::Said(all.freeze())) } else { Ok(all.freeze()) }
    }

    /// A step from a commit that is not here.
    async fn unknown_have(&self, request: Bytes) -> Response {
        let upstreams = self.upstreams.as_ref().map(|upstreams| upstreams.in_order()).unwrap_or_default();
        for one in upstreams {
            match one.upload_pack(request.clone()).await {
                Ok(answer) => {
                    self.counters.relayed.fetch_add(1, Relaxed);
                    return uncached(answers::stream(StatusCode::OK, RESULT, answer.bytes_stream().map_err(Box::new)));
                }
                Err(error) => tracing::warn!(%error, "a step from an unknown commit could not be relayed"),
            }
        }
        self.other("version=2", request).await
    }

    /// Anything else: a process for itself.
    async fn other(&self, protocol: &str, request: Bytes) -> Response {
        let is_listing =
            protocol == "version=2" && request.get(4..).is_some_and(|line| line.starts_with(b"command=ls-refs"));
        let permit = if is_listing {
            self.permit(&self.light, STEP_PATIENCE).await
        } else {
            self.permit(&self.heavy, START_PATIENCE).await
        };
        let Some(permit) = permit else { return busy() };
        let mut output = match self.run(protocol, request, permit) {
            Ok(output) => output,
            Err(failure) => return failure.response(),
        };
        match output.next().await {
            Some(Err(failure)) => failure.response(),
            // Git's own words of refusal must arrive, though it ends with an error: so they end the answer.
            Some(Ok(head)) if refuses(&head) => said(head),
            Some(Ok(head)) => streamed(RESULT, [head, Bytes::new()], output),
            None => said(Bytes::new()),
        }
    }

    /// Whether what a step wants, and what it has, is here.
    async fn look(&self, step: Step) -> Result<(bool, bool), String> {
        let path = self.repo.clone();
        let look = move || -> Result<(bool, bool), git2::Error> {
            let repo = git2::Repository::open_bare(path)?;
            let odb = repo.odb()?;
            let has = |id: Option<libconf::name::CommitId>| id.is_some_and(|id| odb.exists(id.into()));
            Ok((has(Some(step.want)), has(step.have)))
        };
        let looked = tokio::task::spawn_blocking(look).await.map_err(|error| error.to_string())?;
        looked.map_err(|error| error.message().to_owned())
    }

    async fn permit(&self, of: &Arc<Semaphore>, patience: Duration) -> Option<OwnedSemaphorePermit> {
        let permit = tokio::time::timeout(patience, of.clone().acquire_owned()).await.ok().and_then(Result::ok);
        if permit.is_none() {
            self.counters.refused.fetch_add(1, Relaxed);
        }
        permit
    }

    fn run(&self, protocol: &str, request: Bytes, permit: OwnedSemaphorePermit) -> Result<Output, Failure> {
        let mut git = self.command(protocol);
        git.arg(&self.repo);
        self.start(git, request, permit)
    }

    fn start(&self, git: Command, input: Bytes, permit: OwnedSemaphorePermit) -> Result<Output, Failure> {
        self.counters.processes.fetch_add(1, Relaxed);
        start(git, whole(input), u64::MAX, permit, self.counters.failed.clone())
            .map_err(|cause| Failure::Git(cause.to_string()))
    }

    fn command(&self, protocol: &str) -> Command {
        let mut git = git::command(&self.repo);
        // With a bitmap Git leaves out whatever any ancestor of `have` held, which a host that started late never had.
        git.args(["-c", "pack.useBitmaps=false", "-c", "uploadpack.allowAnySHA1InWant=true"]);
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

fn said(words: Bytes) -> Response {
    uncached(answers::bytes_of(StatusCode::OK, RESULT, words))
}

/// What Git answers when it does not have what is wanted.
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
