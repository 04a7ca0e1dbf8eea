//! Checks: a command of this host looks at a component's staged files before they are switched to (`nginx -t -c …`).
//!
//! What fails keeps its files of before, and the others switch. A check that failed is not run again for changes that do not
//! concern its component: it would hold them up each time. It is when the component changes, at the agent's next start, and
//! with `conf-local verify --repair`.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use conf_core::daemon::chain;
use futures_util::{StreamExt as _, stream};
use libconf::name::{ComponentSelector, ComponentVersion, Sequence};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::config::{CommandText, limit_from, words},
    notify::now,
    process::command::{self, CommandError, Leaves, Order, WordsFor},
};

/// Checks take processors from the jobs of this host, which run meanwhile.
const AT_ONCE: usize = 4;
/// How long a check may take when its entry does not say.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One entry of `check:` in the YAML file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawCheck")]
pub struct CheckEntry {
    /// Whose files it looks at.
    pub component: ComponentSelector,
    /// The command; it starts in the folder of the staged files, which `CONF_STAGED` names.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheck {
    component: ComponentSelector,
    command: CommandText,
    timeout: Option<f64>,
}

impl TryFrom<RawCheck> for CheckEntry {
    type Error = String;

    fn try_from(raw: RawCheck) -> Result<Self, String> {
        let timeout = limit_from(raw.timeout, TIMEOUT)?;
        Ok(CheckEntry { component: raw.component, command: words(raw.command)?, timeout })
    }
}

/// How a check fared last: an entry of `checks` in `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Whose files it looked at.
    pub component: ComponentVersion,
    /// The command, for people.
    pub command: String,
    /// True when it found nothing wrong.
    pub passed: bool,
    /// The change that it looked at.
    pub sequence: Sequence,
    /// When, RFC 3339, UTC.
    pub when: String,
    /// What it said when it did not pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The checks of this host.
#[derive(Debug, Default)]
pub struct Checks {
    entries: Vec<CheckEntry>,
    last: Mutex<BTreeMap<(ComponentVersion, usize), CheckStatus>>,
    stop: CancellationToken,
}

/// What a check is to look at.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    pub(crate) component: ComponentVersion,
    /// The folder with its files.
    pub(crate) files: PathBuf,
    /// The file with its settings.
    pub(crate) settings: PathBuf,
    /// It may read secrets.
    pub(crate) reads_secrets: bool,
}

/// A round of checks that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Unchecked {
    /// The agent stops.
    #[error("the agent stops")]
    Stopped,
    /// Nothing can be started here.
    #[error("no check can be run")]
    System(#[source] io::Error),
}

impl Checks {
    /// Those of the configuration; `stop` ends one that runs.
    pub fn new(entries: Vec<CheckEntry>, stop: CancellationToken) -> Self {
        Checks { entries, last: Mutex::default(), stop }
    }

    /// True when a check looks at this component.
    pub(crate) fn concern(&self, component: &ComponentVersion) -> bool {
        self.of(component).next().is_some()
    }

    /// Runs the checks of all that was staged, a few at once, and answers why which of them may not be used. Blocks.
    pub(crate) fn run(
        &self,
        staged: &[Staged],
        sequence: Sequence,
        export: Option<&Path>,
    ) -> Result<BTreeMap<ComponentVersion, String>, Unchecked> {
        let jobs: Vec<_> =
            staged.iter().flat_map(|one| self.of(&one.component).map(move |check| (one, check))).collect();
        if jobs.is_empty() {
            return Ok(BTreeMap::new());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Unchecked::System)?;
        let jobs = jobs.into_iter().map(|(staged, (number, entry))| self.one(number, entry, staged, sequence, export));
        let ended: Vec<_> = runtime.block_on(stream::iter(jobs).buffer_unordered(AT_ONCE).collect());
        ended.into_iter().filter_map(Result::transpose).collect()
    }

    /// How each fared last.
    pub(crate) fn status(&self) -> Vec<CheckStatus> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn of(&self, component: &ComponentVersion) -> impl Iterator<Item = (usize, &CheckEntry)> {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.component.matches(component))
    }

    async fn one(
        &self,
        number: usize,
        entry: &CheckEntry,
        staged: &Staged,
        sequence: Sequence,
        export: Option<&Path>,
    ) -> Result<Option<(ComponentVersion, String)>, Unchecked> {
        let mut variables: Vec<(&'static str, OsString)> = vec![
            ("CONF_STAGED", staged.files.clone().into()),
            ("CONF_STAGED_SETTINGS", staged.settings.clone().into()),
            ("CONF_SEQUENCE", sequence.to_string().into()),
            ("CONF_COMPONENTS", staged.component.to_string().into()),
        ];
        variables.extend(export.map(|export| ("CONF_EXPORT", export.into())));
        let order = Order {
            words: &entry.command,
            folder: &staged.files,
            variables,
            limit: entry.timeout,
            leaves: Leaves::Nothing,
            words_for: if staged.reads_secrets { WordsFor::Nobody } else { WordsFor::Everybody },
        };
        let error = match command::run(order, &self.stop).await {
            Ok(()) => None,
            Err(CommandError::Stopped) => return Err(Unchecked::Stopped),
            Err(CommandError::Failed { status, output }) => Some(format!("it ended with {status}: {}", output.text())),
            Err(CommandError::TooLong { limit, output }) => {
                Some(format!("it was ended after {} s: {}", limit.as_secs_f64(), output.text()))
            }
            Err(error) => Some(chain(&error)),
        };
        let (component, command) = (staged.component.clone(), entry.command.join(" "));
        let status = CheckStatus {
            component: component.clone(),
            command: command.clone(),
            passed: error.is_none(),
            sequence,
            when: now(),
            error: error.clone(),
        };
        self.last.lock().unwrap_or_else(PoisonError::into_inner).insert((component.clone(), number), status);
        Ok(error.map(|error| (component, format!("the check `{command}` did not pass: {error}"))))
    }
}
