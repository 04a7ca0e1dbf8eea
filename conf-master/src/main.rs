//! Wires the flags to the rooms of the library.

use std::process::ExitCode;

use conf_core::{
    daemon::{self, flags},
    settings::hocon,
    template,
};
use conf_master::{
    cli::{
        check, client,
        config::{Command, Flags},
    },
    hooks as receive, import,
    judge::{compatibility, schema},
    server as serve, store as repository,
};

fn main() -> ExitCode {
    if let Some(code) = hocon::child().or_else(template::child) {
        return code;
    }
    // Git's hooks take no flags, and must not fail over somebody's environment.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["hook", name] => return finish(receive::run_hook(name).map(ExitCode::from)),
        [schema::WORKER] => return finish(schema::run_worker().map(|()| ExitCode::SUCCESS).map_err(Into::into)),
        [compatibility::WORKER] => {
            return finish(compatibility::run_worker().map(|()| ExitCode::SUCCESS).map_err(Into::into));
        }
        _ => {}
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
        Command::Check(flags) => finish(check::run(&flags)),
        Command::Import(flags) => finish(import::run(&flags)),
        Command::Log(flags) => finish(client::run(client::log::run(&flags))),
        Command::Show(flags) => finish(client::run(client::show::run(&flags))),
        Command::Update(flags) => finish(client::run(client::update::run(&flags))),
        Command::Wait(flags) => finish(client::run(client::wait::run(&flags))),
        Command::Plan(flags) => finish(client::run(client::plan::run(&flags))),
        Command::Explain(flags) => finish(client::run(client::explain::run(&flags))),
        Command::Doc(flags) => finish(client::run(client::doc::run(&flags))),
        Command::Secret(flags) => finish(client::run(client::secret::run(&flags))),
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
