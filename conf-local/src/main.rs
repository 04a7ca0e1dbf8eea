//! The program `conf-local`: the library does the work.

use std::process::ExitCode;

use conf_core::{
    daemon::{self, Threads},
    template,
    terminal::note,
};
use conf_local::{Command, CommandLine, FileOnly, LocalAgent, RunOptions, limit_privileges};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

fn main() -> ExitCode {
    if let Some(code) = template::child().or_else(conf_local::guard) {
        return code;
    }
    let (line, file) = CommandLine::parse_all();
    match line.command {
        Command::Run(options) => run(*options, file),
        other => conf_local::run_command(other),
    }
}

fn run(options: RunOptions, file: FileOnly) -> ExitCode {
    if let Err(error) = options.common.start_logging() {
        note(format_args!("conf-local: {error}"));
        return ExitCode::from(2);
    }
    // Secrets pass through this process: it leaves no core dump, and only root may inspect it.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        note(format_args!("conf-local: cannot protect its memory from other users: {error}"));
        return ExitCode::FAILURE;
    }
    if let Err(error) = limit_privileges(&file) {
        note(format_args!("conf-local: cannot give up the capabilities that it does not need: {error}"));
        return ExitCode::FAILURE;
    }
    // conf-master has read every accepted change in time, but perhaps on a faster machine.
    template::be_patient();
    let reload = CommandLine::reload().with_certificates(&options.common.certificates);
    daemon::run(Threads::One, reload, |stop| async move {
        let agent = LocalAgent::bind(options, file).await?;
        agent.run(stop).await;
        Ok::<_, anyhow::Error>(())
    })
}
