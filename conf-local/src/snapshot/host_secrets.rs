//! The values of secrets that this host has itself, as they were last read, and which renderings
//! were made from which of them.
//!
//! A source that cannot be read any more keeps its last good value. Values are in memory alone, for
//! as long as a component of the export reads them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use conf_core::{
    retry::{Backoff, with_jitter},
    secret::SecretValue,
};
use libconf::name::{ComponentVersion, SecretName};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::snapshot::source::{HostSource, Offers, Stamp};

/// 5 minutes between two runs of a command that prints a secret, unless the agent is told another
/// time.
pub(crate) const EVERY: Duration = Duration::from_secs(300);

/// 1 s after a source could not be read, doubling up to 60 s: then it is read again. A file that
/// changes is read at once.
const AGAIN: Duration = Duration::from_secs(1);
const MUCH_LATER: Duration = Duration::from_secs(60);

/// The sources that a component reads.
pub(crate) type SourceUses = BTreeMap<HostSource, SourceUse>;

/// A component's use of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceUse {
    pub(crate) secret: SecretName,
    /// The value that its rendering was made from; 0 if there was none, or nobody knows.
    pub(crate) generation: u64,
}

/// The secrets that this host has itself.
#[derive(Default)]
pub(crate) struct HostSecrets {
    /// The sources that this host's file offers.
    pub(crate) offers: Offers,
    content: Mutex<Content>,
    /// A component may have to be rendered again.
    pub(crate) changed: Notify,
    /// Commands may have to run at other times.
    pub(crate) rescheduled: Notify,
}

#[derive(Default)]
struct Content {
    /// The components of the export that read such a secret.
    uses: BTreeMap<ComponentVersion, SourceUses>,
    known: BTreeMap<HostSource, Known>,
    /// The last generation of any value.
    generation: u64,
    every: Option<Duration>,
}

/// What is known of a source.
struct Known {
    /// The last good value.
    value: Option<SecretValue>,
    generation: u64,
    /// Why it could not be read since.
    error: Option<String>,
    /// A component was rendered without a value, and says so itself.
    in_vain: bool,
    /// Held while the source is read: a command runs once at a time.
    reading: Arc<Mutex<()>>,
    /// The time at which it was last read.
    read: Option<Instant>,
    stamp: Option<Stamp>,
    due: Instant,
    backoff: Backoff,
}

impl HostSecrets {
    /// Reads nothing yet.
    pub(crate) fn of(offers: Offers) -> Self {
        HostSecrets { offers, ..HostSecrets::default() }
    }

    /// Has commands run again after `every`.
    pub(crate) fn set_period(&self, every: Duration) {
        self.content.lock().every = Some(every);
    }

    /// Reads a source for the rendering of a component that changed. Blocks. Returns its value, or
    /// the last good one, with its generation.
    pub(crate) fn read(&self, source: &HostSource) -> (Result<SecretValue, String>, u64) {
        // A command that makes a new value each time does not run once more for this one.
        if matches!(source, HostSource::File(..)) || !self.content.lock().awaits_export(source) {
            self.renew(source, &|| false);
        }
        self.known(source)
    }

    /// Does the same for a rendering of what is exported already: only a source that was never read
    /// is read.
    pub(crate) fn recall_value(&self, source: &HostSource) -> (Result<SecretValue, String>, u64) {
        if self.content.lock().known.get(source).is_none_or(|known| known.read.is_none()) {
            self.renew(source, &|| false);
        }
        self.known(source)
    }

    fn known(&self, source: &HostSource) -> (Result<SecretValue, String>, u64) {
        let mut content = self.content.lock();
        let Some(known) = content.known.get_mut(source) else { return (Err("it is not read".to_owned()), 0) };
        known.in_vain = known.value.is_none();
        let value = known.value.clone().ok_or_else(|| known.error.clone().unwrap_or_default());
        (value, known.generation)
    }

