//! Several components, whose changes are reported together: once per snapshot, after every handle
//! is on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde::de::DeserializeOwned;

use crate::client::{
    error::Error,
    files::Files,
    follow::{Fault, Follow, Follower, Switch},
    lock::lock,
    release::let_go,
    signal::Signal,
    snapshot::Snapshot,
};
use crate::name::{ComponentName, ComponentSelector, Kind, Sequence};

/// The time between two looks for a handler of a signal that would end the process.
const HANDLER_EVERY: Duration = Duration::from_secs(1);

/// Several components of this host; made by [`Client::group`](crate::client::Client::group) and
/// [`Client::all`](crate::client::Client::all).
#[derive(Clone, Debug)]
pub struct Group {
    follower: Arc<Follower>,
    /// `None` for all components.
    members: Option<Vec<ComponentSelector>>,
}

impl Group {
    pub(crate) fn of(follower: Arc<Follower>, members: Vec<ComponentSelector>) -> Self {
        Group { follower, members: Some(members) }
    }

    pub(crate) fn all(follower: Arc<Follower>) -> Self {
        Group { follower, members: None }
    }

    /// Calls `call` after each snapshot in which one of these components changed, came or went.
    ///
    /// The calls run on a thread of their own, one after the other, so a call may block. Snapshots
    /// that come during a call lead to one call for the newest, with everything that changed since.
    /// After a call that panics, the calls go on. The first call is for the first change after this
    /// returns.
    ///
    /// - Errors: [`Error::Thread`]; [`Error::Read`] when the present snapshot cannot be read.
    /// - Cancel: dropping the returned [`Subscription`] ends the calls.
    pub fn on_change(&self, mut call: impl FnMut(&Change) + Send + 'static) -> Result<Subscription, Error> {
        self.start("libconf-change", move |change, _| {
            // The program's hook has reported its panic already.
            let _ = catch_unwind(AssertUnwindSafe(|| call(change)));
        })
    }

    /// Sends this process `signal` after each snapshot in which one of these components changed,
    /// came or went.
    ///
    /// A signal that would end the process waits until there is a handler. A program that waits for
    /// signals (`sigwait`, `signalfd`) blocks them in every thread, which it must do before it
    /// connects.
    ///
    /// - Errors: as for [`Group::on_change`].
    /// - Cancel: dropping the returned [`Subscription`] ends the signals.
    pub fn raise_on_change(&self, signal: Signal) -> Result<Subscription, Error> {
        self.start("libconf-signal", move |_, mailbox| {
            while !signal.is_survived() {
                if mailbox.ended_within(HANDLER_EVERY) {
                    return;
                }
            }
            // This fails only for a number that is no signal.
            let _ = signal.raise();
        })
    }

    fn start(
        &self,
        name: &str,
        mut deliver: impl FnMut(&Change, &Mailbox) + Send + 'static,
    ) -> Result<Subscription, Error> {
        let mailbox = Arc::new(Mailbox::default());
        let watched = self.follower.join(|snapshot| {
            let looked = Look::at(snapshot, self.members.as_deref(), &Fingerprints::new());
            if let Some((_, error)) = looked.unread {
                return Err(error);
            }
            let (members, mailbox) = (self.members.clone(), Arc::clone(&mailbox));
            Ok(Watched { members, seen: Mutex::new(looked.found), fault: Mutex::default(), mailbox })
        })?;
        let subscription =
            Subscription { mailbox: Arc::clone(&mailbox), _watched: watched, _follower: Arc::clone(&self.follower) };
        let thread = thread::Builder::new().name(name.to_owned());
        let run = move || {
            while let Some(change) = mailbox.take() {
                deliver(&change, &mailbox);
            }
        };
        thread.spawn(run).map_err(|source| Error::Thread { source })?;
        Ok(subscription)
    }
}

/// A change, with the current snapshot, from which the callback reads.
#[derive(Clone, Debug)]
pub struct Change {
    snapshot: Arc<Snapshot>,
    changed: BTreeSet<ComponentSelector>,
}

impl Change {
    /// Returns the sequence of the snapshot.
    pub fn sequence(&self) -> Sequence {
        self.snapshot.sequence
    }

    /// Lists the components of the group that changed, by the names that were given. Those of
    /// [`Client::all`](crate::client::Client::all) are without their versions.
    pub fn changed(&self) -> impl Iterator<Item = &ComponentSelector> {
        self.changed.iter()
    }

    /// Reads the settings of any component of this host at this snapshot.
    ///
    /// - Errors: [`Error::HeldBack`] when this host keeps older files of the component;
    ///   [`Error::NotExported`], [`Error::SeveralVersions`], [`Error::NoSettings`],
    ///   [`Error::Shape`], [`Error::Name`], [`Error::Read`].
    pub fn get<T: DeserializeOwned + Send + Sync + 'static>(&self, component: &str) -> Result<Arc<T>, Error> {
        self.snapshot.value(component)
    }

    /// Returns the files of any component of this host at this snapshot.
    ///
    /// - Errors: as for [`Change::get`], without those of the settings.
    pub fn files(&self, component: &str) -> Result<Files, Error> {
        Files::open(Arc::clone(&self.snapshot), self.snapshot.exact(component)?)
    }
}

/// Keeps the calls or signals coming. After it is dropped, a running call still goes on to its end.
#[derive(Debug)]
#[must_use = "calls and signals come only while this is held"]
pub struct Subscription {
    mailbox: Arc<Mailbox>,
    _watched: Arc<Watched>,
    _follower: Arc<Follower>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        lock(&self.mailbox.contents).ended = true;
        self.mailbox.filled.notify_all();
    }
}

