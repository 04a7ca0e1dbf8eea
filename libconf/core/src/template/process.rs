//! The processes that render.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use crate::{
    sandbox::{self, Bounds, NoAnswer, Worker},
    settings::{SettingsFault, TEMPLATE_ENDING},
    template::{
        engine,
        job::{Answer, Job, LANDING, Limits, Question, Rendering, Task},
        stand_in::{Filled, Filler, Given, NotFilled, Passages, Passed, Shape, holds_one, passes},
    },
};

/// The first argument of a program that renders templates: `<program> render-templates`.
pub const ARGUMENT: &str = "render-templates";

/// Bytes of address space of each process.
const MEMORY: u64 = 1 << 30;

static PATIENT: AtomicBool = AtomicBool::new(false);
/// There was a template to render, or to look at.
static WAS_ASKED: AtomicBool = AtomicBool::new(false);
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
/// The processes. A single caller uses the first one; with five, callers at the same time need not
/// wait for each other: in conf-master two judge pushes, two render for readers, and one lands.
static WORKERS: [Mutex<Option<Worker>>; 5] = [const { Mutex::new(None) }; 5];

/// Allows every template four times as much. For hosts.
pub fn be_patient() {
    PATIENT.store(true, Ordering::Relaxed);
}

/// Names the program that renders, for a caller whose own `main` does not call [`child`]. The first
/// call decides.
pub fn through(program: PathBuf) {
    let _ = PROGRAM.set(program);
}

/// Ends the processes that rendered something, and with them the secrets that they may still hold.
/// The next template gets a new process.
pub fn rest() {
    end(|worker| !worker.is_fresh());
}

/// Tells whether there ever was a template, so that [`prepare`] is of use.
pub fn was_asked() -> bool {
    WAS_ASKED.load(Ordering::Relaxed)
}

/// Starts a process ahead for the next template, when none runs. It waits until it is asked or
/// [`release`]d, and holds nothing. Blocks.
pub fn prepare() {
    let mut slot = slot();
    // If the start fails, the next template tries again and reports the error.
    *slot = slot.take().or_else(|| start().ok());
}

/// Ends all processes, waiting ones too.
pub fn release() {
    end(|_| true);
}

fn end(which: impl Fn(&Worker) -> bool) {
    for slot in &WORKERS {
        drop(slot.lock().take_if(|worker| which(worker)));
    }
}

/// A process that nobody else uses now; else the first one, once it is free.
fn slot() -> MutexGuard<'static, Option<Worker>> {
    WORKERS.iter().find_map(Mutex::try_lock).unwrap_or_else(|| WORKERS[0].lock())
}

/// Renders templates until its input ends, if this process was started for that. Call it first in
/// `main`, before any thread or flag.
pub fn child() -> Option<ExitCode> {
    if std::env::args_os().nth(1).is_none_or(|argument| argument != ARGUMENT) {
        return None;
    }
    Some(sandbox::serve(MEMORY, engine::answer).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS))
}

/// Renders every template among the files of a job.
pub(crate) fn render(job: Job) -> Rendering {
    let Job { files, variables, secrets } = job;
    let shapes = secrets.iter().map(|(name, given)| (name.clone(), Shape::of(given))).collect();
    let task = Task { files, variables, secrets: shapes };
    let first = task.files.keys().find(|path| path.ends_with(TEMPLATE_ENDING)).cloned();
    let limits = if PATIENT.load(Ordering::Relaxed) { LANDING.times(4) } else { LANDING };
    let refuse = |reason: String, spent: u64| {
        let file = first.clone().unwrap_or_default();
        let results = BTreeMap::from([(file.clone(), Err(SettingsFault { file, line: None, reason }))]);
        Rendering { results, spent: Duration::from_secs(spent), endless: spent > 0 }
    };
    match ask(&Question::Render(task, limits), limits.bounds()) {
        Ok(Answer::Render(rendering, passages)) => filled(rendering, passages, &secrets, limits),
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

/// Puts the secrets' values into the texts.
fn filled(
    mut rendering: Rendering,
    passages: Vec<Passed>,
    secrets: &BTreeMap<String, Given>,
    limits: Limits,
) -> Rendering {
    if !rendering.results.values().flatten().any(|made| holds_one(&made.text)) {
        return rendering;
    }
    let environment = engine::environment(&Passages::default());
    // Each byte may pass through a filter on its way.
    let most = 2 * limits.component_bytes;
    let mut filler = Filler::new(secrets, passages, most, |passed, text| engine::pass(&environment, passed, text));
    for (path, result) in &mut rendering.results {
        let Some(made) = result.as_mut().ok().filter(|made| holds_one(&made.text)) else { continue };
        let done = filler.as_mut().map_err(|why| why.clone()).and_then(|filler| filler.fill(&made.text));
        let done = done.and_then(|filled| match filled {
            Filled { text, .. } if text.len() > limits.file_bytes => Err(NotFilled::TooLong),
            // Whoever reads a secret is known to, by whatever way a stand-in came into the text.
            Filled { secrets, .. } if !secrets.is_subset(&made.secrets) => Err(NotFilled::Changed),
            Filled { text, .. } => Ok(text),
        });
        match done {
            Ok(text) => made.text.clone_from(&text),
            Err(why) => {
                let reason = match why {
                    NotFilled::Changed => format!("it changes a secret; {}", passes()),
                    NotFilled::TooLong => {
                        format!("with its secrets it makes more than {} MiB", limits.file_bytes >> 20)
                    }
                    NotFilled::Refused(why) => format!("a filter refuses a secret: {why}"),
                };
                *result = Err(SettingsFault { file: path.clone(), line: None, reason });
            }
        }
    }
    rendering
}

pub(crate) fn ask(question: &Question, bounds: Bounds) -> Result<Answer, NoAnswer> {
    // This crate's unit tests have no program to start, so they answer themselves; other tests
    // cover the process.
    if cfg!(test) {
        let copy = serde_json::to_vec(question).and_then(|text| serde_json::from_slice(&text));
        return copy.map(engine::answer).map_err(|cause| NoAnswer::Failed(cause.into()));
    }
    WAS_ASKED.store(true, Ordering::Relaxed);
    Worker::ask(&mut slot(), start, bounds, question)
}

fn start() -> io::Result<Worker> {
    Worker::start(PROGRAM.get().map_or(Path::new("/proc/self/exe"), PathBuf::as_path), ARGUMENT)
}
