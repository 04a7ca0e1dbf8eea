//! The folder `export/`, opened for writing, and its store.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
};

use conf_core::{
    api::Pointer,
    render::{Content, Rendered, StoreHash},
};
use libconf::name::{CommitId, ComponentVersion, Sequence};

use crate::{
    export::{
        error::ExportError,
        names::{Former, NEW, SHOWN, mode_of, put},
        plan::{Contents, KeptSnapshot},
        seen::Seen,
    },
    fs::{Entry, Folder, Unsynced},
};

/// The folder `export/`. Only one process may open it at a time.
pub(crate) struct Export {
    /// Absolute.
    pub(crate) path: PathBuf,
    pub(crate) root: Folder,
    pub(crate) store: Folder,
    pub(crate) names: Folder,
    pub(crate) snapshots: Folder,
    pub(crate) kept: BTreeMap<Sequence, KeptSnapshot>,
    /// Snapshots that were rendered again, as they were before: readers may still use them.
    pub(crate) former: BTreeMap<Former, Contents>,
    pub(crate) current: Option<Sequence>,
    /// The snapshot whose links are in `.next` already.
    pub(crate) next: Option<Sequence>,
    pub(crate) unsynced: Unsynced,
    /// The room on disk that each kept snapshot has taken, as far as this agent has made it.
    pub(crate) took: BTreeMap<Sequence, u64>,
    /// The room that the next one has taken so far.
    pub(crate) taking: u64,
    /// Renderings that something has changed since they were staged.
    suspect: HashSet<StoreHash>,
    pub(crate) salt: Vec<u8>,
    pub(crate) seen: Seen,
}

impl Export {
    /// Opens or creates the folder, reads what it holds, and removes what a crash left.
    ///
    /// The names of secret renderings depend on `salt`; with another salt they count as damaged.
    pub(crate) fn open(path: &Path, salt: Vec<u8>) -> Result<Self, ExportError> {
        Export::open_with(path, salt, None)
    }

    /// Opens the folders under its path again, and makes those that are missing: somebody has
    /// removed or replaced one. What readers should see is not forgotten.
    pub(crate) fn reopen(&mut self) -> Result<(), ExportError> {
        let current = self.current().map(|(sequence, kept)| (sequence, kept.clone()));
        *self = Export::open_with(&self.path, self.salt.clone(), current)?;
        Ok(())
    }

    /// `current` is what readers should see, where that is known.
    fn open_with(path: &Path, salt: Vec<u8>, current: Option<(Sequence, KeptSnapshot)>) -> Result<Self, ExportError> {
        let failed = |cause| ExportError { act: "open", path: path.to_owned(), file: None, cause };
        let path = std::path::absolute(path).map_err(failed)?;
        let root = Folder::open(&path).map_err(failed)?;
        let mut export = Export {
            store: root.enter_or_make("store").map_err(failed)?,
            names: root.enter_or_make("names").map_err(failed)?,
            snapshots: root.enter_or_make("snapshots").map_err(failed)?,
            root,
            path,
            kept: BTreeMap::new(),
            former: BTreeMap::new(),
            current: None,
            next: None,
            unsynced: Unsynced::default(),
            took: BTreeMap::new(),
            taking: 0,
            suspect: HashSet::new(),
            salt,
            seen: Seen::default(),
        };
        export.read().map_err(failed)?;
        if let Some((sequence, kept)) = current {
            export.current = Some(sequence);
            export.kept.insert(sequence, kept);
        }
        export.sweep().map_err(failed)?;
        Ok(export)
    }

    /// Returns the snapshot that readers see.
    pub(crate) fn current(&self) -> Option<(Sequence, &KeptSnapshot)> {
        let sequence = self.current?;
        Some((sequence, self.kept.get(&sequence)?))
    }

    /// Identifies the snapshot that readers see. Its commit is zero if its header was lost.
    pub(crate) fn snapshot(&self) -> Option<Pointer> {
        let (sequence, kept) = self.current()?;
        Some(Pointer { sequence, commit: kept.header.as_ref().map_or(CommitId::ZERO, |header| header.commit) })
    }

    /// Returns the path of a staged rendering, which holds `files` and `settings.json`.
    pub(crate) fn staged(&self, hash: &StoreHash) -> PathBuf {
        self.path.join("store").join(hash.to_string())
    }

    /// Opens the folder with a rendering's files.
    pub(crate) fn files(&self, hash: &StoreHash) -> io::Result<Folder> {
        self.store.enter(&hash.to_string())?.enter("files")
    }

