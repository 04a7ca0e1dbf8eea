//! Flags, environment and YAML file as one: every flag also has an environment variable and a key
//! in the file.
//!
//! `--poll-interval` of a program with the prefix `CONF_SLAVE` is `CONF_SLAVE_POLL_INTERVAL` in the
//! environment and `poll-interval` in the file that `--config` names. A flag wins over the
//! environment, and the environment over the file. A flag with several values takes them separated
//! by commas in the environment, and as a list in the file.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process,
};

use clap::{Arg, ArgAction, ArgMatches, Command, Parser, builder::BoolishValueParser, error::ErrorKind};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::daemon::log::{BadLogLevel, LogFormat, start_logging};

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

    /// Allow listening on an address that other machines reach, without TLS and tokens
    #[arg(long)]
    pub insecure: bool,
}

impl Common {
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

/// Like [`parse`]. `structured` are keys of the file that no flag can express; they are read into
/// `E`, which ignores all other keys.
pub fn parse_with<P: Parser, E: DeserializeOwned + Default + Send>(
    prefix: &'static str,
    structured: &[&str],
) -> (P, E) {
    match try_parse_from(prefix, structured, env::args_os().collect()) {
        Ok(parsed) => parsed,
        Err(error) => {
            let _ = error.print();
            process::exit(error.exit_code());
        }
    }
}

#[derive(Default, serde::Deserialize)]
struct NoExtra {}

fn try_parse_from<P: Parser, E: DeserializeOwned + Default + Send>(
    prefix: &str,
    structured: &[&str],
    arguments: Vec<OsString>,
) -> Result<(P, E), clap::Error> {
    let command = with_environment(P::command(), prefix);
    let Some(path) = config_path(&command, &arguments) else {
        let matches = command.try_get_matches_from(arguments)?;
        return Ok((P::from_arg_matches(&matches)?, E::default()));
    };
    let complain = |words: String| command.clone().error(ErrorKind::InvalidValue, words);
    let text = fs::read_to_string(&path)
        .map_err(|cause| complain(format!("cannot read the configuration file {}: {cause}", path.display())))?;
    let file = File::read(&path, &text, &command, structured).map_err(complain)?;
    let extra = if structured.is_empty() { Ok(E::default()) } else { yaml::<E>(&path, &text) }.map_err(complain)?;

    let matches = with_file(command.clone(), &file).try_get_matches_from(&arguments).map_err(|error| {
        // The same arguments without the file show whether the file is at fault.
        match command.clone().try_get_matches_from(&arguments) {
            Err(without) if without.to_string() == error.to_string() => error,
            _ if error.use_stderr() => {
                let words = error.to_string();
                let words = words.strip_prefix("error: ").unwrap_or(&words).trim_end();
                complain(format!("{}: {words}", path.display()))
            }
            _ => error,
        }
    })?;
    Ok((P::from_arg_matches(&matches)?, extra))
}

fn long_name(argument: &Arg) -> Option<&str> {
    argument.get_long().filter(|long| !matches!(*long, "help" | "version"))
}

fn takes_several(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append)
}

/// Applies `change` to every flag of the command and of its subcommands, and tells it whether the
/// command has positionals.
fn change_flags(command: Command, change: &impl Fn(Arg, bool) -> Arg) -> Command {
    let positionals = command.get_positionals().next().is_some();
    command
        .mut_args(|argument| if long_name(&argument).is_some() { change(argument, positionals) } else { argument })
        .mut_subcommands(|command| change_flags(command, change))
}

fn with_environment(command: Command, prefix: &str) -> Command {
    change_flags(command, &|argument, positionals| {
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
        if argument.get_env().is_some() {
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

/// The file's flags, each with its values as text.
struct File(BTreeMap<String, Vec<String>>);

impl File {
    fn read(path: &Path, text: &str, command: &Command, structured: &[&str]) -> Result<Self, String> {
        let flags = known_flags(command);
        let content: Option<BTreeMap<String, Value>> = yaml(path, text)?;
        let mut file = BTreeMap::new();
        for (key, value) in content.unwrap_or_default() {
            let place = || format!("{}, line {}", path.display(), line_of(text, &key));
            if structured.contains(&key.as_str()) {
                continue;
            }
            let Some(several) = flags.get(&key) else {
                let known: Vec<_> = flags.keys().map(String::as_str).chain(structured.iter().copied()).collect();
                return Err(format!("{}: unknown key '{key}'; known are {}", place(), known.join(", ")));
            };
            let values = match value {
                Value::Array(values) if *several => {
                    values.into_iter().map(scalar).collect::<Option<Vec<_>>>().filter(|values| !values.is_empty())
                }
                value => scalar(value).map(|value| vec![value]),
            };
            let shape = if *several { "a value or a list of values" } else { "a single value" };
            file.insert(key.clone(), values.ok_or_else(|| format!("{}: '{key}' takes {shape}", place()))?);
        }
        Ok(Self(file))
    }
}

/// Every flag of the command and its subcommands, and whether it takes several values. One file can
/// serve all subcommands.
fn known_flags(command: &Command) -> BTreeMap<String, bool> {
    let own = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let mut flags: BTreeMap<_, _> = own
        .filter_map(|argument| Some((long_name(argument)?.to_owned(), takes_several(argument))))
        .filter(|(long, _)| long != "config")
        .collect();
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        flags.extend(known_flags(command));
    }
    flags
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
        let values = long_name(&argument).and_then(|long| file.0.get(long)).cloned();
        match values {
            Some(values) => argument.required(false).default_values(values),
            None => argument,
        }
    })
}

fn yaml<T: DeserializeOwned + Send>(path: &Path, text: &str) -> Result<T, String> {
    crate::settings::from_yaml(text).map_err(|fault| format!("{}, {fault}", path.display()))
}

#[cfg(test)]
mod tests;
