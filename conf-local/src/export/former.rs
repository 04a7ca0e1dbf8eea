//! What stood under a snapshot's name before it was made once more: what could not be used at first could be later, so that one
//! sequence has other files than before. Whoever reads in the folder of before goes on reading in it, whole, under another name.

use std::{collections::HashMap, io};

use libconf::name::Sequence;

use crate::export::{Export, remove_whole};
use crate::fs::Entry;

/// The folder of a snapshot as it was before: `<sequence>.<number>`, the later the higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Former {
    pub(crate) sequence: Sequence,
    number: u32,
}

/// At most so many stay, whoever reads in them; the oldest go first.
const MOST_FORMER: usize = if cfg!(test) { 3 } else { 16 };

impl Former {
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let (sequence, number) = name.split_once('.')?;
        Some(Former { sequence: sequence.parse().ok()?, number: number.parse().ok()? })
    }

    pub(crate) fn name(self) -> String {
        format!("{}.{}", self.sequence, self.number)
    }
}

impl Export {
    /// Where a snapshot that is kept already is built once more, and where the one of before is when they have changed places.
    pub(crate) fn beside(&self, sequence: Sequence) -> Former {
        let of_it = self.former.keys().filter(|former| former.sequence == sequence);
        Former { sequence, number: of_it.map(|former| former.number + 1).max().unwrap_or(0) }
    }

    /// Learns which are on disk. Each is whole, whether it was in use or never switched to.
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

    /// Lets go of the oldest of too many.
    pub(crate) fn thin_former(&mut self) -> io::Result<()> {
        while self.former.len() > MOST_FORMER {
            let Some((former, _)) = self.former.pop_first() else { break };
            remove_whole(&self.snapshots, &former.name())?;
        }
        Ok(())
    }

    /// Lets go of those whose snapshot is not kept any more and in which nobody reads. True when one went.
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
