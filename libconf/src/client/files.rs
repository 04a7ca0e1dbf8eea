//! The files of one component.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Component as Part, Path, PathBuf},
    sync::Arc,
};

use crate::client::{error::Error, snapshot::Snapshot};
use crate::name::{ComponentVersion, Sequence};

/// The files of a component in one snapshot: several reads never mix two.
///
/// They stay on this host while this exists, and never change. A clone has the same files.
#[derive(Clone, Debug)]
pub struct Files {
    /// Keeps the files.
    snapshot: Arc<Snapshot>,
    component: ComponentVersion,
    /// Their directory, looked up once.
    dir: PathBuf,
}

impl Files {
    pub(crate) fn open(snapshot: Arc<Snapshot>, component: ComponentVersion) -> Result<Self, Error> {
        let name = component.to_string();
        let failed = |source| Error::Read { path: snapshot.dir.join(&name), source };
        let dir = fs::canonicalize(snapshot.inside().join(&name)).map_err(failed)?;
        Ok(Files { snapshot, component, dir })
    }

    /// Returns the component.
    pub fn component(&self) -> &ComponentVersion {
        &self.component
    }

    /// Returns the sequence of the snapshot.
    pub fn sequence(&self) -> Sequence {
        self.snapshot.sequence
    }

    /// Returns the agent's reason for holding the component back, if it did: the files are then
    /// older than the snapshot [`Files::sequence`].
    pub fn held_back(&self) -> Option<&str> {
        self.snapshot.header.faults.get(&self.component).map(String::as_str)
    }

    /// Returns their directory, for libraries that want a path. Keep this value while the path is
    /// used.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens a file by its path inside the component, such as `certificates/web.pem`.
    ///
    /// - Errors: [`Error::NoFile`]; [`Error::BadPath`] when the path is absolute or has `..` in it;
    ///   [`Error::Read`].
    pub fn file(&self, path: impl AsRef<Path>) -> Result<File, Error> {
        let path = path.as_ref();
        if path.as_os_str().is_empty() || !path.components().all(|part| matches!(part, Part::Normal(_))) {
            return Err(Error::BadPath { path: path.to_owned() });
        }
        let full = self.dir.join(path);
        File::open(&full).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory if self.dir.is_dir() => Error::NoFile {
                component: self.component.clone(),
                path: path.to_owned(),
                sequence: self.snapshot.sequence,
            },
            _ => Error::Read { path: full, source },
        })
    }

    /// Reads a whole file as bytes.
    ///
    /// - Errors: as for [`Files::file`].
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.file(&path)?.read_to_end(&mut bytes).map_err(|source| self.unread(path.as_ref(), source))?;
        Ok(bytes)
    }

    /// Reads a whole file as text.
    ///
    /// - Errors: as for [`Files::file`]; [`Error::Read`] when it is not UTF-8.
    pub fn read_to_string(&self, path: impl AsRef<Path>) -> Result<String, Error> {
        let mut text = String::new();
        self.file(&path)?.read_to_string(&mut text).map_err(|source| self.unread(path.as_ref(), source))?;
        Ok(text)
    }

    /// Lists the paths of all files and links, sorted.
    ///
    /// - Errors: [`Error::Read`].
    pub fn list(&self) -> Result<Vec<PathBuf>, Error> {
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let failed = |source| self.unread(&folder, source);
            for entry in fs::read_dir(self.dir.join(&folder)).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let path = folder.join(entry.file_name());
                if entry.file_type().map_err(failed)?.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        Ok(found)
    }

    fn unread(&self, path: &Path, source: io::Error) -> Error {
        Error::Read { path: self.dir.join(path), source }
    }
}
