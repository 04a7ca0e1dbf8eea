//! Children that end when this process ends, however it ends: the kernel kills them, even after
//! `kill -9`.
//!
//! A child first runs this program once more, which asks the kernel for that and then becomes the
//! wanted program. (To ask between fork and exec would need unsafe code.)

use std::{
    env,
    ffi::OsStr,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    process::{self, Command, ExitCode},
};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

const TETHERED_TO: &str = "--tethered-to";

/// Makes a command that is tethered to this process, without the user's settings for git and the
/// programs of conf. The kernel ties it to the *thread* that starts it: start children from the
/// main thread. It gets a process group of its own, so that Ctrl-C reaches this process alone,
/// which then stops it.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    // Not by the file's name: a build may have replaced the file meanwhile.
    let mut command = Command::new("/proc/self/exe");
    for (name, _) in env::vars_os() {
        if ["CONF_", "GIT_"].iter().any(|prefix| name.as_bytes().starts_with(prefix.as_bytes())) {
            command.env_remove(&name);
        }
    }
    command.arg(TETHERED_TO).arg(process::id().to_string()).arg(program).process_group(0);
    command
}

/// Runs a program to its end. Prints an error with its causes, and returns the exit code.
pub fn run(name: &str, work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    // One thread: children are tethered to the thread that starts them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(work));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
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
