//! What the machine takes for the parts that nobody can leave out.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use tests::figures::Spread;

/// The time of one fsync of a new small file.
pub(crate) fn fsync(folder: &Path, times: usize) -> Spread {
    let took: Vec<Duration> = (0..times)
        .map(|number| {
            let path = folder.join(format!("floor-{number}"));
            let began = Instant::now();
            let mut file = File::create(&path).expect("the folder can be written");
            file.write_all(&[b'x'; 4096]).and_then(|()| file.sync_all()).expect("the file can be written");
            began.elapsed()
        })
        .collect();
    Spread::of_times(&took)
}

/// The time from the start to the end of the smallest program.
pub(crate) fn spawn(times: usize) -> Spread {
    took_by(times, || Command::new("true"))
}

/// The time from the start to the end of `git version`.
pub(crate) fn git(times: usize) -> Spread {
    took_by(times, || {
        let mut git = Command::new("git");
        git.arg("version").stdout(std::process::Stdio::null());
        git
    })
}

fn took_by(times: usize, command: impl Fn() -> Command) -> Spread {
    let took: Vec<Duration> = (0..times)
        .map(|_| {
            let began = Instant::now();
            assert!(command().status().expect("the program can be started").success());
            began.elapsed()
        })
        .collect();
    Spread::of_times(&took)
}
