//! Checks: a command of this host reads a component's staged files before they are switched to,
//! such as `nginx -t -c …`.
//!
//! A component that does not pass keeps its earlier files, and the others switch. A failed check
//! does not run again for changes of other components, since it would delay them each time. It runs
//! again after a while, since what it needs of this host may come late; when its component changes;
//! at the agent's next start; and with `conf-local verify --repair`.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use conf_core::{retry::Backoff, suspect::CommandWords};
use futures_util::{StreamExt as _, stream};
use libconf::name::{ComponentSelector, ComponentVersion, Sequence};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::now,
    export::Faults,
    process::{
        Children, CommandError, CommandText, Invocation, RunAs, Variables, Visibility, limit_from, run_command, words,
    },
    state::CheckStatus,
};

/// 4 checks at once: they take processors from the jobs of this host, which run meanwhile.
const AT_ONCE: usize = 4;
/// 30 s for a check whose entry has no timeout: the switch waits for it.
const TIMEOUT: Duration = Duration::from_secs(30);

/// 1 s after a check that did not pass, doubling up to 5 minutes: then it runs again. Changes wait
/// meanwhile, for its timeout at most.
const AGAIN: Duration = Duration::from_secs(1);
const MUCH_LATER: Duration = Duration::from_secs(300);

/// One entry of `check:` in the YAML file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawCheck")]
pub(crate) struct CheckEntry {
    component: ComponentSelector,
    /// It starts in the folder of the staged files, which `CONF_STAGED` names.
    command: CommandWords,
    timeout: Duration,
    /// The user that it runs as; without one, the agent's.
    user: Option<RunAs>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheck {
    component: ComponentSelector,
    command: CommandText,
    timeout: Option<f64>,
    user: Option<RunAs>,
}

impl TryFrom<RawCheck> for CheckEntry {
    type Error = String;

    fn try_from(raw: RawCheck) -> Result<Self, String> {
        let timeout = limit_from(raw.timeout, TIMEOUT)?;
        Ok(CheckEntry { component: raw.component, command: words(raw.command)?, timeout, user: raw.user })
    }
}

/// The checks of this host.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    entries: Vec<CheckEntry>,
    last: Mutex<BTreeMap<(ComponentVersion, usize), CheckStatus>>,
    failed: Mutex<BTreeMap<ComponentVersion, FailedCheck>>,
    stop: CancellationToken,
}

/// A check that did not pass, and holds its component back.
#[derive(Debug)]
struct FailedCheck {
    /// The folder with the files that it refused.
    files: PathBuf,
    /// What it said first: a message with the time in it is no news each time.
    reason: String,
    /// It runs again after this.
    due: Instant,
    backoff: Backoff,
    /// It runs again with the next attempt.
    again: bool,
}

/// A staged component to check.
#[derive(Clone, Debug)]
pub(crate) struct StagedComponent {
    pub(crate) component: ComponentVersion,
    /// The folder with its files.
    pub(crate) files: PathBuf,
    /// The file with its settings.
    pub(crate) settings: PathBuf,
    /// It may hold secrets.
    pub(crate) reads_secrets: bool,
}

/// Why the checks did not all run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unchecked {
    /// The agent stops.
    #[error("the agent stops")]
    Stopped,
    /// This host can start no command.
    #[error("no check can be run")]
    System(#[source] io::Error),
}

impl Checks {
    /// Takes the entries of the configuration. `stop` ends a running check.
    pub(crate) fn new(entries: Vec<CheckEntry>, stop: CancellationToken) -> Self {
        Checks { entries, last: Mutex::default(), failed: Mutex::default(), stop }
    }

    /// True if there is a check for this component.
    pub(crate) fn concern(&self, component: &ComponentVersion) -> bool {
        self.of(component).next().is_some()
    }

