//! `git upload-pack` over smart HTTP, behind a cache of answers.
//!
//! A step asked for by object id ([`Step`]) has one answer, whoever asks: it is computed once and
//! kept. Every other request (listings, first fetches, plain git clients) runs a process of its
//! own, within limits.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use http::StatusCode;
use libconf::name::ObjectId;
use moka::future::Cache;
use parking_lot::Mutex;
use tokio::{io::AsyncReadExt as _, sync::OnceCell};

use crate::{
    daemon::chain,
    git::{self, Step},
    git_http::{
        answer::{announced, not_our_ref, refuses, streamed, uncached, whole},
        child::{Input, Output, Received, Run, Urgency, input_of, start},
        failure::Failure,
        limits::{Counts, UploadLimits},
        part::{Narrowed, Parts, expect_second_version},
        wants::{WantCheck, has_something, wanted},
    },
    http::{self as answers, Request, Response, Share, ShareBounds, Shares, Spools, Who, counted},
    upstream::{Hops, Upstreams},
};

pub(crate) const RESULT: &str = "application/x-git-upload-pack-result";
const ADVERTISEMENT: &str = "application/x-git-upload-pack-advertisement";

/// How long an answer is remembered that nobody asks for: hosts that are not away ask within
/// seconds.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// How long a step or a listing waits until another process ends.
pub(crate) const STEP_PATIENCE: Duration = Duration::from_secs(10);
/// How long any other fetch waits until another process ends. Git's own clients wait in silence.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// 64 MiB: the most that one client says over a connection of its own, about a million lines.
const MOST_OF_CONVERSATION: u64 = 64 << 20;

/// The most requests that wait for a process.
const WAITING: usize = 1024;

/// The bytes of memory for answers to steps besides those that are remembered: for readers that
/// are still at one that is forgotten.
const BESIDE_CACHE: u64 = 64 << 20;

