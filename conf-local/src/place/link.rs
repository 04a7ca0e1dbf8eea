//! Placing by link: the path is one link into the export, so that its program sees every switch as a whole.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::fs::{Entry, Folder, Owner};
use crate::place::{
    entry::PlaceEntry,
    target::{self, Making, Refusal, Trusted},
};

/// A path where a link stands or is to stand.
#[derive(Debug)]
pub(crate) struct Link {
    parent: Folder,
    name: String,
    /// Where it leads now.
    here: Option<PathBuf>,
}

/// Opens what the path is in. Refuses what stands there and does not lead into the export, which is `export`.
pub(crate) fn look(entry: &PlaceEntry, export: &Path) -> Result<Link, Refusal> {
    let shown = entry.path.display();
    let failed = |error: io::Error| Refusal(format!("{shown} cannot be looked at: {error}"));
    let parent = entry.path.parent().unwrap_or(Path::new("/"));
    let name = entry.path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let making = Making { mode: 0o755, owner: Owner::default() };
    let parent = target::open(parent, &Trusted::new(None, None), Some(making))?
        .ok_or_else(|| Refusal(format!("{} is not there", parent.display())))?;
    let here = match parent.stat(&name).map_err(failed)?.as_ref().map(Entry::of) {
        None => None,
        Some(Entry::Link) => {
            let target = PathBuf::from(parent.read_link(&name).map_err(failed)?);
            if !target.starts_with(export) {
                let target = target.display();
                return Err(Refusal(format!(
                    "{shown} is a link to {target}, which conf-local did not make; take it away"
                )));
            }
            Some(target)
        }
        Some(Entry::Folder) => {
            return Err(Refusal(format!("{shown} is a folder; move it away, or place by copy (mode: copy)")));
        }
        Some(_) => return Err(Refusal(format!("{shown} is in the way; move it away"))),
    };
    Ok(Link { parent, name, here })
}

impl Link {
    /// True when it leads there, or, for nowhere, is not there.
    pub(crate) fn leads_to(&self, target: Option<&Path>) -> bool {
        self.here.as_deref() == target
    }

    /// Lets it lead to `target` in one step, or takes it away.
    pub(crate) fn lead(&mut self, target: Option<&Path>) -> io::Result<()> {
        if self.leads_to(target) {
            return Ok(());
        }
        match target {
            None => self.parent.remove_one(&self.name, false)?,
            Some(target) => {
                let new = format!(".{}.conf-local", self.name);
                self.parent.remove_one(&new, false)?;
                self.parent.link(&new, &target.to_string_lossy())?;
                self.parent.rename(&new, &self.parent, &self.name)?;
            }
        }
        self.here = target.map(Path::to_owned);
        self.parent.sync()
    }
}
