//! Building a snapshot's folder beside the current one, and switching readers to it.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, UNIX_EPOCH},
};

use conf_core::render::StoreHash;
use libconf::name::{Kind, Version};

use crate::{
    export::{
        error::ExportError,
        folder::{BLOCK, Export},
        names::{CURRENT, HEADER, NEW, NEXT, names_hash, names_links, put},
        plan::{Contents, ExportPlan, Header, KeptSnapshot},
    },
    fs::Entry,
};

/// 8: with fewer components, making links ahead saves nothing that counts.
const WORTH_AHEAD: usize = if cfg!(test) { 1 } else { 8 };

impl Export {
    /// Builds the snapshot's folder beside the others. No reader sees it. It is not durable before
    /// [`Export::make_durable`].
    ///
    /// With `anew`, shares nothing with the snapshot before, and checks the links that exist.
    pub(crate) fn build(&mut self, header: &Header, plan: &ExportPlan, anew: bool) -> Result<(), ExportError> {
        self.build_folder(header, plan, anew).map_err(|cause| self.failed("build a snapshot", cause))
    }

    fn build_folder(&mut self, header: &Header, plan: &ExportPlan, anew: bool) -> io::Result<()> {
        let ahead = self.next.take().is_some_and(|next| !anew && Some(next) == self.current);
        let before = match self.current {
            Some(sequence) if !anew && !ahead => Some(self.snapshots.enter(&sequence.to_string())?),
            _ => None,
        };
        self.snapshots.remove(NEW)?;
        let folder = if ahead {
            self.snapshots.rename(NEXT, &self.snapshots, NEW)?;
            self.snapshots.enter(NEW)?
        } else {
            self.snapshots.make(NEW)?
        };
        for name in plan.gone.iter().filter(|_| ahead) {
            folder.enter(name.kind.as_str())?.remove(name.name.as_str())?;
        }
        for kind in Kind::ALL {
            let mut links = plan.links.iter().filter(|(name, _)| name.kind == kind).peekable();
            if links.peek().is_none() {
                folder.remove(kind.as_str())?;
                continue;
            }
            let new = folder.enter_or_make(kind.as_str())?;
            let old = before.as_ref().and_then(|before| before.enter(kind.as_str()).ok());
            for (name, link) in links {
                let place = name.name.as_str();
                let is_there = || ahead || old.as_ref().is_some_and(|old| new.share(old, place).is_ok());
                let shared = link.keep && is_there();
                if !shared {
                    let hash = self.make_names(&link.versions, anew)?;
                    if ahead {
                        new.remove(place)?;
                    }
                    new.link(place, &format!("../../../names/{hash}"))?;
                }
            }
            self.unsynced.add(new);
        }
        self.unsynced.add(folder.write(HEADER, &serde_json::to_vec(header)?, 0o444)?);
        folder.stamp(UNIX_EPOCH + Duration::from_secs(header.time))?;
        self.unsynced.add(folder);
        // One that was removed by hand is built under its own name again.
        let (sequence, beside) = (header.sequence.to_string(), self.beside(header.sequence).name());
        let kept = self.kept.contains_key(&header.sequence) && self.snapshots.entry(&sequence)?.is_some();
        self.taking += BLOCK * 3;
        let name = if kept {
            beside
        } else {
            self.snapshots.remove(&beside)?;
            sequence
        };
        let exists = self.snapshots.entry(&name)?.is_some();
        if header.through.is_some() {
            // Nothing ever switches to it, so its name alone says that it is whole: its content
            // must be durable before it has the name.
            self.flush(&[])?;
        }
        put(&self.snapshots, &name, exists)
    }

    /// Makes all durable that was staged and built, and what else was added to `unsynced`: in one
    /// wait for the disk.
    pub(crate) fn make_durable(&mut self) -> Result<(), ExportError> {
        self.make_durable_with(&[])
    }

    /// Does so with files that are no part of the export.
    pub(crate) fn make_durable_with(&mut self, others: &[File]) -> Result<(), ExportError> {
        self.flush(others).map_err(|cause| self.failed("make files durable", cause))
    }

    fn flush(&mut self, others: &[File]) -> io::Result<()> {
        let outer = [&self.store, &self.names, &self.snapshots].map(AsFd::as_fd);
        let last: Vec<BorrowedFd<'_>> = others.iter().map(AsFd::as_fd).chain(outer).collect();
        self.unsynced.flush(&last)
    }

    /// Makes the links of the next snapshot ahead, while nobody waits: most will be those of the
    /// current one.
    pub(crate) fn prepare_next(&mut self) {
        let worth = self.current().is_some_and(|(_, kept)| kept.contents.len() >= WORTH_AHEAD);
        if !worth || self.next == self.current {
            return;
        }
        // If this fails, building the next snapshot takes a little longer, and reports the error.
        let made = self.snapshots.remove(NEXT).and_then(|()| self.make_next());
        self.next = made.ok().and(self.current);
    }

