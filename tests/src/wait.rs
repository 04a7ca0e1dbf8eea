//! Waiting for a state, against a deadline.

use std::{
    fs, io,
    path::Path,
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

/// Removes the folder of a killed daemon. Its Git programs may outlive it for a moment, and still
/// write there.
pub fn remove_folder(path: &Path) {
    eventually(&format!("{} to be gone", path.display()), || match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause.to_string()),
        _ => Ok(()),
    });
}
