//! Placing by copy: every file is written into a folder of the agent's own beside its place, and
//! then renamed to it.
//!
//! [`stage`] compares and writes beside, and changes nothing that a program reads;
//! [`StagedCopy::put`] renames. The journal is written between the two. Whatever a crash leaves,
//! staging and putting the same or other files leads to those files.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd as _,
};

use rustix::fs::Stat;

use crate::{
    export::MOST_FILE_BYTES,
    fs::{Entry, Folder, Mount, Owner, Unsynced},
    place::{
        entry::PlaceEntry,
        journal::PlacedFiles,
        path::{self, NewFolder, Trusted},
    },
};

/// The folder of files that are not renamed yet. Only the agent's user can enter it.
pub(crate) const STAGING: &str = ".conf-local";

/// A copy whose files are all written beside its place.
#[derive(Debug)]
pub(crate) struct StagedCopy {
    pub(crate) root: Folder,
    pub(crate) new_folder: NewFolder,
    pub(crate) plan: CopyPlan,
    /// Holds the changed files, each named by its number.
    pub(crate) staging: Option<Folder>,
}

/// The steps at one path.
#[derive(Debug)]
pub(crate) struct CopyPlan {
    /// Wanted paths that hold something else, or nothing.
    pub(crate) changed: Vec<String>,
    /// Placed entries that are in the way of a wanted one.
    pub(crate) remove_first: BTreeSet<String>,
    /// Other placed files that are not wanted any more.
    pub(crate) remove_last: BTreeSet<String>,
    pub(crate) make: BTreeSet<String>,
    /// Placed folders with another owner or mode than they should have.
    pub(crate) mend: BTreeSet<String>,
    /// Placed folders that are not wanted any more, the deepest last.
    pub(crate) unmake: BTreeSet<String>,
    /// Everything that is placed afterwards.
    pub(crate) after: PlacedFiles,
}

impl CopyPlan {
    fn is_empty(&self) -> bool {
        let sets = [&self.remove_first, &self.remove_last, &self.make, &self.mend, &self.unmake];
        self.changed.is_empty() && sets.iter().all(|paths| paths.is_empty())
    }
}

/// The wanted entry at a path.
pub(crate) enum Wanted {
    File { mode: u32 },
    Link(String),
}

/// Finds what must change at the entry's path so that exactly `files` are there, besides what
/// conf-local did not place, and writes it beside. Without `files`, placed files go. `None` if
/// nothing must change.
pub(crate) fn stage(
    entry: &PlaceEntry,
    files: Option<&Folder>,
    placed: &PlacedFiles,
) -> Result<Option<StagedCopy>, String> {
    let Some(place) = Place::open(entry, placed, files.is_some())? else { return Ok(None) };
    clear_staging(&place.root).map_err(|error| place.failed(STAGING, &error))?;
    let (wanted, plan) = place.compare(files)?;
    if plan.is_empty() && plan.after == *placed {
        return Ok(None);
    }
    let mut staging = None;
    if let Some(files) = files.filter(|_| !plan.changed.is_empty()) {
        let written = place.write(files, &wanted, &plan.changed).map_err(|error| {
            // If the rest cannot be removed now, the next attempt removes it.
            let _ = clear_staging(&place.root);
            place.failed("its files", &error)
        });
        staging = Some(written?);
    }
    Ok(Some(StagedCopy { root: place.root, new_folder: place.new_folder, plan, staging }))
}

/// Removes what an attempt has left in the agent's own folder. Whoever owns the folder around it
/// can put somebody else's in its place: of that nothing goes but what bears the agent's names.
pub(crate) fn clear_staging(root: &Folder) -> io::Result<()> {
    match root.entry(STAGING)? {
        None => return Ok(()),
        Some(Entry::Folder) => {}
        Some(_) => return root.remove_one(STAGING, false),
    }
    let staging = root.enter(STAGING)?;
    for (name, kind) in staging.entries()? {
        if kind != Entry::Folder && name.parse::<usize>().is_ok() {
            staging.remove_one(&name, false)?;
        }
    }
    root.remove_one(STAGING, true)
}

