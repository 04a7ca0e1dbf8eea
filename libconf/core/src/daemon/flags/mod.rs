//! Flags, environment and YAML file as one: every flag of a daemon also has an environment variable
//! and a key in the file.
//!
//! `--poll-interval` of a program with the prefix `CONF_SLAVE` is `CONF_SLAVE_POLL_INTERVAL` in the
//! environment and `poll-interval` in the file that `--config` names. A flag wins over the
//! environment, and the environment over the file. A flag with several values takes them separated
//! by commas in the environment, and as a list in the file.
//!
//! A flag of another command has a variable if a daemon has the same flag (it is a setting of the
//! installation), or if it names one itself. `hide_env` means that it has none in any case.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process,
};

use clap::{
    Arg, ArgAction, ArgMatches, Command, Parser,
    builder::BoolishValueParser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    address::{hide_login, hide_logins, listen_address, server_name},
    daemon::log::{BadLogLevel, LogFormat, start_logging},
    nearest::nearest,
    tls::{Certificates, ListenFlags},
};

/// The flags that every daemon has.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// A YAML file with the long names of these flags as keys
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// How log lines look, on standard error
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug or trace, also per module (info,warp=warn)
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,

    /// Allow listening without TLS on an address that other machines reach
    #[arg(long)]
    pub insecure: bool,

    /// A name by which this server is asked, besides addresses, localhost and its machine's name;
    /// may be repeated
    #[arg(long = "allowed-host", value_name = "NAME", value_parser = server_name)]
    pub allowed_hosts: Vec<String>,

    /// Also answer /metrics, /healthz and /readyz on this address, without TLS and without a token;
    /// nothing else is answered there
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    pub metrics_listen: Option<SocketAddr>,

    /// TLS for those who ask this program
    #[command(flatten)]
    pub tls: ListenFlags,

    /// The certificates of this program, which are read again when they change
    #[arg(skip)]
    pub certificates: Certificates,
}

impl Common {
    /// Tells whether other machines may reach this program: over TLS, or as `--insecure` says.
    pub fn is_protected(&self) -> bool {
        self.insecure || self.tls.has_tls()
    }

    /// Starts the log as the flags say.
    pub fn start_logging(&self) -> Result<(), BadLogLevel> {
        start_logging(self.log_format, &self.log_level)
    }
}

/// Reads the program's arguments. Wrong usage ends the process with exit code 2 and words, `--help`
/// with 0.
pub fn parse<P: Parser>(prefix: &'static str) -> P {
    parse_with::<P, NoExtra>(prefix, &[]).0
}

/// Returns the command line of a program with its environment variables, for those who describe it.
pub fn described<P: Parser>(prefix: &str) -> Command {
    with_environment(P::command(), prefix)
}

/// Like [`parse`]. `structured` are keys of the file that no flag can express; they are read into
/// `E`, which ignores all other keys.
pub fn parse_with<P: Parser, E: DeserializeOwned + Default + Send>(
    prefix: &'static str,
    structured: &[&str],
) -> (P, E) {
    match try_parse_from(prefix, structured, env::args_os().collect()) {
        Ok((parsed, extra, _)) => (parsed, extra),
        Err(error) => {
            let _ = error.print();
            process::exit(error.exit_code());
        }
    }
}

/// The flags as they were given, or their defaults, and the structured keys of the file: each as
/// text.
pub(crate) type Given = BTreeMap<String, String>;

/// Reads the arguments, the environment and the file of this process again. An error is one line.
pub(crate) fn read_again<P: Parser, E: DeserializeOwned + Default + Send>(
    prefix: &str,
    structured: &[&str],
) -> Result<Given, String> {
    match try_parse_from::<P, E>(prefix, structured, env::args_os().collect()) {
        Ok((_, _, given)) => Ok(given),
        Err(error) => {
            let words = error.to_string();
            // Below the first paragraph stands how to call the program.
            let first = words.split("\n\n").next().unwrap_or_default();
            Err(first.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" "))
        }
    }
}

/// Keys of the file that no flag can express, of programs that have none.
#[derive(Default, serde::Deserialize)]
pub struct NoExtra {}

fn try_parse_from<P: Parser, E: DeserializeOwned + Default + Send>(
    prefix: &str,
    structured: &[&str],
    arguments: Vec<OsString>,
) -> Result<(P, E, Given), clap::Error> {
    try_parse(prefix, structured, arguments).map_err(without_logins)
}

/// What a user gave for an address may hold a password, which no error quotes.
fn without_logins(mut error: clap::Error) -> clap::Error {
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg, ContextKind::InvalidSubcommand] {
        if let Some(ContextValue::String(value)) = error.get(kind) {
            let hidden = hide_login(value);
            error.insert(kind, ContextValue::String(hidden));
        }
    }
    error
}