    /// True if every user may read all of a rendering: then no secret is in it.
    pub(crate) fn is_for_everybody(&self, hash: &StoreHash) -> io::Result<bool> {
        let entry = self.store.enter(&hash.to_string())?;
        for (path, kind) in entry.walk()? {
            if matches!(kind, Entry::File | Entry::Other) && entry.mode(&path)? & 0o004 == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the name of a rendering in the store.
    pub(crate) fn hash(&self, rendered: &Rendered) -> StoreHash {
        rendered.hash(&self.salt)
    }

    /// True if a rendering is as it was staged. If not, staging it again writes it again.
    pub(crate) fn is_intact(&mut self, hash: &StoreHash) -> bool {
        let intact = self.is_undamaged(hash);
        if !intact {
            self.suspect.insert(*hash);
        }
        intact
    }

    /// Reads every byte that readers see. Returns the components that are damaged.
    pub(crate) fn damaged(&mut self) -> BTreeSet<ComponentVersion> {
        let contents = self.current().map(|(_, kept)| kept.contents.clone()).unwrap_or_default();
        let mut undamaged: HashMap<StoreHash, bool> = HashMap::new();
        let is_damaged =
            |(_, hash): &(ComponentVersion, StoreHash)| !*undamaged.entry(*hash).or_insert_with(|| self.is_read(hash));
        contents.into_iter().filter(is_damaged).map(|(component, _)| component).collect()
    }

    pub(crate) fn is_undamaged(&self, hash: &StoreHash) -> bool {
        self.read_back(&hash.to_string()).is_ok_and(|found| found == *hash) && self.is_own(hash).unwrap_or(false)
    }

    /// Writes a rendering into the store, unless the store has it. With `check`, reads what the
    /// store has, and replaces it if it is damaged.
    pub(crate) fn stage(&mut self, rendered: &Rendered, check: bool) -> Result<StoreHash, ExportError> {
        let hash = self.hash(rendered);
        let check = self.suspect.remove(&hash) || check;
        let mut file = None;
        self.stage_as(hash, rendered, check, &mut file).map_err(|cause| {
            // Half of it is in nobody's way; the next step removes what is left.
            let _ = self.store.remove(NEW);
            let file = file.map(|path| path.chars().take(200).collect());
            ExportError { file, ..self.failed("write files", cause) }
        })?;
        // All of it was just written, or just read: the next look need not read it. What one change
        // brings is little, and the next look reads it: a process waits for its files now.
        if check {
            self.note_seen(hash);
        }
        Ok(hash)
    }

    /// Sets `at` to the file that is being written.
    fn stage_as<'a>(
        &mut self,
        hash: StoreHash,
        rendered: &'a Rendered,
        check: bool,
        at: &mut Option<&'a str>,
    ) -> io::Result<()> {
        let name = hash.to_string();
        let exists = self.store.entry(&name)?.is_some();
        if exists && (!check || self.is_undamaged(&hash)) {
            return Ok(());
        }
        self.store.remove(NEW)?;
        let entry = self.store.make(NEW)?;
        let files = entry.make("files")?;
        let mut folders: BTreeMap<&str, Folder> = BTreeMap::new();
        for (path, content) in &rendered.files {
            *at = Some(path);
            for (end, _) in path.match_indices('/') {
                if !folders.contains_key(&path[..end]) {
                    folders.insert(&path[..end], files.make(&path[..end])?);
                }
            }
            let (folder, file) = match path.rsplit_once('/') {
                Some((folder, file)) => (&folders[folder], file),
                None => (&files, path.as_str()),
            };
            match content {
                Content::Link(target) => folder.link(file, target)?,
                Content::File { bytes, executable, secret } => {
                    self.unsynced.add(folder.write(file, bytes, mode_of(*executable, *secret))?);
                }
            }
        }
        *at = None;
        let mode = mode_of(false, rendered.settings_secret());
        self.unsynced.add(entry.write("settings.json", &rendered.settings, mode)?);
        if let Some(shown) = &rendered.settings_shown {
            self.unsynced.add(entry.write(SHOWN, shown, 0o444)?);
        }
        self.taking += rendered.files.values().map(blocks).sum::<u64>() + BLOCK * (folders.len() as u64 + 3);
        for folder in folders.into_values().chain([files, entry]) {
            self.unsynced.add(folder);
        }
        put(&self.store, &name, exists)
    }

    pub(crate) fn failed(&self, act: &'static str, cause: io::Error) -> ExportError {
        ExportError { act, path: self.path.clone(), file: None, cause }
    }
}

/// 4 KiB: a file, a folder and most links take at least so much of a disk.
pub(crate) const BLOCK: u64 = 4 << 10;

fn blocks(content: &Content) -> u64 {
    match content {
        Content::File { bytes, .. } => (bytes.len() as u64).next_multiple_of(BLOCK),
        Content::Link(_) => BLOCK,
    }
}
