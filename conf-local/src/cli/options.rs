//! The command line of conf-local.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use conf_core::daemon::{Reload, flags};
use libconf::name::{ComponentSelector, Sequence};
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::{
    agent::{AgentSocket, FileOnly, RunOptions},
    cli::output::{print, print_json},
    process::parse_signal,
};

/// The beginning of the names of environment variables.
const PREFIX: &str = "CONF_LOCAL";
/// The keys of the file that are no flags.
const STRUCTURED: [&str; 6] = ["watch", "export", "links", "check", "probe", "secret-sources"];

/// The agent on each host: keeps its files equal to one snapshot of its datacenter, and tells
/// processes of changes.
#[derive(Debug, Parser)]
#[command(name = "conf-local", version, arg_required_else_help = true)]
pub struct CommandLine {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

impl CommandLine {
    /// Reads flags, environment (`CONF_LOCAL_…`) and the YAML file. Wrong usage ends the process
    /// with 2.
    pub fn parse_all() -> (Self, FileOnly) {
        flags::parse_with(PREFIX, &STRUCTURED)
    }

    /// Returns the command line with its environment variables, for those who describe it.
    pub fn described() -> clap::Command {
        flags::described::<Self>(PREFIX)
    }

    /// Returns the way to read them again.
    pub fn reload() -> Reload {
        Reload::new::<Self, FileOnly>(PREFIX, &STRUCTURED)
    }
}

/// The commands of conf-local: the daemon, and those that ask it.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent: follow the datacenter's pointer, export files, tell watchers.
    Run(Box<RunOptions>),
    /// Print a component's settings as JSON, or one value of them.
    Get(GetOptions),
    /// Show which layers set a component's settings, each with file and commit, and which one won.
    Explain(ExplainOptions),
    /// Wait until this host's export is at or past a commit of a component, or a sequence.
    Wait(WaitOptions),
    /// Have a running process signalled when a component changes.
    Watch(WatchOptions),
    /// Run a command and tell it when a component changes.
    Exec(ExecOptions),
    /// Show what this host runs, and its problems.
    Status(OutputOptions),
    /// Check the repository and the export of this host.
    Verify(VerifyOptions),
    /// Show the latest changes of this host's export, newest first.
    History(OutputOptions),
    /// Print this host's public key, to which its secrets are sealed; create the identity if there
    /// is none yet.
    Identity(IdentityOptions),
    /// Compare the exported files of a component with a folder that another tool wrote; ends with 0
    /// if they are the same.
    Diff(DiffOptions),
}

/// `conf-local get`
#[derive(Clone, Debug, Args)]
pub struct GetOptions {
    /// The component.
    #[arg(value_name = "KIND/NAME[/VERSION]")]
    pub(crate) component: ComponentSelector,
    /// One value: dotted, or a JSON Pointer when it starts with '/'.
    #[arg(value_name = "KEY", conflicts_with = "key")]
    pub(crate) positional_key: Option<String>,
    /// The same as KEY.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// As of this sequence, if it is still kept on disk.
    #[arg(long, value_name = "N")]
    pub(crate) sequence: Option<Sequence>,
    /// Print YAML, each key with its description, default and allowed values from the component's
    /// `config.schema.json`.
    #[arg(long)]
    pub(crate) commented: bool,
    /// Where the agent listens.
    #[command(flatten)]
    pub(crate) socket: AgentSocket,
}

/// `conf-local explain`
#[derive(Clone, Debug, Args)]
pub struct ExplainOptions {
    /// The component.
    #[arg(value_name = "KIND/NAME[/VERSION]")]
    pub(crate) component: ComponentSelector,
    /// This key alone, with everything in it: dotted, or a JSON Pointer when it starts with '/'.
    #[arg(value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Where the agent listens, and how to print.
    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

/// `conf-local wait`
#[derive(Clone, Debug, Args)]
pub struct WaitOptions {
    /// The component.
    #[arg(value_name = "KIND/NAME[/VERSION]")]
    pub(crate) component: ComponentSelector,
    /// The commit to wait for, as the component's key in Consul has it.
    #[arg(long, value_name = "BRANCH/COMMIT", conflicts_with = "sequence")]
    pub(crate) at: Option<String>,
    /// The sequence to wait for.
    #[arg(long, value_name = "N")]
    pub(crate) sequence: Option<Sequence>,
    /// The seconds after which to give up.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub(crate) timeout: f64,
    /// Where the agent listens.
    #[command(flatten)]
    pub(crate) socket: AgentSocket,
}

/// `conf-local watch`
#[derive(Clone, Debug, Args)]
pub struct WatchOptions {
    /// The components to watch.
    #[arg(value_name = "KIND/NAME[/VERSION]", required = true)]
    pub(crate) components: Vec<ComponentSelector>,
    /// The process to signal.
    #[arg(long, value_name = "PID")]
    pub(crate) pid: i32,
    /// The signal to send.
    #[arg(long, value_name = "SIGNAL", default_value = "HUP", value_parser = parse_signal)]
    pub(crate) signal: Signal,
    /// Where the agent listens.
    #[command(flatten)]
    pub(crate) socket: AgentSocket,
}

/// `conf-local exec`
#[derive(Clone, Debug, Args)]
pub struct ExecOptions {
    /// The components to watch.
    #[arg(value_name = "KIND/NAME[/VERSION]", required = true)]
    pub(crate) components: Vec<ComponentSelector>,
    /// The reaction to a change.
    #[arg(long, value_enum, default_value_t = OnChange::Hup)]
    pub(crate) on_change: OnChange,
    /// The seconds from SIGTERM to SIGKILL when the command, and all that it started, is to end.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub(crate) grace: u32,
    /// Where the agent listens.
    #[command(flatten)]
    pub(crate) socket: AgentSocket,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// The reaction of `exec` to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OnChange {
    /// Send it SIGHUP.
    Hup,
    /// Stop it and start it anew.
    Restart,
}

/// `conf-local status`, `conf-local history`
#[derive(Clone, Debug, Args)]
pub struct OutputOptions {
    /// Print JSON in place of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the agent listens.
    #[command(flatten)]
    pub(crate) socket: AgentSocket,
}

impl OutputOptions {
    /// Prints an answer as JSON or as text.
    pub(crate) fn print(&self, answer: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        if self.json { print_json(answer) } else { print(&text()) }
    }
}

/// `conf-local identity`
#[derive(Clone, Debug, Args)]
pub struct IdentityOptions {
    /// The folder of the agent's state.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/conf-local")]
    pub(crate) state: PathBuf,
    /// The private key in place of `<state>/identity`: an age identity, or an SSH Ed25519 host key.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
}

/// `conf-local verify`
#[derive(Clone, Debug, Args)]
pub struct VerifyOptions {
    /// Mend the damage.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Where the agent listens, and how to print.
    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

/// `conf-local diff`
#[derive(Clone, Debug, Args)]
pub struct DiffOptions {
    /// The component.
    #[arg(value_name = "KIND/NAME[/VERSION]")]
    pub(crate) component: ComponentSelector,
    /// The folder to compare with.
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Where the agent listens, and how to print.
    #[command(flatten)]
    pub(crate) output: OutputOptions,
}
