//! Asks the process that reads HOCON.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::settings::{
    fault::{Fault, MAX_BYTES, too_deep},
    hocon::{
        reader::{self, ARGUMENT, Answer},
        scan,
    },
};

/// Each may use 512 MiB.
const AT_ONCE: usize = 2;

/// Substitutions make more of less, but not any amount.
const MOST_ANSWER: u64 = 4 * MAX_BYTES as u64;

/// Results that are remembered, and the bytes of text that they may have been.
const REMEMBERED: (usize, usize) = (1_000, 16 << 20);

/// Seconds of processor time.
static SECONDS: AtomicU64 = AtomicU64::new(5);

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Gives every text four times as long. For hosts: what landed must not fail there, on a slower machine.
pub fn be_patient() {
    SECONDS.store(20, Ordering::Relaxed);
}

/// Names the program that reads HOCON, for one that is none of the tiers and whose `main` does not call [`child`]. The
/// first call decides.
pub fn through(program: PathBuf) {
    let _ = PROGRAM.set(program);
}

/// Reads a text. The same text is read once; at most two are read at a time.
pub(crate) fn read(text: &str) -> Result<Value, Fault> {
    scan::check(text)?;
    // This crate's own unit tests are no program that could be started so; the others test the process.
    if cfg!(test) {
        return reader::read(text);
    }
    let key: [u8; 32] = Sha256::digest(text).into();
    if let Some(known) = Memory::lock(|memory| memory.results.get(&key).cloned()) {
        return known;
    }
    let answer = {
        let _turn = Turn::wait();
        ask(text)
    };
    match answer {
        Ok(Some(answer)) => {
            let result: Result<Value, Fault> = answer.into();
            Memory::lock(|memory| memory.remember(key, text.len(), result.clone()));
            result
        }
        Ok(None) => Err(Fault::new(0, TOO_MUCH)),
        Err(cause) => Err(Fault::new(0, format!("no process to read HOCON with: {cause}; try again"))),
    }
}

const TOO_MUCH: &str =
    "it takes too much memory or time to read, or grows too large; write it flatter, and with fewer substitutions";

/// Starts the process and waits for it; nothing when it did not get to an answer.
fn ask(text: &str) -> io::Result<Option<Answer>> {
    let seconds = SECONDS.load(Ordering::Relaxed);
    // A file: nobody has to write to a process that may not read.
    let mut input = File::from(memfd_create("hocon", MemfdFlags::CLOEXEC)?);
    input.write_all(text.as_bytes())?;
    input.rewind()?;
    let program = PROGRAM.get().map_or("/proc/self/exe".into(), PathBuf::clone);
    let mut command = Command::new(program);
    command.arg0("conf-read-hocon").args([ARGUMENT, &seconds.to_string()]).env_clear().current_dir("/");
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = Process(command.spawn()?);
    let output = process.0.stdout.take().ok_or_else(|| io::Error::other("it was started without a pipe"))?;
    // Others may be using the processor.
    let answer = read_until(output, Instant::now() + Duration::from_secs(4 * seconds))?;
    Ok(match answer {
        Some(answer) => match serde_json::from_slice(&answer) {
            Ok(answer) => Some(answer),
            Err(error) if error.to_string().starts_with("recursion limit") => Some(Answer::Fault(0, too_deep())),
            Err(_) => None,
        },
        None => None,
    })
}

/// All that comes until the end; nothing when it comes too late or is too much.
fn read_until(mut output: ChildStdout, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut answer = Vec::new();
    let mut part = vec![0; 64 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(cause) => return Err(cause.into()),
        }
        let count = output.read(&mut part)?;
        if count == 0 {
            return Ok(Some(answer));
        }
        answer.extend_from_slice(&part[..count]);
        if answer.len() as u64 > MOST_ANSWER {
            return Ok(None);
        }
    }
}

/// Ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The right to have a process.
struct Turn;

static TURNS: (Mutex<usize>, Condvar) = (Mutex::new(AT_ONCE), Condvar::new());

impl Turn {
    fn wait() -> Self {
        let left = TURNS.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = TURNS.1.wait_while(left, |left| *left == 0).unwrap_or_else(PoisonError::into_inner);
        *left -= 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TURNS.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        TURNS.1.notify_one();
    }
}

/// What was read before: a landing looks at a component once for every datacenter that runs it.
#[derive(Default)]
struct Memory {
    results: HashMap<[u8; 32], Result<Value, Fault>>,
    /// The oldest first, with the bytes of its text.
    order: VecDeque<([u8; 32], usize)>,
    bytes: usize,
}

impl Memory {
    fn lock<T>(work: impl FnOnce(&mut Memory) -> T) -> T {
        static MEMORY: Mutex<Option<Memory>> = Mutex::new(None);
        work(MEMORY.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
    }

    fn remember(&mut self, key: [u8; 32], bytes: usize, result: Result<Value, Fault>) {
        if self.results.insert(key, result).is_some() {
            return;
        }
        self.order.push_back((key, bytes));
        self.bytes += bytes;
        while self.order.len() > REMEMBERED.0 || self.bytes > REMEMBERED.1 {
            let Some((oldest, bytes)) = self.order.pop_front() else { return };
            self.results.remove(&oldest);
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut memory = Memory::default();
        for at in 0..3_000_u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&at.to_be_bytes());
            memory.remember(key, 10_000, Ok(Value::Null));
            memory.remember(key, 10_000, Ok(Value::Null));
        }
        assert_eq!((memory.results.len(), memory.order.len(), memory.bytes), (1_000, 1_000, 10_000_000));
        memory.remember([9; 32], REMEMBERED.1, Ok(Value::Null));
        assert_eq!((memory.results.len(), memory.bytes), (1, REMEMBERED.1));
    }
}
