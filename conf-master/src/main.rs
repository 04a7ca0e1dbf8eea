//! Wires the flags to the rooms of the library.

use std::process::ExitCode;

use conf_master::{
    check, client,
    config::{Command, Flags},
    receive, repository, serve,
};
use libconf::tier::{daemon, flags, hocon};

fn main() -> ExitCode {
    if let Some(code) = hocon::child() {
        return code;
    }
    // Git's hooks take no flags, and must not fail over somebody's environment.
    let mut arguments = std::env::args().skip(1);
    if let (Some("hook"), Some(name)) = (arguments.next().as_deref(), arguments.next()) {
        return finish(receive::run_hook(&name).map(ExitCode::from));
    }
    match flags::parse::<Flags>("CONF_MASTER").command {
        Command::Init(init) => finish(repository::init(&init.repo).map(|line| {
            println!("{line}");
            let (repo, key) = (init.repo.display(), repository::key_path(&init.repo));
            eprintln!("made {repo}; its signing key is {}", key.display());
            eprintln!(
                "give every conf-slave and conf-local the line above, as a file: --trusted-key {}.pub",
                key.display()
            );
            eprintln!("next: conf-master serve --repo {repo}");
            ExitCode::SUCCESS
        })),
        Command::Serve(serve) => match serve.common.start_logging() {
            Ok(()) => daemon::run(|stop| serve::run(serve, stop)),
            Err(error) => {
                eprintln!("conf-master: {error}");
                ExitCode::from(2)
            }
        },
        Command::Check(flags) => finish(check::run(&flags.repo, &flags.refs, &flags.datacenters).map(|faults| {
            if flags.json {
                println!("{}", serde_json::to_string_pretty(&faults).unwrap_or_default());
            } else {
                for (datacenter, faults) in &faults {
                    println!("{datacenter}: {}", if faults.is_empty() { "ok" } else { "refused" });
                    for fault in faults {
                        println!("  {fault}");
                    }
                }
            }
            ExitCode::from(u8::from(faults.values().any(|faults| !faults.is_empty())))
        })),
        Command::Log(flags) => finish(client::run(client::log::run(&flags))),
        Command::Show(flags) => finish(client::run(client::show::run(&flags))),
        Command::Update(flags) => finish(client::run(client::update::run(&flags))),
        Command::Hook { name } => finish(receive::run_hook(&name).map(ExitCode::from)),
    }
}

/// An error is printed once, with its causes, and is exit code 1.
fn finish(done: anyhow::Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        eprintln!("conf-master: {error:#}");
        ExitCode::FAILURE
    })
}
