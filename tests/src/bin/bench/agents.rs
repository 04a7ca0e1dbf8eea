//! Many agents in one process, by the code of conf-local itself.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser as _};
use conf_local::{Command, CommandLine, FileOnly, LocalAgent};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What all agents of a process share.
#[derive(Clone, Debug, Args)]
pub(crate) struct Agents {
    /// The number of the first host.
    #[arg(long)]
    pub(crate) first: usize,
    /// The number of hosts.
    #[arg(long)]
    pub(crate) count: usize,
    /// The folder for the state of all of them.
    #[arg(long)]
    pub(crate) folder: PathBuf,
    /// The options of `conf-local run`, without the name, the state and the socket of a host.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

/// Runs the agents until the process is ended. Each prints a line `ready …` once it has exported.
pub(crate) fn run(agents: &Agents) -> ExitCode {
    // Each agent holds some dozen connections and files.
    let most = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be built");
    let done = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for number in agents.first..agents.first + agents.count {
            let agent = LocalAgent::bind(*of_host(agents, number)?, FileOnly::default()).await?;
            tasks.spawn(agent.run(CancellationToken::new()));
        }
        tasks.join_all().await;
        Ok::<_, Box<dyn std::error::Error>>(())
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench agents: {error}");
            ExitCode::FAILURE
        }
    }
}

fn of_host(agents: &Agents, number: usize) -> Result<Box<conf_local::RunOptions>, Box<dyn std::error::Error>> {
    let folder = agents.folder.join(format!("web-{number}"));
    std::fs::create_dir_all(&folder)?;
    let path = |name: &str| folder.join(name).display().to_string();
    let words = ["conf-local", "run", "--ready", "exported", "--host"].map(str::to_owned).into_iter();
    let words = words.chain([
        format!("web-{number}"),
        "--state".to_owned(),
        path("state"),
        "--socket".to_owned(),
        path("socket"),
    ]);
    let line = CommandLine::try_parse_from(words.chain(agents.options.iter().cloned()))?;
    match line.command {
        Command::Run(options) => Ok(options),
        _ => Err("this is the command `run`".into()),
    }
}
