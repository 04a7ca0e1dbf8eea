//! Commands, signals and time limits as people write them.

use std::time::Duration;

use conf_core::suspect::CommandWords;
use nix::sys::signal::Signal;
use serde::Deserialize;

/// A command as it is written: its words, or one line of words that need no shell.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum CommandText {
    Line(String),
    Words(Vec<String>),
}

/// The longest time limit that a command may have: ten minutes, since a change waits for it.
const MAX_LIMIT: Duration = Duration::from_secs(600);

/// Reads a time limit from a number of seconds.
pub(crate) fn limit_from(seconds: Option<f64>, default: Duration) -> Result<Duration, String> {
    let Some(seconds) = seconds else { return Ok(default) };
    let limit = Duration::try_from_secs_f64(seconds).ok().filter(|limit| !limit.is_zero() && *limit <= MAX_LIMIT);
    limit.ok_or_else(|| format!("timeout {seconds} is not a number of seconds above 0, up to {}", MAX_LIMIT.as_secs()))
}

/// Splits a command into its words.
pub(crate) fn words(command: CommandText) -> Result<CommandWords, String> {
    let words: Vec<String> = match command {
        CommandText::Line(line) if line.contains(['\'', '"', '\\', '$', '|', '&', ';', '<', '>', '*', '`']) => {
            let line = CommandWords::from(&*line);
            return Err(format!("command {line:?} would need a shell; write it as a list, as in [sh, -c, \"…\"]"));
        }
        CommandText::Line(line) => line.split_whitespace().map(str::to_owned).collect(),
        CommandText::Words(words) => words,
    };
    match words.first() {
        Some(first) if !first.is_empty() => Ok(words.into()),
        _ => Err("'command' is empty".to_owned()),
    }
}

/// Reads the name of a signal: `HUP`, `SIGHUP`, `usr1`.
pub(crate) fn parse_signal(text: &str) -> Result<Signal, String> {
    let upper = text.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse::<Signal>()
        .ok()
        .filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP))
        .ok_or_else(|| format!("{text:?} is not a signal that a process can handle; write HUP, USR1, USR2, TERM, …"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_command_shows_no_secret() {
        for line in ["curl 'http://jo:canary@h'", "PGPASSWORD=canary psql | tee /x", "curl -u jo:canary 'h'"] {
            let refused = super::words(CommandText::Line(line.to_owned())).unwrap_err();
            assert!(refused.contains("would need a shell") && !refused.contains("canary"), "{refused}");
        }
    }
}