fn try_parse<P: Parser, E: DeserializeOwned + Default + Send>(
    prefix: &str,
    structured: &[&str],
    arguments: Vec<OsString>,
) -> Result<(P, E, Given), clap::Error> {
    let command = with_environment(P::command(), prefix);
    let Some(path) = config_path(&command, &arguments) else {
        let matches = command.clone().try_get_matches_from(arguments)?;
        return Ok((P::from_arg_matches(&matches)?, E::default(), given(&command, &matches)));
    };
    let complain = |words: String| command.clone().error(ErrorKind::InvalidValue, hide_logins(&words));
    let text = fs::read_to_string(&path)
        .map_err(|cause| complain(format!("cannot read the configuration file {}: {cause}", path.display())))?;
    let file = File::read(&path, &text, requested(&command, &arguments), structured).map_err(complain)?;
    let extra = if structured.is_empty() { Ok(E::default()) } else { yaml::<E>(&path, &text) }.map_err(complain)?;

    let matches = with_file(command.clone(), &file).try_get_matches_from(&arguments).map_err(|error| {
        // The same arguments without the file show whether the file is at fault.
        match command.clone().try_get_matches_from(&arguments) {
            Err(without) if without.to_string() == error.to_string() => error,
            _ if error.use_stderr() => {
                let words = without_logins(error).to_string();
                let words = words.strip_prefix("error: ").unwrap_or(&words).trim_end();
                complain(format!("{}: {words}", path.display()))
            }
            _ => error,
        }
    })?;
    let mut given = given(&command, &matches);
    given.extend(file.structured);
    Ok((P::from_arg_matches(&matches)?, extra, given))
}

/// The flags of the requested command as text, whoever gave them.
fn given(command: &Command, matches: &ArgMatches) -> Given {
    if let Some((name, inner)) = matches.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        return given(command, inner);
    }
    let text = |argument: &Arg| {
        let values = matches.try_get_raw(argument.get_id().as_str()).ok().flatten()?;
        let values: Vec<_> = values.map(|value| value.to_string_lossy().into_owned()).collect();
        Some((long_name(argument)?.to_owned(), values.join(",")))
    };
    command.get_arguments().filter_map(text).collect()
}

/// The requested subcommand, or the command itself where none is recognized.
fn requested<'c>(command: &'c Command, arguments: &[OsString]) -> &'c Command {
    let matches = command.clone().ignore_errors(true).try_get_matches_from(arguments).ok();
    let (mut found, mut matches) = (command, matches.as_ref());
    while let Some((name, inner)) = matches.and_then(ArgMatches::subcommand) {
        let Some(next) = found.find_subcommand(name) else { break };
        (found, matches) = (next, Some(inner));
    }
    found
}

fn long_name(argument: &Arg) -> Option<&str> {
    argument.get_long().filter(|long| !matches!(*long, "help" | "version"))
}

fn takes_several(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append)
}

/// What is known of a command when one of its flags is changed.
#[derive(Clone, Copy)]
struct About {
    has_positionals: bool,
    is_daemon: bool,
}

/// Applies `change` to every flag of the command and of its subcommands.
fn change_flags(command: Command, change: &impl Fn(Arg, About) -> Arg) -> Command {
    let about = About { has_positionals: command.get_positionals().next().is_some(), is_daemon: is_daemon(&command) };
    command
        .mut_args(|argument| if long_name(&argument).is_some() { change(argument, about) } else { argument })
        .mut_subcommands(|command| change_flags(command, change))
}

/// A daemon is a command that reads a configuration file.
fn is_daemon(command: &Command) -> bool {
    command.get_arguments().any(|argument| long_name(argument) == Some("config"))
}

/// The flags of daemons at or below a command: settings of an installation.
fn settings(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter(|_| is_daemon(command)).filter_map(long_name).map(str::to_owned);
    own.chain(command.get_subcommands().flat_map(settings)).collect()
}

fn with_environment(command: Command, prefix: &str) -> Command {
    let settings = settings(&command);
    change_flags(command, &|argument, About { has_positionals: positionals, is_daemon }| {
        let long = long_name(&argument).unwrap_or_default().to_owned();
        let several = takes_several(&argument);
        let argument = match argument.get_action() {
            // 1 and yes mean true as well.
            ArgAction::SetTrue => argument.value_parser(BoolishValueParser::new()),
            // Before a positional, a word after the first value could belong to either.
            _ if several && !positionals && argument.get_num_args().is_none() => {
                argument.value_delimiter(',').num_args(1..)
            }
            _ if several => argument.value_delimiter(','),
            _ => argument,
        };
        // The value may hold a password, and --help is pasted into tickets.
        let argument = argument.hide_env_values(true);
        let is_of_one_call = argument.is_hide_env_set() || !(is_daemon || settings.contains(&long));
        if argument.get_env().is_some() || is_of_one_call {
            return argument;
        }
        let name = format!("{prefix}_{}", long.replace('-', "_").to_uppercase());
        // Service files often leave an empty variable; it counts as unset.
        match env::var_os(&name) {
            Some(value) if value.is_empty() => argument,
            _ => argument.env(name),
        }
    })
}

