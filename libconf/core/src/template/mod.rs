//! Templates: the files of a component whose names end in `.j2`, in the Jinja language.
//!
//! A template is a program of its author's: one may never end, or double a text until no memory is left. So templates are
//! rendered (`engine`) in a process of their own, which is bounded and can be ended; [`child`] is that process.

mod engine;
mod uses;
mod variables;
mod watched;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

pub(crate) use crate::template::{uses::Uses, variables::variables};
use crate::{
    sandbox as worker,
    sandbox::{Bounds, NoAnswer, Worker},
    settings::SettingsFault,
};

/// How the name of a template ends; what it becomes has the name without it.
pub const ENDING: &str = ".j2";
/// The first argument of a program that shall render templates: `<program> render-templates`.
pub const ARGUMENT: &str = "render-templates";

/// What templates may use. Of everything hosts allow four times as much as a landing: what landed must not fail there, on a
/// slower machine, or with a secret that is longer than what stood for it.
const LANDING: Limits = Limits { fuel: 2_000_000, file_bytes: 8 << 20, component_bytes: 32 << 20, seconds: 5 };
const MEMORY: u64 = 1 << 30;

/// What the templates of one component may use.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Limits {
    /// Instructions of each template, which is about what it takes in steps.
    fuel: u64,
    /// Bytes that one may come to.
    file_bytes: usize,
    /// Bytes that all of them may come to.
    component_bytes: usize,
    /// Processor time of all of them.
    seconds: u64,
}

impl Limits {
    fn times(self, factor: u32) -> Self {
        Limits {
            fuel: self.fuel * u64::from(factor),
            file_bytes: self.file_bytes * factor as usize,
            component_bytes: self.component_bytes * factor as usize,
            seconds: self.seconds * u64::from(factor),
        }
    }

    fn bounds(self) -> Bounds {
        // Others may be using the processor.
        let patience = Duration::from_secs(4 * self.seconds);
        // A byte of text is at most six in JSON.
        Bounds { seconds: self.seconds, patience, answer: 6 * self.component_bytes + (1 << 20) }
    }
}

static PATIENT: AtomicBool = AtomicBool::new(false);
/// There was a template to render, or to look at.
static WAS_ASKED: AtomicBool = AtomicBool::new(false);
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
/// The processes that render, at most: one takes turns, and where several ask at once none need wait for another's template.
static WORKERS: [Mutex<Option<Worker>>; 3] = [const { Mutex::new(None) }; 3];

/// Allows every template four times as much. For hosts.
pub fn be_patient() {
    PATIENT.store(true, Ordering::Relaxed);
}

/// Names the program that renders, for one that is none of the tiers and whose `main` does not call [`child`]. The first
/// call decides.
pub fn through(program: PathBuf) {
    let _ = PROGRAM.set(program);
}

/// Ends the processes that were asked something, and with them what they still hold of secrets. The next template gets
/// another.
pub fn rest() {
    end(|worker| !worker.is_fresh());
}

/// Starts a process for the next template ahead, where none is there and there ever was a template. It waits until it is asked
/// or [`release`]d, and holds nothing.
pub fn prepare() {
    if WAS_ASKED.load(Ordering::Relaxed) {
        let mut slot = slot();
        // Without it the next template starts its own, or says why there is none.
        *slot = slot.take().or_else(|| start().ok());
    }
}

/// Ends all processes, those that wait too.
pub fn release() {
    end(|_| true);
}

fn end(which: impl Fn(&Worker) -> bool) {
    for slot in &WORKERS {
        drop(slot.lock().unwrap_or_else(PoisonError::into_inner).take_if(|worker| which(worker)));
    }
}

/// A process that nobody else asks now; else the first one, once it is free.
fn slot() -> MutexGuard<'static, Option<Worker>> {
    let free = WORKERS.iter().find_map(|slot| match slot.try_lock() {
        Ok(slot) => Some(slot),
        Err(TryLockError::Poisoned(slot)) => Some(slot.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    });
    free.unwrap_or_else(|| WORKERS[0].lock().unwrap_or_else(PoisonError::into_inner))
}