    fn make_next(&self) -> io::Result<()> {
        let Some(current) = self.current else { return Ok(()) };
        let before = self.snapshots.enter(&current.to_string())?;
        let next = self.snapshots.make(NEXT)?;
        for kind in Kind::ALL {
            let Ok(old) = before.enter(kind.as_str()) else { continue };
            let new = next.make(kind.as_str())?;
            for (name, _) in old.entries()? {
                new.share(&old, &name)?;
            }
        }
        Ok(())
    }

    /// Makes the folder of links for a component's versions, unless it exists. With `anew`, one
    /// that exists and is closed, or holds other links, is replaced.
    fn make_names(&mut self, versions: &BTreeMap<Version, StoreHash>, anew: bool) -> io::Result<StoreHash> {
        let hash = names_hash(versions);
        let links = names_links(versions);
        let name = hash.to_string();
        let exists = self.names.entry(&name)?.is_some();
        let is_right = || self.links_in(&name).ok().as_ref() == Some(&links) && self.are_names_open(&name);
        if exists && (!anew || is_right()) {
            return Ok(hash);
        }
        self.names.remove(NEW)?;
        let folder = self.names.make(NEW)?;
        for (link, target) in &links {
            folder.link(link, target)?;
        }
        self.unsynced.add(folder);
        self.taking += BLOCK * (links.len() as u64 + 2);
        put(&self.names, &name, exists)?;
        Ok(hash)
    }

    /// Lets readers see a built snapshot, in one step. That step moves the link `current`, or, if a
    /// snapshot of this sequence is kept already, exchanges the two folders. After it nothing is an
    /// error any more. An unchanged link is made again, for readers that wait for a change of it.
    pub(crate) fn switch(&mut self, header: Header, contents: Contents) -> Result<(), ExportError> {
        let sequence = header.sequence;
        let replaces = self.take_up(header, contents)?;
        if let Err(cause) = self.switch_link(&format!("snapshots/{sequence}"), replaces) {
            if !replaces {
                self.kept.remove(&sequence);
            }
            return Err(self.failed("switch", cause));
        }
        self.current = Some(sequence);
        Ok(())
    }

    /// Counts a built snapshot as kept. One that was kept under its sequence becomes a former one;
    /// then this returns true.
    pub(crate) fn take_up(&mut self, header: Header, contents: Contents) -> Result<bool, ExportError> {
        let sequence = header.sequence;
        let beside = self.beside(sequence);
        let is_beside = self.kept.contains_key(&sequence)
            && self.snapshots.entry(&beside.name()).map_err(|cause| self.failed("switch", cause))?.is_some();
        if is_beside {
            let exchanged = self.snapshots.exchange(&beside.name(), &sequence.to_string());
            exchanged.map_err(|cause| self.failed("switch", cause))?;
        }
        let before = self.kept.insert(sequence, KeptSnapshot { header: Some(header), contents });
        *self.took.entry(sequence).or_default() += std::mem::take(&mut self.taking);
        let Some(before) = before.filter(|_| is_beside) else { return Ok(false) };
        self.former.insert(beside, before.contents);
        if let Err(error) = self.thin_former().and_then(|()| self.snapshots.sync()) {
            tracing::warn!(%error, path = %self.path.display(), "the switch may not survive a power cut");
        }
        Ok(true)
    }

    /// Looks at the link on disk: a switch that has happened already is not repeated, except
    /// `again`.
    fn switch_link(&mut self, target: &str, again: bool) -> io::Result<()> {
        let found = self.root.entry(CURRENT)?;
        if found != Some(Entry::Link) || self.root.read_link(CURRENT)? != target {
            if found.is_some_and(|found| found != Entry::Link) {
                // Another program put it there, and it is in the way.
                self.root.remove(CURRENT)?;
            }
            self.make_link(target)?;
        } else if again && let Err(error) = self.make_link(target) {
            tracing::warn!(%error, path = %self.path.display(), "processes see the new files only when they look again");
        }
        // Readers see it by now. If this fails, a power cut may bring back the snapshot before,
        // whole.
        if let Err(error) = self.root.sync() {
            tracing::warn!(%error, path = %self.path.display(), "the switch may not survive a power cut");
        }
        Ok(())
    }

    fn make_link(&self, target: &str) -> io::Result<()> {
        self.root.remove(NEW)?;
        self.root.link(NEW, target)?;
        self.root.rename(NEW, &self.root, CURRENT).inspect_err(|_| drop(self.root.remove(NEW)))
    }
}