    /// Reads a source again. Blocks. Whoever comes while it is read waits for that, and takes what
    /// was read.
    pub(crate) fn renew(&self, source: &HostSource, is_stopped: &dyn Fn() -> bool) {
        let came = Instant::now();
        let reading = {
            let mut content = self.content.lock();
            content.known.entry(source.clone()).or_insert_with(Known::new).reading.clone()
        };
        let _alone = reading.lock();
        let was_read = |known: &Known| known.read.is_some_and(|read| read > came);
        if self.content.lock().known.get(source).is_some_and(was_read) {
            return;
        }
        // A change after this look shows at the next one.
        let stamp = source.stamp();
        let read = source.read(is_stopped);
        if is_stopped() {
            return;
        }
        let mut content = self.content.lock();
        let generation = content.generation + 1;
        let every = content.every.unwrap_or(EVERY);
        let known = content.known.entry(source.clone()).or_insert_with(Known::new);
        (known.stamp, known.read) = (stamp, Some(Instant::now()));
        match read {
            Ok(value) => {
                let is_new = known.value.as_ref() != Some(&value);
                if is_new {
                    known.generation = generation;
                    known.value = Some(value);
                }
                (known.error, known.in_vain) = (None, false);
                known.backoff.reset();
                known.due = Instant::now() + with_jitter(every);
                if is_new {
                    content.generation = generation;
                    self.changed.notify_one();
                }
            }
            Err(why) => {
                if known.error.as_ref() != Some(&why) {
                    tracing::warn!(reason = why, "a secret of this host cannot be read; trying again");
                }
                known.error = Some(why);
                known.due = Instant::now() + known.backoff.next_wait();
            }
        }
    }

    /// Reads the files that have changed, and those that could not be read for a while. Blocks.
    pub(crate) fn look_at_files(&self) {
        for source in self.wanted() {
            if !matches!(source, HostSource::File(..)) {
                continue;
            }
            let now = source.stamp();
            let is_due = self.content.lock().known.get(&source).is_none_or(|known| {
                let is_same = match (now, known.stamp) {
                    (Some(now), Some(before)) => now.is_unchanged(&before),
                    (None, None) => true,
                    _ => false,
                };
                !is_same || known.error.is_some() && known.due <= Instant::now()
            });
            if is_due {
                self.renew(&source, &|| false);
            }
        }
    }

    /// Returns the command that runs next, and when.
    pub(crate) fn next_command(&self) -> Option<(HostSource, Instant)> {
        let commands = self.wanted().into_iter().filter(|source| matches!(source, HostSource::Command(..)));
        let content = self.content.lock();
        let due = |source: &HostSource| content.known.get(source).map_or_else(Instant::now, |known| known.due);
        commands.map(|source| (due(&source), source)).min().map(|(due, source)| (source, due))
    }

    /// True if a component of the export reads such a secret.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.content.lock().uses.is_empty()
    }

    /// Lists the components whose rendering was made from another value than there is now. A source
    /// that cannot be read makes none of them stale.
    pub(crate) fn stale(&self) -> BTreeSet<ComponentVersion> {
        let content = self.content.lock();
        let is_stale = |(source, one): (&HostSource, &SourceUse)| {
            let known = content.known.get(source);
            known.is_some_and(|known| known.value.is_some() && known.generation != one.generation)
        };
        let stale = content.uses.iter().filter(|(_, uses)| uses.iter().any(is_stale));
        stale.map(|(component, _)| component.clone()).collect()
    }

    /// Fills in which values the exported rendering of a component was made from.
    pub(crate) fn recall(&self, component: &ComponentVersion, uses: &mut SourceUses) {
        let content = self.content.lock();
        let Some(known) = content.uses.get(component) else { return };
        for (source, one) in uses {
            one.generation = known.get(source).map_or(0, |before| before.generation);
        }
    }

    /// Notes what the components of the export read now. Forgets values that none of them reads.
    pub(crate) fn exported(&self, uses: BTreeMap<ComponentVersion, SourceUses>) {
        let mut content = self.content.lock();
        let wanted: BTreeSet<HostSource> = uses.values().flat_map(BTreeMap::keys).cloned().collect();
        content.known.retain(|source, _| wanted.contains(source));
        if content.uses != uses {
            content.uses = uses;
            self.changed.notify_one();
            self.rescheduled.notify_one();
        }
    }

    /// Describes the sources that cannot be read. A component that was rendered without a value
    /// says so itself.
    pub(crate) fn problems(&self) -> Vec<String> {
        let content = self.content.lock();
        let mut names: BTreeMap<&HostSource, BTreeSet<&SecretName>> = BTreeMap::new();
        for (source, one) in content.uses.values().flatten() {
            names.entry(source).or_default().insert(&one.secret);
        }
        let problem = |(source, names): (&HostSource, &BTreeSet<&SecretName>)| {
            let known = content.known.get(source).filter(|known| !known.in_vain)?;
            let error = known.error.as_ref()?;
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            Some(format!("the secret {} keeps its last good value, since {error}; trying again", names.join(", ")))
        };
        names.iter().filter_map(|(source, names)| problem((source, names))).collect()
    }

    fn wanted(&self) -> BTreeSet<HostSource> {
        self.content.lock().uses.values().flat_map(BTreeMap::keys).cloned().collect()
    }
}