/// Lists the paths that hold something else than they should. Writes nothing.
pub(crate) fn differing(
    entry: &PlaceEntry,
    files: Option<&Folder>,
    placed: &PlacedFiles,
) -> Result<Vec<String>, String> {
    let Some(place) = Place::open(entry, placed, false)? else {
        return Ok(files.map(|_| entry.path.display().to_string()).into_iter().collect());
    };
    let (_, plan) = place.compare(files)?;
    let exists = |path: &String| {
        let (above, name) = split(path);
        enter(&place.root, above).is_ok_and(|folder| folder.entry(name).is_ok_and(|entry| entry.is_some()))
    };
    let mut differing: BTreeSet<String> = plan.remove_last.into_iter().filter(exists).collect();
    differing.extend(plan.changed.into_iter().chain(plan.remove_first).chain(plan.mend));
    Ok(differing.into_iter().map(|path| entry.path.join(path).display().to_string()).collect())
}

/// The folder at an entry's path, opened.
struct Place<'a> {
    entry: &'a PlaceEntry,
    root: Folder,
    placed: &'a PlacedFiles,
    trusted: Trusted,
    new_folder: NewFolder,
    /// The mount of `root`: staged files can be renamed within it alone.
    mount: Mount,
}

impl<'a> Place<'a> {
    /// With `make`, creates the folder where needed; without, `None` means that it does not exist.
    fn open(entry: &'a PlaceEntry, placed: &'a PlacedFiles, make: bool) -> Result<Option<Self>, String> {
        let new_folder = new_folder(entry);
        let trusted = Trusted::new(new_folder.owner);
        let Some(root) = path::open(&entry.path, &trusted, make.then_some(new_folder))? else { return Ok(None) };
        let mount = root.mount(".").map_err(|error| format!("{}: {error}", entry.path.display()))?;
        Ok(Some(Place { entry, root, placed, trusted, new_folder, mount }))
    }

    fn failed(&self, what: &str, error: &io::Error) -> String {
        format!("{what} in {}: {error}", self.entry.path.display())
    }

    fn refuse(&self, path: &str, why: &str) -> String {
        format!("{} {why}", self.entry.path.join(path).display())
    }

    /// Returns what each path should hold, and the steps to it.
    fn compare(&self, files: Option<&Folder>) -> Result<(BTreeMap<String, Wanted>, CopyPlan), String> {
        let Some(files) = files else {
            let nothing = BTreeMap::new();
            let plan = self.plan(&nothing)?;
            return Ok((nothing, plan));
        };
        let wanted = self.wanted(files)?;
        let mut plan = self.plan(&wanted)?;
        for (path, wanted) in &wanted {
            if self.differs(path, wanted, files, &mut plan)? {
                plan.changed.push(path.clone());
            }
        }
        let CopyPlan { remove_first, remove_last, .. } = &mut plan;
        remove_last.retain(|path| !remove_first.contains(path));
        Ok((wanted, plan))
    }

    /// Lists the files of the export as they should be here.
    fn wanted(&self, files: &Folder) -> Result<BTreeMap<String, Wanted>, String> {
        let wanted = wanted(self.entry, files)?;
        if wanted.keys().any(|path| path.split('/').next() == Some(STAGING)) {
            let why = "is a name that conf-local needs for itself; the component must not have it";
            return Err(self.refuse(STAGING, why));
        }
        Ok(wanted)
    }

    /// Decides which folders to make, and which placed entries go. Refuses an entry that is in the
    /// way and that conf-local did not place.
    fn plan(&self, wanted: &BTreeMap<String, Wanted>) -> Result<CopyPlan, String> {
        let placed = self.placed;
        let folders: BTreeSet<String> = wanted.keys().flat_map(|path| ways(path)).map(str::to_owned).collect();
        let mut plan = CopyPlan {
            changed: Vec::new(),
            remove_first: BTreeSet::new(),
            remove_last: placed.files.iter().filter(|path| !wanted.contains_key(*path)).cloned().collect(),
            make: BTreeSet::new(),
            mend: BTreeSet::new(),
            unmake: placed.folders.iter().filter(|path| !folders.contains(*path)).cloned().collect(),
            after: PlacedFiles::nothing(&self.entry.component),
        };
        for path in &folders {
            let (above, name) = split(path);
            if plan.make.contains(above) {
                plan.make.insert(path.clone());
                continue;
            }
            let (folder, Some(stat)) = self.stat(path)? else {
                plan.make.insert(path.clone());
                continue;
            };
            match Entry::of(&stat) {
                Entry::Folder => {
                    self.trusted.check(&stat).map_err(|why| self.refuse(path, &why))?;
                    self.check_mount(path, &folder, name)?;
                    if placed.folders.contains(path) && !self.is_as_made(&stat) && self.may_mend(path, &stat)? {
                        plan.mend.insert(path.clone());
                    }
                }
                Entry::File | Entry::Link if placed.files.contains(path) => {
                    plan.remove_first.insert(path.clone());
                    plan.make.insert(path.clone());
                }
                Entry::Link => return Err(self.refuse(path, "is a link that conf-local did not place")),
                _ => return Err(self.refuse(path, "is in the way of a folder, and conf-local did not place it")),
            }
        }
        plan.after.files = wanted.keys().cloned().collect();
        let kept = placed.folders.iter().filter(|path| folders.contains(*path));
        plan.after.folders = kept.chain(&plan.make).cloned().collect();
        Ok(plan)
    }

