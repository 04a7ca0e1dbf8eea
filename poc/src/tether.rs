//! Children that end when this process ends, however it ends: the kernel kills them, even after
//! `kill -9`.
//!
//! A child first runs this program once more, which asks the kernel for that and then becomes the
//! wanted program. (To ask between fork and exec would need unsafe code.)

use std::{
    env,
    ffi::OsStr,
    os::unix::process::CommandExt,
    process::{self, Command},
};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

const TETHERED_TO: &str = "--tethered-to";

/// Makes a command that is tethered to this process. The kernel ties it to the *thread* that starts
/// it: start children from the main thread. It gets a process group of its own, so that Ctrl-C
/// reaches this process alone, which then stops it.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    // Not by the file's name: a build may have replaced the file meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg(TETHERED_TO).arg(process::id().to_string()).arg(program).process_group(0);
    command
}

/// Becomes the wanted program if this process was started by [`command`], and does not return then.
/// The first line of `main` of every program that uses [`command`].
pub fn obey() {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(TETHERED_TO)) {
        return;
    }
    let parent = arguments.next().and_then(|pid| Pid::from_raw(pid.to_str()?.parse().ok()?));
    let Some(program) = arguments.next() else {
        process::exit(2);
    };
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() || getppid() != parent {
        // The parent is gone already, so the kernel would never kill the program.
        process::exit(1);
    }
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("cannot start {}: {error}", program.display());
    process::exit(127);
}