/// The value of `--config`, or of its variable, for the requested subcommand.
fn config_path(command: &Command, arguments: &[OsString]) -> Option<PathBuf> {
    let matches = command.clone().ignore_errors(true).try_get_matches_from(arguments).ok()?;
    let mut matches: Option<&ArgMatches> = Some(&matches);
    while let Some(level) = matches {
        if let Ok(Some(path)) = level.try_get_one::<PathBuf>("config") {
            return Some(path.clone());
        }
        matches = level.subcommand().map(|(_, matches)| matches);
    }
    None
}

/// The file's flags, each with its values as text, and its structured keys.
struct File {
    flags: BTreeMap<String, Vec<String>>,
    structured: Given,
}

impl File {
    fn read(path: &Path, text: &str, command: &Command, structured: &[&str]) -> Result<Self, String> {
        let flags = known_flags(command);
        let content: Option<BTreeMap<String, Value>> = yaml(path, text)?;
        let mut file = File { flags: BTreeMap::new(), structured: Given::new() };
        for (key, value) in content.unwrap_or_default() {
            let place = || format!("{}, line {}", path.display(), line_of(text, &key));
            if structured.contains(&key.as_str()) {
                file.structured.insert(key, value.to_string());
                continue;
            }
            let Some(several) = flags.get(&key) else {
                let known: Vec<_> = flags.keys().map(String::as_str).chain(structured.iter().copied()).collect();
                let near = nearest(&key, known.iter().copied());
                return Err(format!("{}: unknown key '{key}'{near}; known are {}", place(), known.join(", ")));
            };
            let values = match value {
                Value::Array(values) if *several => {
                    values.into_iter().map(scalar).collect::<Option<Vec<_>>>().filter(|values| !values.is_empty())
                }
                value => scalar(value).map(|value| vec![value]),
            };
            let shape = if *several { "a value or a list of values" } else { "a single value" };
            file.flags.insert(key.clone(), values.ok_or_else(|| format!("{}: '{key}' takes {shape}", place()))?);
        }
        Ok(file)
    }
}

/// Every flag of the command, and whether it takes several values.
fn known_flags(command: &Command) -> BTreeMap<String, bool> {
    let own = command.get_arguments().filter(|argument| !argument.is_hide_set());
    own.filter_map(|argument| Some((long_name(argument)?.to_owned(), takes_several(argument))))
        .filter(|(long, _)| long != "config")
        .collect()
}

fn scalar(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Keys of flags stand at the start of a line.
fn line_of(text: &str, key: &str) -> usize {
    let is_key = |line: &str| {
        let line = line.trim_start_matches(['"', '\'']);
        line.strip_prefix(key).is_some_and(|rest| rest.trim_start_matches(['"', '\'', ' ']).starts_with(':'))
    };
    text.lines().position(is_key).map_or(1, |index| index + 1)
}

/// Puts the file's values in the place of the flags' defaults, so that flags and environment win
/// over them.
fn with_file(command: Command, file: &File) -> Command {
    change_flags(command, &|argument, _| {
        let values = long_name(&argument).and_then(|long| file.flags.get(long)).cloned();
        match values {
            Some(values) => {
                // What the file says may hold a password, so --help does not show it.
                let hides = argument.get_action().takes_values();
                argument.required(false).default_values(values).hide_default_value(hides)
            }
            None => argument,
        }
    })
}

fn yaml<T: DeserializeOwned + Send>(path: &Path, text: &str) -> Result<T, String> {
    crate::settings::from_yaml(text)
        .map_err(|fault| format!("{}, {}", path.display(), with_nearest(&fault.to_string())))
}

/// Adds the nearest known key to serde's words about an unknown one in an entry of a list.
fn with_nearest(words: &str) -> String {
    let unknown = words.split_once("unknown field `").and_then(|(_, rest)| rest.split_once('`'));
    let Some((key, rest)) = unknown else { return words.to_owned() };
    // The known keys follow: `, expected one of a, b, c`.
    let known = rest.split_once("expected one of ").map_or("", |(_, known)| known);
    let near = nearest(key, known.split([',', ' ', '`', '\n']).filter(|word| !word.is_empty()));
    words.replacen(&format!("`{key}`"), &format!("`{key}`{near}"), 1)
}

#[cfg(test)]
mod tests;
