//! What conf-local is told on its command line, by its environment and by its YAML file.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use conf_core::{
    daemon::flags::{self, Common},
    upstream::Url,
};
use libconf::name::{ComponentSelector, DatacenterName, HostName, Sequence};
use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::{place::PlaceEntry, probe::ProbeEntry, transaction::check::CheckEntry};

/// The agent on each host: keeps its files equal to one snapshot of its datacenter, and tells processes of changes.
#[derive(Debug, Parser)]
#[command(name = "conf-local", version, arg_required_else_help = true)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl CommandLine {
    /// Reads flags, environment (`CONF_LOCAL_…`) and the YAML file; wrong usage ends the process with 2.
    pub fn parse_all() -> (Self, FileOnly) {
        flags::parse_with("CONF_LOCAL", &["watch", "export", "check", "probe"])
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
    /// Show what this host runs and how it fares.
    Status(OutputOptions),
    /// Check the repository and the export of this host.
    Verify(VerifyOptions),
    /// Show the latest changes of this host's export, newest first.
    History(OutputOptions),
    /// Print this host's public key, to which its secrets are sealed; make the identity where there is none yet.
    Identity(IdentityOptions),
    /// Compare what is exported of a component with a folder that another tool wrote; ends with 0 when they are the same.
    Diff(DiffOptions),
}

/// Where the agent listens for the commands of this host.
#[derive(Clone, Debug, Args)]
pub struct SocketOption {
    /// The Unix socket of the agent.
    #[arg(long, value_name = "PATH", default_value = "/run/conf-local/conf-local.sock")]
    pub socket: PathBuf,
}

/// `conf-local run`
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// The datacenter to follow.
    #[arg(long, value_name = "ID/VERSION")]
    pub datacenter: DatacenterName,
    /// The name of this host, as the datacenter's inventory knows it.
    #[arg(long, value_name = "NAME")]
    pub host: HostName,
    /// A conf-slave of this datacenter; several are tried in order and by health.
    #[arg(long, value_name = "URL")]
    pub surrogate: Vec<Url>,
    /// The central repository, asked when no surrogate has what is needed.
    #[arg(long, value_name = "URL")]
    pub central: Vec<Url>,
    /// A Consul agent, or a conf-slave that runs with `--consul embedded`; several are tried in order.
    /// Without it the usual `CONSUL_HTTP_ADDR`, or 127.0.0.1:8500.
    #[arg(long, value_name = "URL")]
    pub consul: Vec<String>,
    /// What stands before `configurations/` in the keys of Consul.
    #[arg(long, value_name = "PREFIX")]
    pub pointer_prefix: Option<String>,
    /// Where the agent keeps its repository, its export and its state.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/conf-local")]
    pub state: PathBuf,
    /// An existing Git repository to use in place of `<state>/repo.git`: only what it lacks is fetched.
    #[arg(long, value_name = "DIR")]
    pub git_dir: Option<PathBuf>,
    /// This host's private key, which opens the secrets that are sealed to it: an age identity, or an SSH Ed25519 host key.
    /// Without it `<state>/identity`, which is made at the first start.
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Where to listen for the commands of this host.
    #[command(flatten)]
    pub socket: SocketOption,
    /// Also answer the local service over HTTP on this loopback address.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<std::net::SocketAddr>,
    /// The public key of conf-master: a `.pub` or an `allowed_signers` file.
    #[arg(long, value_name = "FILE")]
    pub trusted_key: PathBuf,
    /// A file with the token for surrogates and the central repository; read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// How many snapshots to keep on disk for readers that still use an older one.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub keep: u32,
    /// How many seconds a snapshot is kept at least, whatever their number.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub keep_seconds: u64,
    /// Export and tell nobody: no signal, no command of `watch:`, nothing placed, no probe. For a trial beside another tool.
    #[arg(long)]
    pub observe: bool,
    /// What every daemon has.
    #[command(flatten)]
    pub common: Common,
}