    /// Tells whether a folder is to be given to its owner again. Whoever owns the folder above can
    /// put somebody else's in its place: one with more in it than conf-local placed is left.
    fn may_mend(&self, path: &str, stat: &Stat) -> Result<bool, String> {
        let is_owners = self.new_folder.owner.user.is_none_or(|user| user == stat.st_uid);
        Ok(is_owners || self.is_all_placed(path).map_err(|error| self.failed(path, &error))?)
    }

    /// Returns the stat of a path, and the folder that it is in.
    fn stat(&self, path: &str) -> Result<(Folder, Option<Stat>), String> {
        let (above, name) = split(path);
        let folder = enter(&self.root, above).map_err(|error| self.failed(path, &error))?;
        let stat = folder.stat(name).map_err(|error| self.failed(path, &error))?;
        Ok((folder, stat))
    }

    /// Refuses another mount: nothing can be renamed onto or into it.
    fn check_mount(&self, path: &str, folder: &Folder, name: &str) -> Result<(), String> {
        match folder.mount(name) {
            Ok(mount) if mount == self.mount => Ok(()),
            Ok(_) => Err(self.refuse(path, "is a mount of its own, to which nothing can be renamed; take it away")),
            Err(error) => Err(self.failed(path, &error)),
        }
    }

    fn is_as_made(&self, stat: &Stat) -> bool {
        let NewFolder { mode, owner: Owner { user, group } } = self.new_folder;
        stat.st_mode & 0o7777 == mode
            && user.is_none_or(|user| user == stat.st_uid)
            && group.is_none_or(|group| group == stat.st_gid)
    }

    /// True if a path holds something else than it should, or nothing. Refuses an entry that is in
    /// the way and that conf-local did not place.
    fn differs(&self, path: &str, wanted: &Wanted, files: &Folder, plan: &mut CopyPlan) -> Result<bool, String> {
        let (above, name) = split(path);
        if plan.make.contains(above) {
            return Ok(true);
        }
        let (folder, Some(stat)) = self.stat(path)? else { return Ok(true) };
        self.check_mount(path, &folder, name)?;
        let is_placed = self.placed.files.contains(path);
        let refuse = |why: &str| Err(self.refuse(path, why));
        match (Entry::of(&stat), wanted) {
            (Entry::File, Wanted::File { .. }) if !is_placed && !self.trusted.owns(stat.st_uid) => {
                refuse(&format!("belongs to user {}, and conf-local did not place it", stat.st_uid))
            }
            (Entry::File, Wanted::File { mode }) => {
                let content = |folder: &Folder, path| folder.read(path, MOST_FILE_BYTES).ok().map(|(bytes, _)| bytes);
                let same = self.is_as_wanted(&stat, *mode)
                    && content(&folder, name).is_some_and(|found| content(files, path) == Some(found));
                Ok(!same)
            }
            (Entry::Link, _) if !is_placed => refuse("is a link that conf-local did not place"),
            (Entry::Link, Wanted::Link(target)) => Ok(folder.read_link(name).ok().as_ref() != Some(target)),
            (Entry::File, Wanted::Link(_)) if !is_placed => {
                refuse("is in the way of a link, and conf-local did not place it")
            }
            (Entry::File | Entry::Link, _) => Ok(true),
            (Entry::Folder, _) if self.is_all_placed(path).map_err(|error| self.failed(path, &error))? => {
                let below = format!("{path}/");
                let placed = self.placed.files.iter().chain(&self.placed.folders);
                plan.remove_first.extend(placed.filter(|placed| placed.starts_with(&below)).cloned());
                plan.remove_first.insert(path.to_owned());
                Ok(true)
            }
            (Entry::Folder, _) => refuse("is a folder with more in it than conf-local placed; it is in the way"),
            (Entry::Other, _) => refuse("is neither file nor folder; it is in the way"),
        }
    }

