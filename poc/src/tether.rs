//! Children that end when this process ends, in whatever way: the kernel kills them, even after `kill -9`.
//!
//! A child first runs this very program once more, which asks the kernel for that and then becomes the wanted program.
//! (Asking from between fork and exec would need unsafe code.)

use std::{
    env,
    ffi::OsStr,
    os::unix::process::CommandExt,
    process::{self, Command},
};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

const TETHERED_TO: &str = "--tethered-to";

/// A command that is tethered to this process. The kernel ties it to the *thread* that starts it: start children from
/// the main thread. It gets a process group of its own, so that Ctrl-C reaches this process alone, which then stops it.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    // Not the file's name: the file may have been built anew meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg(TETHERED_TO).arg(process::id().to_string()).arg(program).process_group(0);
    command
}

/// The first line of `main` of every program that uses [`command`]: does not return in the process on the way to
/// becoming the wanted one.
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
        // The parent is gone already, and nobody would kill what is started now.
        process::exit(1);
    }
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("cannot start {}: {error}", program.display());
    process::exit(127);
}
