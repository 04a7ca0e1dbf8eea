//! One snapshot of the export, opened once and held while it is read.

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap},
    fmt,
    fs::{self, File},
    io::{self, Read},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde::{Deserialize, de::DeserializeOwned};

use crate::client::{error::Error, lock::lock, release::let_go};
use crate::name::{CommitId, ComponentSelector, ComponentVersion, Sequence, Version};

/// Bytes of a header: far more than one that names every fault.
const MOST_HEADER_BYTES: u64 = 16 << 20;

/// A whole snapshot: `export/snapshots/<sequence>`, whose content never changes.
///
/// The agent keeps the folder while this exists, since it is open and under a shared lock, which
/// the system releases with the process. If another process holds the lock alone, the agent keeps
/// the folder only as long as its retention says.
pub(crate) struct Snapshot {
    /// Its sequence.
    pub(crate) sequence: Sequence,
    /// Its directory, for messages. The agent may have renamed it, see [`Snapshot::inside`].
    pub(crate) dir: PathBuf,
    /// The part of `snapshot.json` that is needed here.
    pub(crate) header: Header,
    /// Device and inode of the folder. A snapshot that was made again has another.
    pub(crate) identity: (u64, u64),
    /// Values that were read before, by the requested type and name.
    values: Mutex<Values>,
    /// The open folder, whose lock keeps it.
    held: File,
}

type Values = HashMap<TypeId, HashMap<Box<str>, Arc<dyn Any + Send + Sync>>>;

/// The part of `snapshot.json` that is needed here. Earlier agents wrote no such file; their
/// exports are read, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Header {
    /// The snapshot's commit.
    pub(crate) commit: Option<CommitId>,
    /// The commit of the datacenter's snapshot before this one.
    pub(crate) parent: Option<CommitId>,
    /// Components that were held back, with the reason. Their files are of an older snapshot.
    #[serde(default)]
    pub(crate) faults: BTreeMap<ComponentVersion, String>,
}

impl Snapshot {
    /// Opens the snapshot that `current` names now. It stays while the result exists.
    pub(crate) fn current(export_dir: &Path) -> Result<Self, Error> {
        let no_export = |source| Error::NoExport { dir: export_dir.to_owned(), source };
        let (sequence, dir) = Self::named(export_dir)?;
        Self::open(sequence, dir).map_err(no_export)
    }

    /// Returns the sequence and the path that `current` names now.
    pub(crate) fn named(export_dir: &Path) -> Result<(Sequence, PathBuf), Error> {
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
    /// - Errors: `NotFound` when it is not there, or is being removed.
    pub(crate) fn open(sequence: Sequence, dir: PathBuf) -> io::Result<Self> {
        let held = File::open(&dir)?;
        // The agent removes a folder by taking its lock and then its name, which the check below
        // notices. If another process has the lock, or the file system has no locks, the agent
        // keeps the folder as long as its retention says.
        let _ = held.try_lock_shared();
        // Between opening and locking, the folder may have been removed or replaced.
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

    /// Returns a path to the held folder, even if another folder has its name now: the agent makes
    /// a snapshot again when it can use a component that it held back at first.
    pub(crate) fn inside(&self) -> PathBuf {
        let open = PathBuf::from(format!("/proc/self/fd/{}", self.held.as_raw_fd()));
        // Without /proc there is only the name.
        if open.exists() { open } else { self.dir.clone() }
    }

    /// Returns false once the folder was removed although it is held: readers must not fill the
    /// disk.
    pub(crate) fn is_there(&self) -> bool {
        self.held.metadata().is_ok_and(|about| about.nlink() > 0)
    }

    /// Returns false once another folder has its name, or none has.
    pub(crate) fn has_its_name(&self) -> bool {
        fs::metadata(&self.dir).is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }

    /// Finds the version of `selector` in this snapshot. If it names none and there are several,
    /// that is `before`, if it is still there.
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

    /// Reads the settings of one component, as the agent wrote them: one JSON object.
    pub(crate) fn settings(&self, component: &ComponentVersion) -> Result<Vec<u8>, Error> {
        let (inside, name) = (self.inside(), format!("{component}.json"));
        fs::read(inside.join(&name)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound if inside.join(component.to_string()).exists() => {
                Error::NoSettings { component: component.clone() }
            }
            _ => Error::Read { path: self.dir.join(name), source },
        })
    }

    /// Reads the settings of the component `name` as a `T`, exactly as they are at this snapshot:
    /// never older ones of a component that was held back.
    ///
    /// A value that was read once is one lookup from then on.
    pub(crate) fn value<T>(&self, name: &str) -> Result<Arc<T>, Error>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        if let Some(known) = lock(&self.values).get(&TypeId::of::<T>()).and_then(|values| values.get(name)) {
            return Ok(Arc::clone(known).downcast().expect("values are kept by their type"));
        }
        let component = self.exact(name)?;
        let value: Arc<T> = Arc::new(self.parse(&component, &self.settings(&component)?)?);
        // Two concurrent readers may each have a value of their own; later readers get the one that
        // is stored here.
        let mut values = lock(&self.values);
        let replaced = values.entry(TypeId::of::<T>()).or_default().insert(name.into(), Arc::<T>::clone(&value));
        drop(values);
        let_go(replaced);
        Ok(value)
    }

