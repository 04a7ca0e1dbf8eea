//! One snapshot of the export, opened once and read inside.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::Error;
use crate::name::{ComponentSelector, ComponentVersion, Sequence, Version};

/// A whole snapshot: `export/snapshots/<sequence>`, whose content never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Its number.
    pub(super) sequence: Sequence,
    /// Its own directory, not `current`: every reading below it is of this snapshot.
    pub(super) dir: PathBuf,
}

impl Snapshot {
    /// The snapshot that `current` names now.
    pub(super) fn current(export_dir: &Path) -> Result<Self, Error> {
        let no_export = |source| Error::NoExport { dir: export_dir.to_owned(), source };
        let link = fs::read_link(export_dir.join("current")).map_err(no_export)?;
        let sequence = link.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let sequence = sequence.ok_or_else(|| {
            no_export(io::Error::new(io::ErrorKind::InvalidData, format!("`current` leads to {}", link.display())))
        })?;
        let dir = export_dir.join(link);
        fs::metadata(&dir).map_err(no_export)?;
        Ok(Snapshot { sequence, dir })
    }

    /// The version of `selector` in this snapshot; where it names none and several are there, `before` if it still is.
    pub(super) fn resolve(
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
        let path = self.dir.join(format!("{component}.json"));
        fs::read(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound if self.dir.join(component.to_string()).exists() => {
                Error::NoSettings { component: component.clone() }
            }
            _ => Error::Read { path, source },
        })
    }

    /// The versions of the component that stand here, sorted; none when it is not here.
    fn versions(&self, selector: &ComponentSelector) -> Result<Vec<Version>, Error> {
        let path = self.dir.join(selector.component.to_string());
        let failed = |source| Error::Read { path: path.clone(), source };
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            // The whole snapshot may have gone as well, which is no answer about the component.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.dir.is_dir() => return Ok(Vec::new()),
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