/// The newest change that was not delivered yet: never more than one.
#[derive(Debug, Default)]
struct Mailbox {
    contents: Mutex<Contents>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Contents {
    change: Option<Change>,
    ended: bool,
}

impl Mailbox {
    fn put(&self, snapshot: Arc<Snapshot>, mut changed: BTreeSet<ComponentSelector>) {
        let mut contents = lock(&self.contents);
        let before = contents.change.take();
        changed.extend(before.iter().flat_map(|before| before.changed.iter().cloned()));
        contents.change = Some(Change { snapshot, changed });
        self.filled.notify_all();
        drop(contents);
        let_go(before);
    }

    /// Waits for a change; `None` at the end.
    fn take(&self) -> Option<Change> {
        let mut contents = lock(&self.contents);
        loop {
            if contents.ended {
                return None;
            }
            if let Some(change) = contents.change.take() {
                return Some(change);
            }
            contents = self.filled.wait(contents).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ended_within(&self, time: Duration) -> bool {
        let waited = self.filled.wait_timeout_while(lock(&self.contents), time, |contents| !contents.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }
}

/// A fingerprint of each component: its paths in the agent's store, which are named by their
/// content.
type Fingerprints = BTreeMap<ComponentSelector, Vec<PathBuf>>;

#[derive(Debug)]
struct Watched {
    members: Option<Vec<ComponentSelector>>,
    seen: Mutex<Fingerprints>,
    fault: Mutex<Option<Fault>>,
    mailbox: Arc<Mailbox>,
}

impl Follow for Watched {
    fn prepare<'a>(&'a self, snapshot: &Arc<Snapshot>) -> Switch<'a> {
        let Look { found, unread } = Look::at(snapshot, self.members.as_deref(), &lock(&self.seen));
        let snapshot = Arc::clone(snapshot);
        Box::new(move || {
            let mut seen = lock(&self.seen);
            let all: BTreeSet<&ComponentSelector> = seen.keys().chain(found.keys()).collect();
            let differs = all.into_iter().filter(|component| seen.get(component) != found.get(component));
            let changed: BTreeSet<ComponentSelector> = differs.cloned().collect();
            *seen = found;
            *lock(&self.fault) = unread.map(|(component, error)| Fault { component, error: Arc::new(error) });
            Box::new(move || {
                if !changed.is_empty() {
                    self.mailbox.put(snapshot, changed);
                }
            })
        })
    }

    fn fault(&self) -> Option<Fault> {
        lock(&self.fault).clone()
    }
}

/// The result of a look at a snapshot.
#[derive(Default)]
struct Look {
    /// The fingerprints; those from before for unread components.
    found: Fingerprints,
    /// One error of reading, with its component if it is about one alone.
    unread: Option<(Option<ComponentSelector>, Error)>,
}

impl Look {
    fn at(snapshot: &Snapshot, members: Option<&[ComponentSelector]>, before: &Fingerprints) -> Self {
        let (mut look, inside) = (Look::default(), snapshot.inside());
        match members {
            Some(members) => members.iter().for_each(|member| look.read(snapshot, &inside, member.clone(), before)),
            None => Kind::ALL.into_iter().for_each(|kind| match of_kind(snapshot, &inside, kind) {
                Ok(members) => members.into_iter().for_each(|member| look.read(snapshot, &inside, member, before)),
                Err(source) => {
                    look.unread = Some((None, Error::Read { path: snapshot.dir.join(kind.as_str()), source }));
                    let seen = before.iter().filter(|(member, _)| member.component.kind == kind);
                    look.found.extend(seen.map(|(member, print)| (member.clone(), print.clone())));
                }
            }),
        }
        look
    }

    fn read(&mut self, snapshot: &Snapshot, inside: &Path, member: ComponentSelector, before: &Fingerprints) {
        let name = member.component.to_string();
        let print = fingerprint_of(&inside.join(&name), &member).unwrap_or_else(|source| {
            self.unread = Some((Some(member.clone()), Error::Read { path: snapshot.dir.join(name), source }));
            before.get(&member).cloned()
        });
        self.found.extend(print.map(|print| (member, print)));
    }
}

/// Lists the components of one kind in the snapshot.
fn of_kind(snapshot: &Snapshot, inside: &Path, kind: Kind) -> io::Result<Vec<ComponentSelector>> {
    let entries = match fs::read_dir(inside.join(kind.as_str())) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound && snapshot.is_there() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut members = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        members.extend(name.map(|name| ComponentSelector { component: ComponentName { kind, name }, version: None }));
    }
    Ok(members)
}

/// Makes the fingerprint of the component in this folder of the snapshot; `None` if it is not
/// there.
fn fingerprint_of(path: &Path, member: &ComponentSelector) -> io::Result<Option<Vec<PathBuf>>> {
    let present = |found: io::Result<PathBuf>| match found {
        Ok(target) => Ok(Some(target)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    if let Some(version) = &member.version {
        let settings = present(fs::canonicalize(path.join(format!("{version}.json"))))?;
        let files = present(fs::canonicalize(path.join(version.as_str())))?;
        return Ok(files.map(|files| settings.into_iter().chain([files]).collect()));
    }
    // If the agent made the folder of a component's versions, it is a link that is named by its
    // content.
    if let Ok(target) = fs::read_link(path) {
        return Ok(Some(vec![target]));
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut targets = Vec::new();
    for entry in entries {
        targets.push(fs::canonicalize(entry?.path())?);
    }
    targets.sort();
    Ok(Some(targets))
}

#[cfg(test)]
mod tests;