/// `conf-local get`
#[derive(Clone, Debug, Args)]
pub struct GetOptions {
    /// The component.
    #[arg(value_name = "KIND/NAME[/VERSION]")]
    pub component: ComponentSelector,
    /// One value: dotted, or a JSON Pointer when it starts with '/'.
    #[arg(value_name = "KEY", conflicts_with = "key")]
    pub positional_key: Option<String>,
    /// The same as KEY.
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// As of this sequence, when it is still kept on disk.
    #[arg(long, value_name = "N")]
    pub sequence: Option<Sequence>,
    /// Print YAML, each key with its description, default and allowed values from the component's `config.schema.json`.
    #[arg(long)]
    pub commented: bool,
    /// Where the agent listens.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// `conf-local explain`
#[derive(Clone, Debug, Args)]
pub struct ExplainOptions {
    /// The component.
    #[arg(value_name = "KIND/NAME[/VERSION]")]
    pub component: ComponentSelector,
    /// This key alone, and what is in it: dotted, or a JSON Pointer when it starts with '/'.
    #[arg(value_name = "KEY")]
    pub key: Option<String>,
    /// Where the agent listens, and how to print.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// `conf-local wait`
#[derive(Clone, Debug, Args)]
pub struct WaitOptions {
    /// The component.
    #[arg(value_name = "KIND/NAME[/VERSION]")]
    pub component: ComponentSelector,
    /// The commit to wait for, as the component's key in Consul has it.
    #[arg(long, value_name = "BRANCH/COMMIT", conflicts_with = "sequence")]
    pub at: Option<String>,
    /// The sequence to wait for.
    #[arg(long, value_name = "N")]
    pub sequence: Option<Sequence>,
    /// Give up after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub timeout: f64,
    /// Where the agent listens.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// `conf-local watch`
#[derive(Clone, Debug, Args)]
pub struct WatchOptions {
    /// The components whose changes matter.
    #[arg(value_name = "KIND/NAME[/VERSION]", required = true)]
    pub components: Vec<ComponentSelector>,
    /// The process to signal.
    #[arg(long, value_name = "PID")]
    pub pid: i32,
    /// The signal to send.
    #[arg(long, value_name = "SIGNAL", default_value = "HUP", value_parser = parse_signal)]
    pub signal: Signal,
    /// Where the agent listens.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// `conf-local exec`
#[derive(Clone, Debug, Args)]
pub struct ExecOptions {
    /// The components whose changes matter.
    #[arg(value_name = "KIND/NAME[/VERSION]", required = true)]
    pub components: Vec<ComponentSelector>,
    /// What to do with the command when one changes.
    #[arg(long, value_enum, default_value_t = OnChange::Hup)]
    pub on_change: OnChange,
    /// Where the agent listens.
    #[command(flatten)]
    pub socket: SocketOption,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// What `exec` does with its command on a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnChange {
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
    pub json: bool,
    /// Where the agent listens.
    #[command(flatten)]
    pub socket: SocketOption,
}

/// `conf-local identity`
#[derive(Clone, Debug, Args)]
pub struct IdentityOptions {
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/conf-local")]
    pub state: PathBuf,
    /// The private key in place of `<state>/identity`: an age identity, or an SSH Ed25519 host key.
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// `conf-local verify`
#[derive(Clone, Debug, Args)]
pub struct VerifyOptions {
    /// Mend what is found.
    #[arg(long)]
    pub repair: bool,
    /// How to print, and whom to ask.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// `conf-local diff`
#[derive(Clone, Debug, Args)]
pub struct DiffOptions {
    /// The component.
    #[arg(value_name = "KIND/NAME[/VERSION]")]
    pub component: ComponentSelector,
    /// The folder to compare with.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// How to print, and whom to ask.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// What only the YAML file can hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct FileOnly {
    /// Whom to tell of changes.
    #[serde(default)]
    pub watch: Vec<WatchEntry>,
    /// Where to place components besides the export.
    #[serde(default)]
    pub export: Vec<PlaceEntry>,
    /// What looks at components before they are used.
    #[serde(default)]
    pub check: Vec<CheckEntry>,
    /// What asks whether a component's program is well after a change.
    #[serde(default)]
    pub probe: Vec<ProbeEntry>,
}

/// One entry of `watch:` in the YAML file: a pidfile to signal, or a command to run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawWatchEntry")]
pub struct WatchEntry {
    /// The components whose changes matter.
    pub components: Vec<ComponentSelector>,
    /// Whom to tell.
    pub target: WatchTarget,
    /// A random delay of at most this long before telling.
    pub delay: Duration,
}

/// Whom a `watch:` entry tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchTarget {
    /// The process whose number stands in a file.
    Pidfile {
        /// The file.
        path: PathBuf,
        /// The signal to send.
        signal: Signal,
    },
    /// A command with its arguments; no shell stands between.
    Command(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWatchEntry {
    components: Vec<ComponentSelector>,
    pidfile: Option<PathBuf>,
    command: Option<CommandText>,
    signal: Option<String>,
    delay: Option<f64>,
}

/// A command as it is written: its words, or one line of words that need no shell.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum CommandText {
    Line(String),
    Words(Vec<String>),
}

impl TryFrom<RawWatchEntry> for WatchEntry {
    type Error = String;

