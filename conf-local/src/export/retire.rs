//! Removing what is not needed any more.

use std::{
    collections::{BTreeSet, HashSet},
    io,
    time::SystemTime,
};

use conf_core::render::StoreHash;
use libconf::name::Sequence;

use crate::{
    export::{
        error::ExportError,
        folder::Export,
        names::{Former, NEW, names_hash, remove_whole},
        plan::{Retention, by_name, outdated},
    },
    fs::{Folder, Unsynced},
};

impl Export {
    /// Removes snapshots that are not kept any more, except those of `held`. Costs nothing if there are none.
    pub(crate) fn retire(
        &mut self,
        retention: Retention,
        held: &BTreeSet<Sequence>,
        now: SystemTime,
    ) -> Result<(), ExportError> {
        // A snapshot that was only rendered for operations does not displace one that was in use.
        let (older, used): (Vec<Sequence>, Vec<Sequence>) =
            self.kept.keys().partition(|sequence| self.is_older(**sequence));
        let times = used.into_iter().map(|sequence| (sequence, self.placed(sequence)));
        let mut outdated = outdated(&times.collect(), retention, now);
        outdated.extend(older);
        outdated.retain(|sequence| !held.contains(sequence));
        outdated.sort_unstable_by(|one, other| other.cmp(one));
        let gone = self.let_go(outdated, retention, now).map_err(|cause| self.failed("clean up", cause))?;
        for (sequence, _) in &gone {
            self.kept.remove(sequence);
        }
        let former = self.retire_former().map_err(|cause| self.failed("clean up", cause))?;
        if gone.is_empty() && !former {
            return Ok(());
        }
        // `gone` holds the locks until all of them are removed.
        self.discard()
    }

    /// Removes everything that no kept snapshot uses, such as what a failed step left.
    pub(crate) fn discard(&mut self) -> Result<(), ExportError> {
        self.unsynced = Unsynced::default();
        self.sweep().map_err(|cause| self.failed("clean up", cause))
    }

    /// Removes every entry that no kept snapshot uses.
    pub(crate) fn sweep(&mut self) -> io::Result<()> {
        self.next = None;
        self.root.remove(NEW)?;
        retain(&self.snapshots, |name| {
            name.parse::<Sequence>().is_ok_and(|sequence| self.kept.contains_key(&sequence))
                || Former::of_name(name).is_some_and(|former| self.former.contains_key(&former))
        })?;
        let (mut names, mut stores) = (HashSet::new(), HashSet::new());
        for contents in self.kept.values().map(|kept| &kept.contents).chain(self.former.values()) {
            stores.extend(contents.values().copied());
            names.extend(by_name(contents).values().map(names_hash));
        }
        let is_in = |hashes: &HashSet<StoreHash>, name: &str| {
            name.parse::<StoreHash>().is_ok_and(|hash| hashes.contains(&hash))
        };
        retain(&self.names, |name| is_in(&names, name))?;
        retain(&self.store, |name| is_in(&stores, name))
    }
}

/// Removes the entries of a folder that are not needed.
fn retain(folder: &Folder, needed: impl Fn(&str) -> bool) -> io::Result<()> {
    for (name, _) in folder.entries()? {
        if !needed(&name) {
            remove_whole(folder, &name)?;
        }
    }
    Ok(())
}
