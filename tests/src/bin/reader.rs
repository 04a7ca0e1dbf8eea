//! A process that gets signals: prints `ready`, then for every SIGHUP a line with its time, in
//! nanoseconds of the monotonic clock, and the sequence that `current` then named.
//!
//! `reader EXPORT` handles the signal; `reader EXPORT --late` handles it only after a line on
//! standard input.

use std::{
    io::{BufRead, Write},
    path::{Path, PathBuf},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::signal::unix::{SignalKind, signal};

fn say(words: &str) {
    // Writing fails once the test is over.
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{words}");
    let _ = output.flush();
}

fn current(export: &Path) -> String {
    match std::fs::read_link(export.join("current")) {
        Ok(target) => target.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        Err(_) => "none".to_owned(),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let export = PathBuf::from(arguments.next().unwrap_or_default());
    if arguments.next().is_some() {
        say("ready");
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
    }
    let mut hangups = signal(SignalKind::hangup())?;
    say("ready");
    while hangups.recv().await.is_some() {
        let now = clock_gettime(ClockId::Monotonic);
        say(&format!("hup {}{:09} {}", now.tv_sec, now.tv_nsec, current(&export)));
    }
    Ok(())
}
