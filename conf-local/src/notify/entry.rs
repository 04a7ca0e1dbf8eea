//! `watch:` in the YAML file: a pidfile to signal, or a command to run.

use std::{path::PathBuf, time::Duration};

use conf_core::suspect::CommandWords;
use libconf::name::ComponentSelector;
use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::process::{CommandText, parse_signal, words};

/// One entry of `watch:`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawWatchEntry")]
pub struct WatchEntry {
    /// The components that it watches.
    pub components: Vec<ComponentSelector>,
    /// What to do on a change.
    pub target: WatchTarget,
    /// The longest random delay before that.
    pub delay: Duration,
}

/// What a `watch:` entry does on a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchTarget {
    /// Signals the process whose number is in a file.
    Pidfile {
        /// The file.
        path: PathBuf,
        /// The signal.
        signal: Signal,
    },
    /// Runs a command with its arguments, without a shell.
    Command(CommandWords),
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

/// One hour: after a longer delay it is hardly a reaction to the change.
const MAX_DELAY: Duration = Duration::from_secs(3600);

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
            (None, None) => return Err("the target is missing: give 'pidfile' or 'command'".to_owned()),
        };
        let delay = raw.delay.unwrap_or(0.0);
        let delay = Duration::try_from_secs_f64(delay)
            .ok()
            .filter(|delay| *delay <= MAX_DELAY)
            .ok_or_else(|| format!("delay {delay} is not a number of seconds from 0 to {}", MAX_DELAY.as_secs()))?;
        Ok(WatchEntry { components: raw.components, target, delay })
    }
}