    fn try_from(raw: RawWatchEntry) -> Result<Self, String> {
        if raw.components.is_empty() {
            return Err("'components' is empty; list at least one, as in [services/web]".to_owned());
        }
        let target = match (raw.pidfile, raw.command) {
            (Some(path), None) if path.is_absolute() => {
                let signal = raw.signal.as_deref().map_or(Ok(Signal::SIGHUP), parse_signal)?;
                WatchTarget::Pidfile { path, signal }
            }
            (Some(path), None) => return Err(format!("pidfile {} is not an absolute path", path.display())),
            (None, Some(_)) if raw.signal.is_some() => {
                return Err("'signal' belongs to 'pidfile'; a command is not signalled".to_owned());
            }
            (None, Some(command)) => WatchTarget::Command(words(command)?),
            (Some(_), Some(_)) => return Err("give 'pidfile' or 'command', not both; make two entries".to_owned()),
            (None, None) => return Err("whom to tell is missing: give 'pidfile' or 'command'".to_owned()),
        };
        let delay = raw.delay.unwrap_or(0.0);
        let delay = Duration::try_from_secs_f64(delay)
            .ok()
            .filter(|delay| *delay <= MAX_DELAY)
            .ok_or_else(|| format!("delay {delay} is not a number of seconds from 0 to {}", MAX_DELAY.as_secs()))?;
        Ok(WatchEntry { components: raw.components, target, delay })
    }
}

/// Longer than an hour is no delay of a reload any more.
const MAX_DELAY: Duration = Duration::from_secs(3600);

/// The longest time that may be given to a command.
const MAX_LIMIT: Duration = Duration::from_secs(600);

/// A number of seconds in which something must be done.
pub(crate) fn limit_from(seconds: Option<f64>, default: Duration) -> Result<Duration, String> {
    let Some(seconds) = seconds else { return Ok(default) };
    let limit = Duration::try_from_secs_f64(seconds).ok().filter(|limit| !limit.is_zero() && *limit <= MAX_LIMIT);
    limit.ok_or_else(|| format!("timeout {seconds} is not a number of seconds above 0, up to {}", MAX_LIMIT.as_secs()))
}

/// The words of a command.
pub(crate) fn words(command: CommandText) -> Result<Vec<String>, String> {
    let words: Vec<String> = match command {
        CommandText::Line(line) if line.contains(['\'', '"', '\\', '$', '|', '&', ';', '<', '>', '*', '`']) => {
            return Err(format!("command {line:?} would need a shell; write it as a list, as in [sh, -c, \"…\"]"));
        }
        CommandText::Line(line) => line.split_whitespace().map(str::to_owned).collect(),
        CommandText::Words(words) => words,
    };
    match words.first() {
        Some(first) if !first.is_empty() => Ok(words),
        _ => Err("'command' is empty".to_owned()),
    }
}

/// `HUP`, `SIGHUP`, `usr1`.
pub(crate) fn parse_signal(text: &str) -> Result<Signal, String> {
    let upper = text.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse::<Signal>()
        .ok()
        .filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP))
        .ok_or_else(|| format!("{text:?} is not a signal that a process can handle; write HUP, USR1, USR2, TERM, …"))
}
