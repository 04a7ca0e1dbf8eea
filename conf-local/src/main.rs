//! conf-local: see the library.

use std::process::ExitCode;

use conf_core::{daemon, settings::hocon, template};
use conf_local::{
    agent::LocalAgent,
    cli as client,
    cli::config::{Command, CommandLine, FileOnly, RunOptions},
    process::guardian,
};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

fn main() -> ExitCode {
    if let Some(code) = hocon::child().or_else(template::child).or_else(guardian::child) {
        return code;
    }
    let (line, file) = CommandLine::parse_all();
    match line.command {
        Command::Run(options) => run(*options, file),
        other => client::run(other),
    }
}

fn run(options: RunOptions, file: FileOnly) -> ExitCode {
    if let Err(error) = options.common.start_logging() {
        eprintln!("conf-local: {error}");
        return ExitCode::from(2);
    }
    // Secrets pass through this process: it leaves no core, and only root may look into it.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        eprintln!("conf-local: cannot keep its memory to itself: {error}");
        return ExitCode::FAILURE;
    }
    // What landed was read in time by conf-master, perhaps on a faster machine.
    hocon::be_patient();
    template::be_patient();
    daemon::run(|stop| async move {
        let agent = LocalAgent::bind(options, file).await?;
        match agent.address() {
            Some(address) => daemon::ready(address),
            None => daemon::ready_on_socket(&agent.socket()),
        }
        agent.run(stop).await;
        Ok::<_, anyhow::Error>(())
    })
}
