//! The command line, and what each command does.

pub(crate) mod supposed;
pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod flags;

use std::{future::Future, path::Path, process::ExitCode};

use conf_core::{
    daemon::{
        self, Reload, Threads, chain,
        flags::{self as daemon_flags, NoExtra, parse},
    },
    template,
    terminal::{note, print},
};

use crate::cli::client::{
    credential, doc, explain, key, log, plan, policy, promote, secret, show, token, update, wait, whereabouts,
};
use crate::cli::flags::{Command, InitFlags, MasterFlags};
use crate::hooks::{forced, run_hook};
use crate::judge::compatibility::worker as compatibility_worker;
use crate::judge::schema::worker as schema_worker;
use crate::server::ServeFlags;
use crate::store::unreachable;
use crate::{backup, import, server, standby, store};

/// The beginning of the names of environment variables.
const PREFIX: &str = "CONF_MASTER";

/// Does what the command line says; returns the exit code.
pub fn main() -> ExitCode {
    if let Some(code) = template::child() {
        return code;
    }
    // Hooks and workers take no flags, so that no variable of their environment can make them fail.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let success = |()| ExitCode::SUCCESS;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [unreachable::ARGUMENT, repo] => return finish(unreachable::run(Path::new(repo)).map(success)),
        ["hook", name] => return finish(run_hook(name).map(ExitCode::from)),
        [schema_worker::ARGUMENT] => return finish(schema_worker::run().map(success).map_err(Into::into)),
        [compatibility_worker::ARGUMENT] => {
            return finish(compatibility_worker::run().map(success).map_err(Into::into));
        }
        _ => {}
    }
    let command = parse::<MasterFlags>(PREFIX).command;
    match &command {
        Command::Init(_) | Command::Restore(_) => daemon::fix_umask(None),
        Command::Serve(flags) => daemon::fix_umask(Some(&flags.repo)),
        _ => {}
    }
    match command {
        Command::Init(flags) => finish(init(&flags)),
        Command::Serve(flags) => match flags.common.start_logging() {
            Ok(()) => daemon::run(Threads::PerProcessor, reload(&flags), |stop| server::run(*flags, stop)),
            Err(error) => {
                note(format_args!("conf-master: {error}"));
                ExitCode::from(2)
            }
        },
        Command::Backup(flags) => finish(backup::run(&flags)),
        Command::Restore(flags) => finish(block_on(backup::restore(&flags))),
        Command::Promote(flags) => finish(promote::run(&flags)),
        Command::Check(flags) => finish(check::run(&flags)),
        Command::Import(flags) => finish(import::run(&flags)),
        Command::Log(flags) => finish(block_on(log::run(&flags))),
        Command::Show(flags) => finish(block_on(show::run(&flags))),
        Command::Update(flags) => finish(block_on(update::run(&flags))),
        Command::Wait(flags) => finish(block_on(wait::run(&flags))),
        Command::Plan(flags) => finish(block_on(plan::run(&flags))),
        Command::Explain(flags) => finish(block_on(explain::run(&flags))),
        Command::Doc(flags) => finish(block_on(doc::run(&flags))),
        Command::Where(flags) => finish(block_on(whereabouts::run(&flags))),
        Command::Policy(flags) => finish(block_on(policy::run(&flags))),
        Command::Secret(flags) => finish(block_on(secret::run(&flags))),
        Command::Token(flags) => finish(block_on(token::run(&flags))),
        Command::Key(flags) => finish(key::run(&flags)),
        Command::Credential(flags) => finish(credential::run(&flags)),
        Command::Receive(flags) => finish(forced::run(&flags).map(|()| ExitCode::SUCCESS)),
        Command::Hook { name } => finish(run_hook(&name).map(ExitCode::from)),
    }
}

/// Returns the command line with its environment variables, for those who describe it.
pub fn described() -> clap::Command {
    daemon_flags::described::<MasterFlags>(PREFIX)
}

/// Returns the way to read the options of `serve` again.
fn reload(flags: &ServeFlags) -> Reload {
    let options = Reload::new::<MasterFlags, NoExtra>(PREFIX, &[]);
    let identity = store::identity_path(&flags.repo);
    let options = options.with_certificates(&flags.common.certificates);
    options.with_file("the signing key", store::key_path(&flags.repo)).with_file("the key for secrets", identity)
}

/// Makes the repository, and says how to go on.
fn init(flags: &InitFlags) -> anyhow::Result<ExitCode> {
    if let Some(leader) = &flags.standby.follow {
        let made = async { standby::init(&flags.repo, leader, &flags.standby).await.map(|()| ExitCode::SUCCESS) };
        return block_on(made);
    }
    print(store::init(&flags.repo)?)?;
    let (repo, key) = (flags.repo.display(), store::key_path(&flags.repo));
    let key = key.display();
    note(format_args!("made {repo}; its signing key is {key}"));
    let token = store::token_path(&flags.repo);
    note(format_args!("the token of the first administrator is in {}; it opens everything", token.display()));
    note(format_args!("give every conf-slave and conf-local the line above, as a file: --trusted-key {key}.pub"));
    note(format_args!("next: conf-master serve --repo {repo}"));
    Ok(ExitCode::SUCCESS)
}

/// Runs a client command to its end.
fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// Prints an error once, with its causes; its exit code is 1.
fn finish(done: anyhow::Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        note(format_args!("conf-master: {}", chain(&*error)));
        ExitCode::FAILURE
    })
}