    fn is_as_wanted(&self, stat: &Stat, mode: u32) -> bool {
        let user = self.entry.owner.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        stat.st_mode & 0o7777 == mode
            && stat.st_uid == user
            && self.entry.group.is_none_or(|group| group == stat.st_gid)
    }

    /// True if conf-local placed a folder and everything in it.
    fn is_all_placed(&self, path: &str) -> io::Result<bool> {
        if !self.placed.folders.contains(path) {
            return Ok(false);
        }
        let folder = enter(&self.root, path)?;
        for (name, kind) in folder.entries()? {
            let inner = format!("{path}/{name}");
            let is_placed = folder.mount(&name)? == self.mount
                && match kind {
                    Entry::Folder => self.is_all_placed(&inner)?,
                    _ => self.placed.files.contains(&inner),
                };
            if !is_placed {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes the changed files into a folder of the agent's own, and makes them durable.
    fn write(&self, files: &Folder, wanted: &BTreeMap<String, Wanted>, changed: &[String]) -> io::Result<Folder> {
        let staging = self.root.make_owned(STAGING, 0o700, Owner::default())?;
        let (mut unsynced, owner) = (Unsynced::default(), self.new_folder.owner);
        for (number, path) in changed.iter().enumerate() {
            let name = number.to_string();
            match &wanted[path] {
                Wanted::File { mode } => {
                    let (bytes, _) = files.read(path, MOST_FILE_BYTES)?;
                    unsynced.add(staging.write_owned(&name, &bytes, *mode, owner)?);
                }
                Wanted::Link(target) => {
                    staging.link(&name, target)?;
                    staging.own_link(&name, owner)?;
                }
            }
        }
        unsynced.flush(&[staging.as_fd()])?;
        Ok(staging)
    }
}

/// How to create the folders of an entry.
pub(crate) fn new_folder(entry: &PlaceEntry) -> NewFolder {
    let owner = Owner { user: entry.owner, group: entry.group };
    NewFolder { mode: entry.dir_mode.unwrap_or(0o755), owner }
}

/// Lists the files of the export as an entry wants them.
pub(crate) fn wanted(entry: &PlaceEntry, files: &Folder) -> Result<BTreeMap<String, Wanted>, String> {
    let read = || {
        let mut wanted = BTreeMap::new();
        for (path, kind) in files.walk()? {
            let one = match kind {
                Entry::Folder => continue,
                Entry::Link => Wanted::Link(files.read_link(&path)?),
                Entry::File | Entry::Other => Wanted::File { mode: mode(entry, files.mode(&path)? & 0o777) },
            };
            wanted.insert(path, one);
        }
        Ok(wanted)
    };
    let failed = |error: io::Error| format!("the export of its files in {}: {error}", entry.path.display());
    read().map_err(failed)
}

/// Returns a file's permission bits: the entry's, or else those of the export. A file with a secret
/// (not every user may read it in the export) gets no bits for users outside the group.
fn mode(entry: &PlaceEntry, exported: u32) -> u32 {
    let Some(mode) = entry.file_mode else { return exported };
    let mode = if exported & 0o100 != 0 { mode | (mode & 0o444) >> 2 } else { mode };
    if exported & 0o004 == 0 { mode & !0o007 } else { mode }
}

/// True if the folder at the entry's path holds `files` as the entry wants them, and has the
/// entry's owner and mode itself. Whether it holds more is not asked.
pub(crate) fn holds(entry: &PlaceEntry, files: &Folder, placed: &PlacedFiles) -> Result<bool, String> {
    let Some(place) = Place::open(entry, placed, false)? else { return Ok(false) };
    let stat = place.root.stat(".").map_err(|error| place.failed(".", &error))?;
    let (_, plan) = place.compare(Some(files))?;
    let is_same =
        plan.changed.is_empty() && [&plan.remove_first, &plan.make, &plan.mend].iter().all(|set| set.is_empty());
    Ok(is_same && stat.is_some_and(|stat| place.is_as_made(&stat)))
}

/// Opens a folder below `root`, or, for the empty path, `root` itself.
pub(crate) fn enter(root: &Folder, path: &str) -> io::Result<Folder> {
    root.enter(if path.is_empty() { "." } else { path })
}

/// Splits a path into its folder and its name there.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Lists every folder that a path leads through, the outermost first.
pub(crate) fn ways(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(end, _)| &path[..end])
}
