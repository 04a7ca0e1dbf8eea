//! The way to the processes in which schemas are worked out: this same program, bounded in time and
//! memory.

use std::{io, num::NonZero, path::Path, thread::available_parallelism, time::Duration};

use conf_core::http::{ShareBounds, Shares};
use conf_core::sandbox::{self, NoAnswer, Worker};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::judge::effort::Effort;

/// The most memory of such a process, in bytes.
const MEMORY: u64 = 1 << 30;

/// The fewest processes of one kind at once, however few processors there are.
const FEWEST: usize = 4;
/// The processes that stay when nobody asks.
const MOST_IDLE: usize = 2;
/// Those who wait for a process: the judgements that go on at once are fewer.
const WAITING: usize = 1024;
/// What such a process does is for one push, and all others wait for less. No lower: the landing
/// thread waits for such a process too, for half a second. Source: sched(7), "The nice value".
const NICE: i32 = 5;

/// The processes that answer one kind of questions. Half of the processors work for one peer at
/// most, so that its questions keep nobody else's from being answered.
#[derive(Debug)]
pub(crate) struct Workers {
    argument: &'static str,
    idle: Mutex<Vec<Worker>>,
    places: Shares,
}

impl Workers {
    /// Makes a way to processes that begin with this argument. None is started yet.
    pub(crate) fn new(argument: &'static str) -> Self {
        let processors = available_parallelism().map_or(1, NonZero::get);
        let places = processors.max(FEWEST) as u64;
        let of_one = (processors / 2).max(1) as u64;
        let places = Shares::new(ShareBounds { places, of_one, waiting: WAITING });
        Workers { argument, idle: Mutex::default(), places }
    }

    /// Asks a process that nobody else asks now, and starts one when there is none. Waits until it
    /// is this peer's turn.
    pub(crate) fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        effort: &Effort,
        answer_bytes: usize,
        question: &Q,
    ) -> Result<A, NoAnswer> {
        let crowded = |_| NoAnswer::Failed(io::Error::other("too many wait for one"));
        let _place = self.places.take_blocking(effort.who(), 1).map_err(crowded)?;
        let mut slot = self.idle.lock().pop();
        // The running program itself, even after its file was replaced.
        let start = || Worker::start(Path::new("/proc/self/exe"), self.argument);
        let answer: Result<Told<A>, NoAnswer> = Worker::ask(&mut slot, start, effort.bounds(answer_bytes), question);
        if let Some(worker) = slot {
            let mut idle = self.idle.lock();
            if idle.len() < MOST_IDLE {
                idle.push(worker);
            }
        }
        match &answer {
            Ok(told) => effort.spend(Duration::from_micros(told.micros)),
            Err(_) if effort.is_landing() => effort.use_up(),
            Err(_) => effort.spend(Effort::of_no_answer()),
        }
        answer.map(|told| told.answer)
    }
}

/// An answer, and the processor time that it took.
#[derive(Serialize, Deserialize)]
struct Told<A> {
    micros: u64,
    answer: A,
}

/// Is such a process: answers questions until its input ends.
pub(crate) fn serve<Q: DeserializeOwned, A: Serialize>(mut answer: impl FnMut(Q) -> A) -> io::Result<()> {
    // An error leaves it as urgent as any other program.
    let _ = rustix::process::nice(NICE);
    sandbox::serve(MEMORY, |question| {
        let before = spent();
        let answer = answer(question);
        let micros = u64::try_from(spent().saturating_sub(before).as_micros()).unwrap_or(u64::MAX);
        Told { micros, answer }
    })
}

/// The processor time that this process has used.
fn spent() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}
