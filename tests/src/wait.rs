//! Waiting for a state, against a deadline.

use std::{
    fs,
    io::{self, Seek as _, Write as _},
    path::Path,
    sync::{Mutex, OnceLock},
    thread,
    time::{Duration, Instant},
};

/// The longest wait for a state that must come. It is long, since a busy machine is no fault of the
/// code.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks every 20 ms until the answer is `Ok`. After [`DEADLINE`] it panics with the wanted state
/// and the last answer.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Result<T, String>) -> T {
    eventually_within(DEADLINE, what, ask)
}

/// As [`eventually`], with a deadline of its own.
pub fn eventually_within<T>(deadline: Duration, what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) if start.elapsed() > deadline => {
                panic!("waited {deadline:?} for {what}; the last state was: {last}")
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Returns what the machine took from everybody since `start`, as far as it was watched: what a
/// thread waited too long for its turn and for the disk. The watch begins with the first call.
pub fn stalled_since(start: Instant) -> Duration {
    static STALLS: OnceLock<Mutex<Vec<(Instant, Duration)>>> = OnceLock::new();
    /// What a turn and a small write to the disk may take.
    const USUAL: Duration = Duration::from_millis(150);
    let stalls = STALLS.get_or_init(|| {
        thread::spawn(|| {
            let mut file = tempfile::tempfile().expect("a file can be made");
            loop {
                let round = Instant::now();
                thread::sleep(Duration::from_millis(50));
                // Without room nothing is measured.
                let _ = file.rewind().and_then(|()| file.write_all(b"x")).and_then(|()| file.sync_all());
                if let Some(lost) = round.elapsed().checked_sub(USUAL)
                    && let Some(stalls) = STALLS.get()
                {
                    stalls.lock().expect("nobody panics with it").push((round, lost));
                }
            }
        });
        Mutex::default()
    });
    stalls.lock().expect("nobody panics with it").iter().filter(|(when, _)| *when >= start).map(|(_, lost)| *lost).sum()
}

/// Removes the folder of a killed daemon. Its Git programs may outlive it for a moment, and still
/// write there.
pub fn remove_folder(path: &Path) {
    eventually(&format!("{} to be gone", path.display()), || match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause.to_string()),
        _ => Ok(()),
    });
}