    /// Finds the version of the component `name`. Its files must be of this snapshot, not of an
    /// older one.
    pub(crate) fn exact(&self, name: &str) -> Result<ComponentVersion, Error> {
        match self.find(&name.parse()?, None)? {
            (_, Some(held_back)) => Err(held_back),
            (component, None) => Ok(component),
        }
    }

    /// As [`Snapshot::resolve`], with [`Error::HeldBack`] beside a version whose files are of an
    /// older snapshot.
    pub(crate) fn find(
        &self,
        selector: &ComponentSelector,
        before: Option<&ComponentVersion>,
    ) -> Result<(ComponentVersion, Option<Error>), Error> {
        let resolved = self.resolve(selector, before);
        let fault = match &resolved {
            Err(Error::SeveralVersions { .. } | Error::Read { .. }) => None,
            // A reader of one version stays on it, whatever happens to the other versions.
            Ok(found) if before == Some(found) => self.header.faults.get_key_value(found),
            // A component that was held back when it was new has no files here.
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

    /// Parses settings as a `T`.
    pub(crate) fn parse<T: DeserializeOwned>(&self, component: &ComponentVersion, bytes: &[u8]) -> Result<T, Error> {
        let shape = |source| Error::Shape { component: component.clone(), sequence: self.sequence, source };
        // A panic in the program's own parsing would end the following thread without a message.
        match catch_unwind(AssertUnwindSafe(|| serde_json::from_slice(bytes))) {
            Ok(parsed) => parsed.map_err(|error| shape(Box::new(error))),
            Err(_) => Err(shape("the program's own parsing panicked".into())),
        }
    }

    /// Lists the versions of the component in this snapshot, sorted; none if it is not here.
    fn versions(&self, selector: &ComponentSelector) -> Result<Vec<Version>, Error> {
        let (inside, name) = (self.inside(), selector.component.to_string());
        let failed = |source| Error::Read { path: self.dir.join(&name), source };
        let entries = match fs::read_dir(inside.join(&name)) {
            Ok(entries) => entries,
            // If the whole snapshot was removed, that says nothing about the component.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_there() => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(failed(error)),
        };
        let mut versions = Vec::new();
        for entry in entries {
            // `<version>.json` is not a version's name, so only links to directories remain.
            versions.extend(entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse().ok()));
        }
        versions.sort();
        Ok(versions)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the values: settings may hold secrets.
        f.debug_struct("Snapshot").field("sequence", &self.sequence).field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Header {
    /// Reads the header of the snapshot in `dir`; an empty one if there is none.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
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
    fn a_foreign_lock_holds_no_reader_up() {
        let export = Export::with(7, &[("services/web/latest", &web(80))]);
        let hog = File::open(export.path.join("snapshots/7")).unwrap();
        hog.try_lock().unwrap();
        let snapshot = Snapshot::current(&export.path).unwrap();
        let version = "services/web/latest".parse().unwrap();
        assert_eq!(snapshot.resolve(&"services/web".parse().unwrap(), None).unwrap(), version);
        assert!(snapshot.is_there());
        // A snapshot that the agent removes has lost its name already.
        let gone = export.path.join("snapshots/.7.gone");
        fs::rename(export.path.join("snapshots/7"), &gone).unwrap();
        let missing = Snapshot::current(&export.path).map(|snapshot| snapshot.sequence).unwrap_err();
        assert!(matches!(missing, Error::NoExport { .. }), "{missing}");
    }
}