/// Renders templates until its input ends, if that is what this process was started for. To be called first in `main`,
/// before any thread or flag.
pub fn child() -> Option<ExitCode> {
    if std::env::args_os().nth(1).is_none_or(|argument| argument != ARGUMENT) {
        return None;
    }
    Some(match worker::serve(MEMORY, engine::answer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// A secret as templates and settings get it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Given {
    Text(Zeroizing<String>),
    Certificate {
        certificate: String,
        key: Zeroizing<String>,
    },
    /// It cannot be had, for this reason.
    Not(String),
}

/// What the templates of a component are made from.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Everything that may be read, by path.
    pub(crate) files: BTreeMap<String, String>,
    /// What they can name, besides the secrets; `{"$secret": "NAME"}` in `settings` stands for that secret.
    pub(crate) variables: Map<String, Value>,
    /// Those that the component may read.
    pub(crate) secrets: BTreeMap<String, Given>,
}

/// What a template came to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) text: String,
    /// The secrets that it read.
    pub(crate) secrets: BTreeSet<String>,
}

/// By the path of the template, `.j2` included.
pub(crate) type Results = BTreeMap<String, Result<Made, SettingsFault>>;

/// What the templates of a component came to.
#[derive(Serialize, Deserialize)]
pub(crate) struct Rendering {
    pub(crate) results: Results,
    /// The processor time of all of them.
    pub(crate) spent: Duration,
    /// One of them took all that it may: with other variables it would most likely take as much again.
    pub(crate) endless: bool,
}

#[derive(Serialize, Deserialize)]
enum Question {
    Render(Job, Limits),
    Uses(BTreeMap<String, String>),
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Render(Rendering),
    Uses(Option<BTreeSet<String>>),
}

/// True when a template may read other files of its component.
pub(crate) fn names_others(text: &str) -> bool {
    ["include", "import", "extends"].iter().any(|word| text.contains(word))
}

/// Renders every template among the files of a job.
pub(crate) fn render(job: Job) -> Rendering {
    let first = job.files.keys().find(|path| path.ends_with(ENDING)).cloned();
    let limits = if PATIENT.load(Ordering::Relaxed) { LANDING.times(4) } else { LANDING };
    let refuse = |reason: String, spent: u64| {
        let file = first.clone().unwrap_or_default();
        let results = BTreeMap::from([(file.clone(), Err(SettingsFault { file, line: None, reason }))]);
        Rendering { results, spent: Duration::from_secs(spent), endless: spent > 0 }
    };
    match ask(&Question::Render(job, limits), limits.bounds()) {
        Ok(Answer::Render(rendering)) => rendering,
        Ok(Answer::Uses(_)) => refuse("it was not answered; try again".to_owned(), 0),
        Err(NoAnswer::TooMuch) => refuse(
            "this component's templates take more time or memory than there is; is there a loop that never ends, or a text \
             that doubles at each step?"
                .to_owned(),
            limits.seconds,
        ),
        Err(NoAnswer::Failed(cause)) => refuse(format!("no process to render it in: {cause}; try again"), 0),
    }
}

fn ask(question: &Question, bounds: Bounds) -> Result<Answer, NoAnswer> {
    // This crate's own unit tests are no program that could be started so; the others test the process.
    if cfg!(test) {
        let copy = serde_json::to_vec(question).and_then(|text| serde_json::from_slice(&text));
        return copy.map(engine::answer).map_err(|cause| NoAnswer::Failed(cause.into()));
    }
    WAS_ASKED.store(true, Ordering::Relaxed);
    Worker::ask(&mut slot(), start, bounds, question)
}

fn start() -> io::Result<Worker> {
    let program = PROGRAM.get().map_or(Path::new("/proc/self/exe"), PathBuf::as_path);
    Worker::start(program, ARGUMENT)
}