impl Content {
    /// True if there is a value that the export of a component was not made from yet.
    fn awaits_export(&self, source: &HostSource) -> bool {
        let Some(known) = self.known.get(source).filter(|known| known.value.is_some()) else { return false };
        let mut readers = self.uses.values().filter_map(|uses| uses.get(source)).peekable();
        readers.peek().is_none() || readers.any(|one| one.generation != known.generation)
    }
}

impl Known {
    fn new() -> Self {
        Known {
            value: None,
            generation: 0,
            error: None,
            in_vain: false,
            reading: Arc::default(),
            read: None,
            stamp: None,
            due: Instant::now(),
            backoff: Backoff::new(AGAIN, MUCH_LATER),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use super::*;

    fn write(path: &Path, text: &str) {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn uses(source: &HostSource, generation: u64) -> BTreeMap<ComponentVersion, SourceUses> {
        let one = SourceUse { secret: "token".parse().unwrap(), generation };
        [("services/web/latest".parse().unwrap(), [(source.clone(), one)].into())].into()
    }

    #[test]
    fn a_value_that_comes_late_or_changes_makes_its_readers_stale_and_a_failure_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let (secrets, source) = (HostSecrets::default(), HostSource::File(path.clone(), None));
        let (value, generation) = secrets.read(&source);
        assert!(value.is_err() && generation == 0);
        secrets.exported(uses(&source, generation));
        secrets.look_at_files();
        // The component says itself that it has no value.
        assert_eq!((secrets.stale().len(), secrets.problems()), (0, Vec::new()));

        write(&path, "one");
        secrets.look_at_files();
        assert_eq!(secrets.stale().len(), 1);
        let (value, first) = secrets.read(&source);
        assert!(value.is_ok());
        secrets.exported(uses(&source, first));
        assert_eq!(secrets.stale().len(), 0);
        // The same value, written anew, is no change.
        write(&path, "one");
        secrets.look_at_files();
        assert_eq!(secrets.stale().len(), 0);

        fs::remove_file(&path).unwrap();
        secrets.look_at_files();
        assert_eq!((secrets.stale().len(), secrets.problems().len()), (0, 1));
        let problem = secrets.problems().remove(0);
        assert!(
            problem.starts_with("the secret token keeps its last good value") && !problem.contains("one"),
            "{problem}"
        );
        assert_eq!(secrets.read(&source), (value, first), "the last good value stays");
        write(&path, "two");
        secrets.look_at_files();
        assert_eq!((secrets.stale().len(), secrets.problems().len()), (1, 0));
        secrets.exported(BTreeMap::new());
        assert!(!secrets.is_wanted() && secrets.content.lock().known.is_empty());
    }

    #[test]
    fn a_command_that_makes_a_new_value_each_time_does_not_run_once_more_to_render_it() {
        let (secrets, made) = (HostSecrets::default(), ["sh", "-c", "echo $$"].map(str::to_owned).to_vec());
        let source = HostSource::Command(made, None);
        secrets.exported(uses(&source, 0));
        secrets.renew(&source, &|| false);
        let (first, generation) = secrets.read(&source);
        assert!(first.is_ok() && generation == 1);
        // The rendering failed, and is tried again.
        assert_eq!(secrets.read(&source), (first.clone(), 1));
        secrets.exported(uses(&source, 1));
        assert_eq!(secrets.recall_value(&source), (first.clone(), 1), "nothing changed");
        let (second, generation) = secrets.read(&source);
        assert!(second.is_ok() && second != first && generation == 2);
    }

    #[test]
    fn a_command_runs_for_all_that_read_it_and_only_once_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (runs, go) = (folder.path().join("runs"), folder.path().join("go"));
        fs::write(&runs, "").unwrap();
        nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Each run tells that it began, and ends when somebody writes.
        let script = format!("echo $$ >>{}; read line <{}; echo $line", runs.display(), go.display());
        let source = HostSource::Command(["sh", "-c", &script].map(str::to_owned).to_vec(), None);
        let secrets = HostSecrets::default();
        secrets.exported(uses(&source, 0));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| secrets.renew(&source, &|| false));
            let begun = Instant::now();
            while fs::read_to_string(&runs).unwrap().is_empty() {
                assert!(begun.elapsed() < Duration::from_secs(9));
                std::thread::yield_now();
            }
            let second = scope.spawn(|| secrets.read(&source));
            let reading = secrets.content.lock().known[&source].reading.clone();
            // This thread, both readers, and the source itself have it: so the second waits.
            while Arc::strong_count(&reading) < 4 {
                assert!(begun.elapsed() < Duration::from_secs(9));
                std::thread::yield_now();
            }
            fs::write(&go, "value\n").unwrap();
            first.join().unwrap();
            let (value, generation) = second.join().unwrap();
            assert!(value.is_ok() && generation == 1);
        });
        assert_eq!(fs::read_to_string(&runs).unwrap().lines().count(), 1);
    }

    #[test]
    fn of_two_components_that_read_one_command_none_makes_the_other_stale_for_ever() {
        let (secrets, made) = (HostSecrets::default(), ["sh", "-c", "echo $$"].map(str::to_owned).to_vec());
        let source = HostSource::Command(made, None);
        let mut both = uses(&source, 0);
        let other: ComponentVersion = "services/api/latest".parse().unwrap();
        both.insert(other.clone(), both.values().next().unwrap().clone());
        secrets.exported(both.clone());
        secrets.renew(&source, &|| false);
        let mut rounds = 0;
        // Each stale component is rendered alone.
        while let Some(name) = secrets.stale().pop_first() {
            let (_, generation) = secrets.read(&source);
            both.get_mut(&name).unwrap().get_mut(&source).unwrap().generation = generation;
            secrets.exported(both.clone());
            rounds += 1;
            assert!(rounds <= 2, "each runs the command again");
        }
        assert_eq!(rounds, 2);
    }

    #[test]
    fn a_file_that_is_written_twice_within_one_tick_of_the_clock_is_read_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let (secrets, source) = (HostSecrets::default(), HostSource::File(path.clone(), None));
        write(&path, "one");
        secrets.exported(uses(&source, 0));
        let mut seen = BTreeSet::new();
        for text in ["abc", "abd", "abe"] {
            fs::write(&path, text).unwrap();
            secrets.look_at_files();
            seen.insert(secrets.content.lock().generation);
        }
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn a_command_runs_again_after_its_period_and_sooner_when_it_failed() {
        let (secrets, good) = (HostSecrets::default(), HostSource::Command(vec!["hostname".to_owned()], None));
        let bad = HostSource::Command(vec!["/nowhere/at/all".to_owned()], None);
        secrets.set_period(Duration::from_secs(1000));
        let mut both = uses(&good, 0);
        both.extend([("services/api/latest".parse().unwrap(), uses(&bad, 0).into_values().next().unwrap())]);
        secrets.exported(both);
        assert!(secrets.next_command().unwrap().1 <= Instant::now());
        let before = Instant::now();
        secrets.renew(&good, &|| false);
        let (after, renewed) = (Instant::now(), secrets.content.lock().known[&good].due);
        secrets.renew(&bad, &|| false);
        let (next, due) = secrets.next_command().unwrap();
        assert!(next == bad && due <= Instant::now() + AGAIN);
        for _ in 0..20 {
            secrets.renew(&bad, &|| false);
        }
        assert!(secrets.next_command().unwrap().1 <= Instant::now() + MUCH_LATER);
        let [least, most] = [499, 1000].map(Duration::from_secs);
        assert!((before + least..=after + most).contains(&renewed), "{:?}", renewed - before);
    }
}
