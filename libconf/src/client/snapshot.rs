//! One snapshot of the export, opened once, held, and read inside.

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap},
    fmt,
    fs::{self, File},
    io::{self, Read},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{Error, follow::let_go};
use crate::name::{CommitId, ComponentSelector, ComponentVersion, Sequence, Version};

/// Far above what a header comes to, which names every fault.
const MOST_HEADER_BYTES: u64 = 16 << 20;

/// A whole snapshot: `export/snapshots/<sequence>`, whose content never changes.
///
/// The agent keeps its folder while this exists: it is open and under a shared lock, which ends with the process too. Only
/// where somebody else has the lock alone is it kept as long as the retention says.
pub(super) struct Snapshot {
    /// Its number.
    pub(super) sequence: Sequence,
    /// Its own directory, for messages. It may have another name by now, see [`Snapshot::inside`].
    pub(super) dir: PathBuf,
    /// What it says of itself.
    pub(super) header: Header,
    /// Device and inode of the folder: one that was made anew is another.
    pub(super) identity: (u64, u64),
    /// Values that were read before, by the type and the name that they were asked for with.
    values: Mutex<Values>,
    /// The open folder, whose lock is the hold.
    held: File,
}

type Values = HashMap<TypeId, HashMap<Box<str>, Arc<dyn Any + Send + Sync>>>;

/// What of `snapshot.json` is needed here; an export without it (an agent before this version) is read all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Header {
    /// The snapshot's commit.
    pub(super) commit: Option<CommitId>,
    /// The commit of the datacenter's snapshot before it.
    pub(super) parent: Option<CommitId>,
    /// Components that were held back, with the reason: their files are of an older snapshot.
    #[serde(default)]
    pub(super) faults: BTreeMap<ComponentVersion, String>,
}

impl Snapshot {
    /// The snapshot that `current` names now, which stays while the result exists.
    pub(super) fn current(export_dir: &Path) -> Result<Self, Error> {
        let no_export = |source| Error::NoExport { dir: export_dir.to_owned(), source };
        let (sequence, dir) = Self::named(export_dir)?;
        Self::open(sequence, dir).map_err(no_export)
    }

    /// Which snapshot `current` names now, and where it is.
    pub(super) fn named(export_dir: &Path) -> Result<(Sequence, PathBuf), Error> {
        let no_export = |source| Error::NoExport { dir: export_dir.to_owned(), source };
        let link = fs::read_link(export_dir.join("current")).map_err(no_export)?;
        let sequence = link.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let sequence = sequence.ok_or_else(|| {
            no_export(io::Error::new(io::ErrorKind::InvalidData, format!("`current` leads to {}", link.display())))
        })?;
        Ok((sequence, export_dir.join(link)))
    }

    /// Opens and holds the snapshot in `dir`.
    ///
    /// `NotFound` when it is not there, or goes at this moment.
    pub(super) fn open(sequence: Sequence, dir: PathBuf) -> io::Result<Self> {
        let held = File::open(&dir)?;
        // Whoever removes it takes its lock and then its name, which is seen below. Anybody else may have the lock, or the file
        // system none: then it is kept as long as the agent's retention says, and no longer.
        let _ = held.try_lock_shared();
        // Between opening and locking it may have been removed or replaced.
        let (there, ours) = (fs::metadata(&dir)?, held.metadata()?);
        let identity = (ours.dev(), ours.ino());
        if (there.dev(), there.ino()) != identity {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the snapshot was replaced"));
        }
        let mut snapshot =
            Snapshot { sequence, dir, header: Header::default(), identity, values: Mutex::default(), held };
        snapshot.header = Header::read(&snapshot.inside())?;
        Ok(snapshot)
    }

    /// A path to the folder that is held, whatever stands under its name by now: the agent may make a sequence once more,
    /// when it can use what it held back at first.
    pub(super) fn inside(&self) -> PathBuf {
        let open = PathBuf::from(format!("/proc/self/fd/{}", self.held.as_raw_fd()));
        // Where there is no /proc, the name is all there is.
        if open.exists() { open } else { self.dir.clone() }
    }

    /// False once the folder was removed, in spite of being held: readers must not fill the disk.
    pub(super) fn is_there(&self) -> bool {
        self.held.metadata().is_ok_and(|about| about.nlink() > 0)
    }

    /// False once another folder stands under its name, or none.
    pub(super) fn has_its_name(&self) -> bool {
        fs::metadata(&self.dir).is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }

    /// The version of `selector` in this snapshot; where it names none and several are there, `before` if it still is.
    fn resolve(
        &self,
        selector: &ComponentSelector,
        before: Option<&ComponentVersion>,
    ) -> Result<ComponentVersion, Error> {
        let mut versions = self.versions(selector)?;
        let named = selector.version.as_ref().or_else(|| before.map(|before| &before.version));
        let at = match (named.and_then(|named| versions.iter().position(|version| version == named)), &versions[..]) {
            (Some(at), _) => at,
            (None, [_]) if selector.version.is_none() => 0,
            (None, [_, ..]) if selector.version.is_none() => {
                return Err(Error::SeveralVersions { component: selector.clone(), versions });
            }
            (None, _) => return Err(Error::NotExported { component: selector.clone(), sequence: self.sequence }),
        };
        Ok(ComponentVersion { component: selector.component.clone(), version: versions.swap_remove(at) })
    }

