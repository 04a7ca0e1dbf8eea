//! Former snapshots: those that were rendered again. A component that could not be used at first may be
//! usable later, so that one sequence gets other files. A reader of the former folder goes on reading
//! in it: it stays whole, under another name.

use std::{collections::HashMap, io};

use libconf::name::Sequence;

use crate::{
    export::{
        folder::Export,
        names::{Former, remove_whole},
    },
    fs::Entry,
};

/// At most 16 stay, even if they are in use; the oldest go first.
const MOST_FORMER: usize = if cfg!(test) { 3 } else { 16 };

impl Export {
    /// Returns the name under which a kept snapshot is built again. The former one has it after the exchange.
    pub(crate) fn beside(&self, sequence: Sequence) -> Former {
        let of_it = self.former.keys().filter(|former| former.sequence == sequence);
        Former { sequence, number: of_it.map(|former| former.number + 1).max().unwrap_or(0) }
    }

    /// Reads the former snapshots on disk. Each is whole, even one that nothing ever switched to.
    pub(crate) fn read_former(&mut self) -> io::Result<()> {
        for (name, kind) in self.snapshots.entries()? {
            let Some(former) = Former::of_name(&name) else { continue };
            if kind == Entry::Folder && former.name() == name {
                let contents = self.read_snapshot(&name, &mut HashMap::new())?.contents;
                self.former.insert(former, contents);
            }
        }
        Ok(())
    }

    /// Removes the oldest if there are too many.
    pub(crate) fn thin_former(&mut self) -> io::Result<()> {
        while self.former.len() > MOST_FORMER {
            let Some((former, _)) = self.former.pop_first() else { break };
            remove_whole(&self.snapshots, &former.name())?;
        }
        Ok(())
    }

    /// Forgets those whose snapshot is not kept any more and that nobody reads. True if there were any.
    pub(crate) fn retire_former(&mut self) -> io::Result<bool> {
        let orphans = self.former.keys().copied().filter(|former| !self.kept.contains_key(&former.sequence));
        let mut gone = Vec::new();
        for former in orphans {
            if self.snapshots.enter(&former.name())?.lock_alone()? {
                gone.push(former);
            }
        }
        for former in &gone {
            self.former.remove(former);
        }
        Ok(!gone.is_empty())
    }
}