/// `git upload-pack` of one repository.
#[derive(Debug)]
pub struct UploadPack {
    repo: PathBuf,
    limits: UploadLimits,
    upstreams: Option<Arc<Upstreams>>,
    /// Says what nobody may have; without it, all that is here may be fetched.
    check: Option<Arc<WantCheck>>,
    /// Says what somebody reads who does not read all.
    pub(crate) parts: OnceLock<Arc<Parts>>,
    /// Answers to steps, by request.
    steps: Cache<Bytes, Bytes>,
    /// Places for steps and listings.
    pub(crate) light: Shares,
    /// Places for fetches that may be large.
    heavy: Shares,
    /// Room for requests, and for answers that their readers do not take yet.
    spools: Spools,
    /// Room for answers to steps, remembered or not.
    answers: Shares,
    /// The announcement of protocol v2. It lists what the server can do and no refs, so it stays
    /// the same while this program runs.
    announcement: OnceCell<Bytes>,
    counts: Arc<Mutex<Counts>>,
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
        UploadPack::with(repo, limits, None, None)
    }

    /// Like [`UploadPack::new`], but what `check` names is refused as if it were not here: in
    /// version 2 of its protocol Git hands out every object to whoever knows its id.
    pub fn checking(repo: PathBuf, limits: UploadLimits, check: WantCheck) -> Arc<Self> {
        UploadPack::with(repo, limits, None, Some(Arc::new(check)))
    }

    /// Like [`UploadPack::new`], but a step whose `have` is not here is relayed to these servers,
    /// and computed here only when none of them answers: a cache that was emptied would otherwise
    /// send everything to every host.
    pub fn relaying(repo: PathBuf, limits: UploadLimits, upstreams: Arc<Upstreams>) -> Arc<Self> {
        UploadPack::with(repo, limits, Some(upstreams), None)
    }

    fn with(
        repo: PathBuf,
        limits: UploadLimits,
        upstreams: Option<Arc<Upstreams>>,
        check: Option<Arc<WantCheck>>,
    ) -> Arc<Self> {
        let size = |request: &Bytes, answer: &Bytes| u32::try_from(request.len() + answer.len()).unwrap_or(u32::MAX);
        Arc::new(UploadPack {
            steps: Cache::builder().max_capacity(limits.cache_bytes).time_to_idle(FORGOTTEN).weigher(size).build(),
            light: Shares::halves(limits.processes as u64, WAITING),
            heavy: Shares::new(heavy(limits.processes)),
            spools: Spools::new(&repo),
            answers: Shares::halves(2 * (limits.cache_bytes + BESIDE_CACHE), 0),
            announcement: OnceCell::new(),
            counts: Arc::default(),
            repo,
            limits,
            upstreams,
            check,
            parts: OnceLock::new(),
        })
    }

    /// The room for bodies and answers, which the other parts of this program share.
    pub fn spools(&self) -> &Spools {
        &self.spools
    }

    /// Answers `GET info/refs?service=git-upload-pack`.
    pub async fn advertise(&self, request: Request) -> Response {
        let protocol = request.header("git-protocol").unwrap_or_default();
        let (who, part) = (request.who(), self.part_of(&request.principal));
        let advertised = async {
            part.map_or(Ok(()), |_| expect_second_version(protocol))?;
            if protocol == "version=2" {
                let compute = async { self.advertisement(protocol, who).await?.all().await };
                return Ok(whole(ADVERTISEMENT, self.announcement.get_or_try_init(|| compute).await?.clone()));
            }
            announced("git-upload-pack", ADVERTISEMENT, self.advertisement(protocol, who).await?).await
        };
        advertised.await.unwrap_or_else(|failure: Failure| failure.response())
    }

    async fn advertisement(&self, protocol: &str, who: Who) -> Result<Output, Failure> {
        let place = self.place(&self.light, who, STEP_PATIENCE).await?;
        let mut git = self.command(protocol);
        git.arg("--http-backend-info-refs");
        self.start(git, Bytes::new(), (Urgency::Usual, true), (who, place))
    }

    /// Answers `POST git-upload-pack`.
    pub async fn serve(&self, request: Request) -> Response {
        let protocol = request.header("git-protocol").unwrap_or_default().to_owned();
        let (who, principal, hops) = (request.who(), request.principal.clone(), Hops::of(&request.headers));
        let served = async {
            let mut body = self.read(request).await?;
            if body.is_empty() {
                return Err(not_of_git());
            }
            // By the rights of now: the body may have come slowly.
            if let Some(part) = self.part_of(&principal) {
                match self.narrowed(part, &protocol, body, who).await? {
                    Narrowed::Answered(answer) => return Ok(answer),
                    Narrowed::Request(request) => body = request,
                }
            }
            if let Some(id) = self.refused(&body).await? {
                return Ok(whole(RESULT, not_our_ref(id)));
            }
            match Step::parse(&body).filter(|_| protocol == "version=2") {
                Some(step) if step.have.is_some() => self.step(step, body, (who, hops)).await,
                _ => self.other(&protocol, body, who).await,
            }
        };
        served.await.unwrap_or_else(|failure| failure.response())
    }

    /// Remembers the answer to a step, byte for byte: see
    /// [`Fetched::answer`](crate::upstream::Fetched::answer).
    pub async fn prime(&self, request: Bytes, response: Bytes) {
        if response.len() <= self.most_kept()
            && let Some(share) = self.answers.try_take(Self::own(), response.len() as u64)
        {
            self.steps.insert(request, counted(response, Some(share))).await;
        }
    }

    /// Numbers of what the server has done since its start.
    pub fn counts(&self) -> Counts {
        *self.counts.lock()
    }

    /// Reads a request, decoded and bounded: the reader stops at the limit, however much the
    /// request unpacks to.
    async fn read(&self, request: Request) -> Result<Bytes, Failure> {
        let (limit, who) = (self.limits.request_bytes, request.who());
        let received = Received::of(request, limit).await?;
        let mut share = self.spools.memory(who).ok_or(Failure::Busy)?;
        let mut input = received.input().take(limit + 1);
        let mut body = BytesMut::new();
        loop {
            let before = body.len();
            body.reserve(8 << 10);
            input.read_buf(&mut body).await.map_err(|cause| Failure::Input(cause.to_string()))?;
            let more = body.len() - before;
            if body.len() as u64 > limit {
                return Err(Failure::TooLarge(limit));
            }
            if more == 0 {
                // It may become the key of an answer: without the spare room, which nobody counts.
                return Ok(counted(Bytes::copy_from_slice(&body), Some(share)));
            }
            if !share.grow(more as u64) {
                return Err(self.busy());
            }
        }
    }

    /// Starts the program that answers all of what one client asks for.
    pub(crate) fn start_conversation(&self, protocol: &str, input: Input, who: Who) -> Result<Output, Failure> {
        let mut command = self.program(protocol);
        command.args(["upload-pack", "--strict"]).arg(&self.repo);
        self.counts.lock().processes += 1;
        let run = Run { command, bounds: None, urgency: Urgency::Usual, is_list: false, held: () };
        // That a client goes away says nothing about the repository.
        start(run, input, MOST_OF_CONVERSATION, (&self.spools, who), || {})
    }

    fn busy(&self) -> Failure {
        self.counts.lock().refused += 1;
        Failure::Busy
    }

    /// This program itself, for whom answers are kept.
    fn own() -> Who {
        Who::User(rustix::process::getuid().as_raw())
    }

    /// The object that a request asks for and nobody may have. What is kept was looked at before.
    /// What Git cannot read is refused here: a failure of Git would look like damage.
    pub(crate) async fn refused(&self, request: &Bytes) -> Result<Option<ObjectId>, Failure> {
        if self.steps.contains_key(request) {
            return Ok(None);
        }
        let wanted = wanted(request).map_err(|_| not_of_git())?;
        let Some(check) = self.check.clone().filter(|_| !wanted.is_empty()) else { return Ok(None) };
        let checked = tokio::task::spawn_blocking(move || check.refused(&wanted)).await;
        checked.map_err(|error| error.to_string()).flatten().map_err(Failure::Git)
    }

    /// Answers a step from memory, or by one process for all that ask for it now.
    async fn step(&self, step: Step, request: Bytes, (who, hops): (Who, Hops)) -> Result<Response, Failure> {
        let started = Started::default();
        let mut first = false;
        if !self.steps.contains_key(&request) {
            match self.look(step).await? {
                (true, true) => {}
                (false, _) => return Ok(whole(RESULT, not_our_ref(step.want))),
                // An answer that was computed without knowing `have` is not the answer to this
                // step: it is not kept.
                (true, false) => return self.unknown_have(request, who, hops).await,
            }
        }
        let compute = async {
            first = true;
            self.compute(request.clone(), started.clone(), who).await
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
                NotKept::Large => self.other("version=2", request, who).await,
                NotKept::Refusal(words) => Ok(whole(RESULT, words.clone())),
                NotKept::Failed(failure) => Err(failure.clone()),
            },
        }
    }

    /// Runs the process for a step. Only an answer that ended well, with a pack, is kept.
    async fn compute(&self, request: Bytes, started: Started, who: Who) -> Result<Bytes, NotKept> {
        let place = self.place(&self.light, who, STEP_PATIENCE).await.map_err(NotKept::Failed)?;
        let started_now = self.start(self.command("version=2"), request, (Urgency::Usual, false), (who, place));
        let mut output = started_now.map_err(NotKept::Failed)?;
        let (mut all, mut share) = (BytesMut::new(), self.answers.try_take(Self::own(), 0));
        while let Some(part) = output.next().await {
            let part = match part {
                Ok(part) => part,
                Err(_) if refuses(&all) => return Err(NotKept::Refusal(all.freeze())),
                Err(failure) => return Err(NotKept::Failed(failure)),
            };
            let has_room = share.as_mut().is_some_and(|share| share.grow(part.len() as u64));
            all.extend_from_slice(&part);
            if all.len() > self.most_kept() || !has_room {
                *started.lock() = Some((counted(all.freeze(), share), output));
                return Err(NotKept::Large);
            }
        }
        if refuses(&all) {
            return Err(NotKept::Refusal(all.freeze()));
        }
        // What is kept has no spare room, which nobody counts.
        Ok(counted(Bytes::copy_from_slice(&all), share))
    }

    /// Answers a step from a commit that is not here.
    async fn unknown_have(&self, request: Bytes, who: Who, hops: Hops) -> Result<Response, Failure> {
        let hops = hops.one_more();
        for upstream in self.upstreams.iter().filter(|_| hops.is_some()).flat_map(|upstreams| upstreams.in_order()) {
            let patience = self.limits.relay_patience;
            let asked = tokio::time::timeout(patience, upstream.upload_pack(request.clone(), hops)).await;
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
        self.other("version=2", request, who).await
    }

    /// Answers any other request by a process of its own.
    async fn other(&self, protocol: &str, request: Bytes, who: Who) -> Result<Response, Failure> {
        let is_listing =
            protocol == "version=2" && request.get(4..).is_some_and(|line| line.starts_with(b"command=ls-refs"));
        let (places, patience) = if is_listing { (&self.light, STEP_PATIENCE) } else { (&self.heavy, START_PATIENCE) };
        let place = self.place(places, who, patience).await?;
        let urgency = if is_listing || has_something(&request) { Urgency::Usual } else { Urgency::Low };
        let mut output = self.start(self.command(protocol), request, (urgency, is_listing), (who, place))?;
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

    pub(crate) async fn place(&self, of: &Shares, who: Who, patience: Duration) -> Result<Share, Failure> {
        of.take(who, 1, patience).await.map_err(|_| self.busy())
    }

    fn start(
        &self,
        mut command: Command,
        input: Bytes,
        (urgency, is_list): (Urgency, bool),
        (who, place): (Who, Share),
    ) -> Result<Output, Failure> {
        let counts = self.counts.clone();
        counts.lock().processes += 1;
        command.arg(&self.repo);
        let run = Run { command, bounds: None, urgency, is_list, held: place };
        start(run, input_of(input), u64::MAX, (&self.spools, who), move || counts.lock().failed += 1)
    }

    /// The program that answers one request.
    fn command(&self, protocol: &str) -> Command {
        let mut git = self.program(protocol);
        git.args(["upload-pack", "--strict", "--stateless-rpc"]);
        git
    }

    /// Git with the settings of fetches.
    fn program(&self, protocol: &str) -> Command {
        let mut git = git::command(&self.repo);
        // With a bitmap Git leaves out whatever any ancestor of `have` held, which a host that
        // started late never had.
        git.args(["-c", "pack.useBitmaps=false", "-c", "uploadpack.allowAnySHA1InWant=true"]);
        // Nor does a repository's own file let clients ask for more.
        git.args(["-c", "uploadpack.allowRefInWant=false", "-c", "uploadpack.allowFilter=false"]);
        // A reader takes an answer that does not go on for a dead connection.
        git.args(["-c", "uploadpack.keepAlive=1"]);
        if !protocol.is_empty() {
            git.env("GIT_PROTOCOL", protocol);
        }
        git
    }

    fn most_kept(&self) -> usize {
        usize::try_from(self.limits.cache_bytes / 16).unwrap_or(usize::MAX)
    }
}

fn not_of_git() -> Failure {
    Failure::Input("it is no request of Git's protocol".to_owned())
}

/// The places for fetches that may be large. One peer gets as many as half of the processors, and
/// one at least: more of them at once would be no sooner done, and the others wait for them.
fn heavy(processes: usize) -> ShareBounds {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let of_one = (processors / 2).max(1).min(processes);
    ShareBounds { places: processes as u64, of_one: of_one as u64, waiting: WAITING }
}