    /// The settings of one component, as the agent wrote them: one JSON object.
    pub(super) fn settings(&self, component: &ComponentVersion) -> Result<Vec<u8>, Error> {
        let (inside, name) = (self.inside(), format!("{component}.json"));
        fs::read(inside.join(&name)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound if inside.join(component.to_string()).exists() => {
                Error::NoSettings { component: component.clone() }
            }
            _ => Error::Read { path: self.dir.join(name), source },
        })
    }

    /// The component `name` as a `T`, exactly as it is at this snapshot: never older settings that were held back.
    ///
    /// What was read once is one lookup from then on.
    pub(super) fn value<T>(&self, name: &str) -> Result<Arc<T>, Error>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        if let Some(known) = self.values().get(&TypeId::of::<T>()).and_then(|values| values.get(name)) {
            return Ok(Arc::clone(known).downcast().expect("values are kept by their type"));
        }
        let component = self.exact(name)?;
        let value: Arc<T> = Arc::new(self.parse(&component, &self.settings(&component)?)?);
        // Two who read it at once both have it; who comes later gets the one that stands here.
        let mut values = self.values();
        let replaced = values.entry(TypeId::of::<T>()).or_default().insert(name.into(), Arc::<T>::clone(&value));
        drop(values);
        let_go(replaced);
        Ok(value)
    }

    /// The version of the component `name` here, unless what stands here is of an older snapshot.
    pub(super) fn exact(&self, name: &str) -> Result<ComponentVersion, Error> {
        match self.find(&name.parse()?, None)? {
            (_, Some(held_back)) => Err(held_back),
            (component, None) => Ok(component),
        }
    }

    /// As [`Snapshot::resolve`], with [`Error::HeldBack`] beside what is of an older snapshot.
    pub(super) fn find(
        &self,
        selector: &ComponentSelector,
        before: Option<&ComponentVersion>,
    ) -> Result<(ComponentVersion, Option<Error>), Error> {
        let resolved = self.resolve(selector, before);
        let fault = match &resolved {
            Err(Error::SeveralVersions { .. } | Error::Read { .. }) => None,
            // Who has a version stays on it, whatever becomes of others.
            Ok(found) if before == Some(found) => self.header.faults.get_key_value(found),
            // One that was held back when it was new stands here not at all.
            _ => self.header.faults.iter().find(|(component, _)| selector.matches(component)),
        };
        let held_back = fault.map(|(component, reason)| {
            let (component, reason) = (component.clone(), reason.clone());
            Error::HeldBack { component, sequence: self.sequence, reason }
        });
        match (resolved, held_back) {
            (Ok(component), held_back) => Ok((component, held_back)),
            (Err(_), Some(held_back)) => Err(held_back),
            (Err(error), None) => Err(error),
        }
    }

    /// Settings as a `T`.
    pub(super) fn parse<T: DeserializeOwned>(&self, component: &ComponentVersion, bytes: &[u8]) -> Result<T, Error> {
        let shape = |source| Error::Shape { component: component.clone(), sequence: self.sequence, source };
        // A panic of the program's own parsing would end the following for good, in silence.
        match catch_unwind(AssertUnwindSafe(|| serde_json::from_slice(bytes))) {
            Ok(parsed) => parsed.map_err(|error| shape(Box::new(error))),
            Err(_) => Err(shape("the program's own parsing panicked".into())),
        }
    }

    fn values(&self) -> MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The versions of the component that stand here, sorted; none when it is not here.
    fn versions(&self, selector: &ComponentSelector) -> Result<Vec<Version>, Error> {
        let (inside, name) = (self.inside(), selector.component.to_string());
        let failed = |source| Error::Read { path: self.dir.join(&name), source };
        let entries = match fs::read_dir(inside.join(&name)) {
            Ok(entries) => entries,
            // The whole snapshot may have gone as well, which is no answer about the component.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_there() => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(failed(error)),
        };
        let mut versions = Vec::new();
        for entry in entries {
            // `<version>.json` is not a version's name, so only the links to directories pass.
            versions.extend(entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse().ok()));
        }
        versions.sort();
        Ok(versions)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the values: settings may hold what no log should.
        f.debug_struct("Snapshot").field("sequence", &self.sequence).field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Header {
    /// The header of the snapshot in `dir`; an empty one where there is none.
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        let file = match File::open(dir.join("snapshot.json")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Header::default()),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MOST_HEADER_BYTES).read_to_end(&mut bytes)?;
        serde_json::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::{Export, web};

    #[test]
    fn a_lock_that_anybody_takes_holds_no_reader_up() {
        let export = Export::with(7, &[("services/web/latest", &web(80))]);
        let hog = File::open(export.path.join("snapshots/7")).unwrap();
        hog.try_lock().unwrap();
        let snapshot = Snapshot::current(&export.path).unwrap();
        let version = "services/web/latest".parse().unwrap();
        assert_eq!(snapshot.resolve(&"services/web".parse().unwrap(), None).unwrap(), version);
        assert!(snapshot.is_there());
        // One that is really going has lost its name already.
        let gone = export.path.join("snapshots/.7.gone");
        fs::rename(export.path.join("snapshots/7"), &gone).unwrap();
        let missing = Snapshot::current(&export.path).map(|snapshot| snapshot.sequence).unwrap_err();
        assert!(matches!(missing, Error::NoExport { .. }), "{missing}");
    }
}