    /// Runs the checks of all staged components, a few at once. Returns those that did not pass,
    /// with the reason. Blocks.
    pub(crate) fn run(
        &self,
        staged: &[StagedComponent],
        sequence: Sequence,
        export: Option<&Path>,
    ) -> Result<Faults, Unchecked> {
        let jobs: Vec<_> =
            staged.iter().flat_map(|one| self.of(&one.component).map(move |check| (one, check))).collect();
        if jobs.is_empty() {
            return Ok(BTreeMap::new());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Unchecked::System)?;
        let jobs = jobs.into_iter().map(|(staged, (number, entry))| self.one(number, entry, staged, sequence, export));
        let ended: Vec<_> = runtime.block_on(stream::iter(jobs).buffer_unordered(AT_ONCE).collect());
        let mut unfit: Faults = ended.into_iter().filter_map(Result::transpose).collect::<Result<_, _>>()?;
        self.note(staged, &mut unfit);
        Ok(unfit)
    }

    /// Notes when those that did not pass run again.
    fn note(&self, staged: &[StagedComponent], unfit: &mut Faults) {
        let mut failed = self.failed.lock();
        for StagedComponent { component, files, .. } in staged {
            let Some(reason) = unfit.get_mut(component) else {
                failed.remove(component);
                continue;
            };
            let known = failed.remove(component).filter(|known| known.files == *files);
            let mut known = known.unwrap_or_else(|| FailedCheck {
                files: files.clone(),
                reason: reason.clone(),
                due: Instant::now(),
                backoff: Backoff::new(AGAIN, MUCH_LATER),
                again: false,
            });
            reason.clone_from(&known.reason);
            (known.due, known.again) = (Instant::now() + known.backoff.next_wait(), false);
            failed.insert(component.clone(), known);
        }
    }

    /// True while a check holds a component back: it runs again.
    pub(crate) fn hold_back(&self) -> bool {
        !self.failed.lock().is_empty()
    }

    /// Has the failed checks run whose time has come.
    pub(crate) fn try_again(&self) {
        for failed in self.failed.lock().values_mut() {
            failed.again = failed.due <= Instant::now();
        }
    }

    /// True if the failed check of a component runs again now.
    pub(crate) fn runs_again(&self, component: &ComponentVersion) -> bool {
        self.failed.lock().get(component).is_some_and(|failed| failed.again)
    }

    /// Forgets the checks of components that are not held back any more.
    pub(crate) fn forget_all_but(&self, held_back: &Faults) {
        self.failed.lock().retain(|component, _| held_back.contains_key(component));
    }

    /// Returns the last result of each check.
    pub(crate) fn status(&self) -> Vec<CheckStatus> {
        self.last.lock().values().cloned().collect()
    }

    fn of(&self, component: &ComponentVersion) -> impl Iterator<Item = (usize, &CheckEntry)> {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.component.matches(component))
    }

    async fn one(
        &self,
        number: usize,
        entry: &CheckEntry,
        staged: &StagedComponent,
        sequence: Sequence,
        export: Option<&Path>,
    ) -> Result<Option<(ComponentVersion, String)>, Unchecked> {
        let mut variables: Variables = vec![
            ("CONF_STAGED", staged.files.clone().into()),
            ("CONF_STAGED_SETTINGS", staged.settings.clone().into()),
            ("CONF_SEQUENCE", sequence.to_string().into()),
            ("CONF_COMPONENTS", staged.component.to_string().into()),
        ];
        variables.extend(export.map(|export| ("CONF_EXPORT", export.into())));
        let invocation = Invocation {
            words: &entry.command,
            folder: &staged.files,
            variables,
            limit: entry.timeout,
            children: Children::End,
            user: entry.user.as_ref(),
            output: if staged.reads_secrets { Visibility::Nobody } else { Visibility::Everybody },
        };
        let error = match run_command(invocation, &self.stop).await {
            Ok(()) => None,
            Err(CommandError::Stopped) => return Err(Unchecked::Stopped),
            Err(error) => Some(error.describe()),
        };
        let (component, command) = (staged.component.clone(), entry.command.to_string());
        let status = CheckStatus {
            component: component.clone(),
            command: command.clone(),
            passed: error.is_none(),
            sequence,
            when: now(),
            error: error.clone(),
        };
        self.last.lock().insert((component.clone(), number), status);
        Ok(error.map(|error| {
            (component, format!("the check `{command}` did not pass, and runs again within 5 minutes: {error}"))
        }))
    }
}
