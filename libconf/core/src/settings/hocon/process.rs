//! Asks the process that reads HOCON.

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::sync::Cache;
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    sandbox::read_part,
    settings::{
        fault::{Fault, MAX_BYTES, too_deep},
        hocon::{
            reader::{self, ARGUMENT},
            scan,
        },
    },
};

/// The most bytes of an answer. Substitutions make a text longer, but not any length.
const MOST_ANSWER: usize = 4 * MAX_BYTES;

/// Seconds of processor time for one text.
static SECONDS: AtomicU64 = AtomicU64::new(5);
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
/// Two processes at once: each may use 512 MiB.
static TURNS: [Mutex<()>; 2] = [const { Mutex::new(()) }; 2];

type Outcome = Result<Value, Fault>;

/// The results of earlier texts, of at most 16 MiB and 1,000 texts: a landing looks at a component
/// once for every datacenter that runs it.
static KNOWN: LazyLock<Cache<[u8; 32], (u32, Outcome)>> = LazyLock::new(|| {
    let weight = |_: &[u8; 32], (bytes, _): &(u32, Outcome)| (*bytes).max(16 << 10);
    Cache::builder().max_capacity(16 << 20).weigher(weight).build()
});

/// Gives every text four times as long. For hosts: a text that landed must not fail there, on a
/// slower machine.
pub fn be_patient() {
    SECONDS.store(20, Ordering::Relaxed);
}

/// Names the program that reads HOCON, for a caller whose own `main` does not call
/// [`child`](crate::settings::hocon::child). The first call decides.
pub fn through(program: PathBuf) {
    let _ = PROGRAM.set(program);
}

/// Reads a text. The same text is read once; at most two are read at a time.
pub(crate) fn read(text: &str) -> Outcome {
    scan::check(text)?;
    // This crate's unit tests have no program to start, so they read the text themselves; other
    // tests cover the process.
    if cfg!(test) {
        return reader::read(text);
    }
    let key: [u8; 32] = Sha256::digest(text).into();
    if let Some((_, known)) = KNOWN.get(&key) {
        return known;
    }
    let answer = {
        let _turn = TURNS.iter().find_map(Mutex::try_lock).unwrap_or_else(|| TURNS[0].lock());
        ask(text)
    };
    match answer {
        Ok(outcome) => {
            KNOWN.insert(key, (u32::try_from(text.len()).unwrap_or(u32::MAX), outcome.clone()));
            outcome
        }
        Err(cause) if cause.kind() == io::ErrorKind::TimedOut => Err(Fault::new(
            0,
            "it takes too much memory or time to read, or grows too large; write it flatter, and with fewer substitutions",
        )),
        Err(cause) => Err(Fault::new(0, format!("no process to read HOCON with: {cause}; try again"))),
    }
}

/// Starts the process and waits for its answer. `TimedOut` means that the text takes more than the
/// bounds.
fn ask(text: &str) -> io::Result<Outcome> {
    let seconds = SECONDS.load(Ordering::Relaxed);
    // The input is a file: nobody has to write to a process that may not read.
    let mut input = File::from(memfd_create("hocon", MemfdFlags::CLOEXEC)?);
    input.write_all(text.as_bytes())?;
    input.rewind()?;
    let mut command = Command::new(PROGRAM.get().map_or("/proc/self/exe".into(), PathBuf::clone));
    command.arg0("conf-read-hocon").args([ARGUMENT, &seconds.to_string()]).env_clear().current_dir("/");
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = Process(command.spawn()?);
    let mut output = process.0.stdout.take().ok_or_else(|| io::Error::other("it was started without a pipe"))?;
    // Other programs may use the processor meanwhile.
    let deadline = Instant::now() + Duration::from_secs(4 * seconds);
    let mut answer = Vec::new();
    let mut part = vec![0; 64 << 10];
    loop {
        match read_part(&mut output, &mut part, deadline)? {
            0 => break,
            count => answer.extend_from_slice(&part[..count]),
        }
        if answer.len() > MOST_ANSWER {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    match serde_json::from_slice(&answer) {
        Ok(outcome) => Ok(outcome),
        Err(error) if error.to_string().starts_with("recursion limit") => Ok(Err(Fault::new(0, too_deep()))),
        // The kernel ended the process, or it gave up.
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// A process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
