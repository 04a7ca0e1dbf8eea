//! Noticing that something else has changed what readers see, without reading it: by what the
//! system says of each entry. A rendering is read only when that is another than before.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Bound,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use conf_core::render::StoreHash;
use libconf::name::{ComponentName, ComponentVersion, Kind, Version};
use rustix::fs::Stat;

use crate::{
    export::{
        folder::Export,
        kept::read_header,
        names::{CURRENT, names_hash, names_links},
        plan::by_name,
    },
    fs::{Entry, Fingerprint, Folder, Owner},
};

/// 1 s: a look that must read much content goes on the next time.
const LONGEST: Duration = Duration::from_secs(1);

impl Export {
    /// Describes what something else has changed in the export since the last look, each in one
    /// sentence, and names the components whose files it has changed. Looks at `most` components,
    /// for a second at most unless at all of them, and at the following ones the next time.
    pub(crate) fn look(&mut self, most: usize) -> (Vec<String>, BTreeSet<ComponentVersion>) {
        let outer = self.look_at_folders();
        if !outer.is_empty() {
            return (outer, BTreeSet::new());
        }
        let mut all_changed = BTreeSet::new();
        let Some((sequence, kept)) = self.current() else { return (Vec::new(), all_changed) };
        let folder = self.snapshots.enter(&sequence.to_string()).ok();
        let of_kind = |kind: Kind| Some((kind, folder.as_ref()?.enter(kind.as_str()).ok()?));
        let folders: BTreeMap<Kind, Folder> = Kind::ALL.into_iter().filter_map(of_kind).collect();
        let names = by_name(&kept.contents);
        let after = self.seen.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut problems, mut looked, until) = (Vec::new(), 0, (most < usize::MAX).then(|| Instant::now() + LONGEST));
        let mut is_over = true;
        for (name, versions) in names.range((after, Bound::Unbounded)) {
            // At least one, so that each look goes on.
            if looked == most || looked > 0 && until.is_some_and(|until| Instant::now() > until) {
                is_over = false;
                break;
            }
            looked += 1;
            self.seen.last = Some(name.clone());
            if !folders.get(&name.kind).is_some_and(|folder| self.is_linked(folder, name, versions)) {
                problems.push(format!("the links to the files of {name} are not as they were exported"));
            }
            let changed = versions.iter().filter(|(_, hash)| !self.is_as_seen(hash));
            let of_version = |version: &Version| ComponentVersion { component: name.clone(), version: version.clone() };
            let changed: Vec<ComponentVersion> = changed.map(|(version, _)| of_version(version)).collect();
            problems.extend(changed.iter().map(changed_words));
            all_changed.extend(changed);
        }
        if is_over {
            // All of them were looked at since the beginning.
            self.seen.last = None;
            let used: BTreeSet<StoreHash> = names.values().flat_map(BTreeMap::values).copied().collect();
            self.seen.renderings.retain(|hash, _| used.contains(hash));
            let used: BTreeSet<StoreHash> = names.values().map(names_hash).collect();
            self.seen.links.retain(|hash, _| used.contains(hash));
        }
        (problems, all_changed)
    }

    /// Describes what is wrong with the folders that lead to the components.
    fn look_at_folders(&self) -> Vec<String> {
        let replaced = self.replaced();
        if !replaced.is_empty() {
            return replaced;
        }
        match self.look_at_current() {
            Ok(problem) => problem.into_iter().collect(),
            Err(error) => vec![format!("{} cannot be looked at: {error}", self.path.display())],
        }
    }

    /// Lists the folders of the export that are not the ones that this has open.
    fn replaced(&self) -> Vec<String> {
        let is_same = |held: &Folder, found: io::Result<Folder>| found.and_then(|found| held.is_same(&found));
        let words = |path: String| format!("{path} was removed or replaced");
        if !is_same(&self.root, Folder::existing(&self.path)).unwrap_or(false) {
            return vec![words(self.path.display().to_string())];
        }
        let inner = [("store", &self.store), ("names", &self.names), ("snapshots", &self.snapshots)];
        let replaced = inner.iter().filter(|(name, held)| !is_same(held, self.root.enter(name)).unwrap_or(false));
        replaced.map(|(name, _)| words(self.path.join(name).display().to_string())).collect()
    }

    /// True if the folders of the export are the ones that this has open.
    pub(crate) fn is_in_place(&self) -> bool {
        self.replaced().is_empty()
    }

    /// Says what is wrong with the way to the components.
    fn look_at_current(&self) -> io::Result<Option<String>> {
        let Some((sequence, kept)) = self.current() else { return Ok(None) };
        let (name, shown) = (sequence.to_string(), self.path.display());
        if self.root.read_link(CURRENT).ok() != Some(format!("snapshots/{name}")) {
            return Ok(Some(format!("{shown}/{CURRENT} does not lead to snapshots/{name}")));
        }
        let Ok(folder) = self.snapshots.enter(&name) else {
            return Ok(Some(format!("{shown}/snapshots/{name} was removed")));
        };
        if read_header(&folder, sequence) != kept.header {
            return Ok(Some(format!("{shown}/snapshots/{name}/snapshot.json is not as it was written")));
        }
        if !self.is_open_to_all(&self.snapshots, &name)? {
            return Ok(Some(format!("{shown}/snapshots/{name} is another's or closed")));
        }
        for kind in Kind::ALL.into_iter().filter(|kind| kept.contents.keys().any(|name| name.component.kind == *kind)) {
            if !self.is_open_to_all(&folder, kind.as_str())? {
                let kind = kind.as_str();
                return Ok(Some(format!("{shown}/snapshots/{name}/{kind} was removed, or is another's or closed")));
            }
        }
        Ok(None)
    }

    /// Lists the folders that hold all others, by their paths.
    fn outer(&self) -> [(PathBuf, &Folder); 4] {
        let below = |name: &str| self.path.join(name);
        [
            (self.path.clone(), &self.root),
            (below("store"), &self.store),
            (below("names"), &self.names),
            (below("snapshots"), &self.snapshots),
        ]
    }

    /// Describes those of them that are closed or another's. What is in them need not be made again
    /// for that.
    pub(crate) fn closed(&self) -> Vec<String> {
        let closed = self.outer().into_iter().filter(|(_, folder)| !self.is_open(folder.own_stat().ok().as_ref()));
        closed.map(|(path, _)| format!("{} is another's, or not open to every user", path.display())).collect()
    }

    /// Opens them to every user again, and gives them back to the owner of `export/`.
    pub(crate) fn open_to_all(&self) -> anyhow::Result<()> {
        let owner = self.root.own_stat()?.st_uid;
        for (path, folder) in self.outer() {
            let stat = folder.own_stat()?;
            if self.is_open(Some(&stat)) {
                continue;
            }
            let user = (stat.st_uid != owner).then_some(owner);
            folder.own(0o755, Owner { user, group: None }).with_context(|| {
                let (path, user) = (path.display(), stat.st_uid);
                format!("cannot open {path} to every user; it belongs to user {user}: give it to user {owner} (chown)")
            })?;
        }
        Ok(())
    }

    /// True for a folder that every user may read, and only its owner may change.
    fn is_open_to_all(&self, folder: &Folder, name: &str) -> io::Result<bool> {
        Ok(self.is_open(folder.stat(name)?.as_ref()))
    }

    fn is_open(&self, stat: Option<&Stat>) -> bool {
        let owner = self.root.own_stat().ok().map(|stat| stat.st_uid);
        stat.is_some_and(|stat| stat.st_mode & 0o777 == 0o755 && Some(stat.st_uid) == owner)
    }

    /// True if the folder of links is open to every user.
    pub(crate) fn are_names_open(&self, name: &str) -> bool {
        self.is_open_to_all(&self.names, name).unwrap_or(false)
    }

    /// True if a component's link, in the folder of its kind, leads to the links of its versions,
    /// and those into the store.
    fn is_linked(&mut self, folder: &Folder, name: &ComponentName, versions: &BTreeMap<Version, StoreHash>) -> bool {
        let hash = names_hash(versions);
        folder.read_link(name.name.as_str()).is_ok_and(|target| target == format!("../../../names/{hash}"))
            && self.are_links_right(hash, versions)
    }

    fn are_links_right(&mut self, hash: StoreHash, versions: &BTreeMap<Version, StoreHash>) -> bool {
        // Nobody can change a link, only replace it, and that changes its folder.
        let Ok(stat) = self.names.stat(&hash.to_string()) else { return false };
        if !self.is_open(stat.as_ref()) {
            return false;
        }
        let mut fingerprint = Fingerprint::default();
        fingerprint.add("", stat.as_ref());
        if self.seen.links.get(&hash) == Some(&fingerprint.number()) {
            return true;
        }
        let is_right = self.links_in(&hash.to_string()).is_ok_and(|links| links == names_links(versions));
        if is_right {
            self.seen.links.insert(hash, fingerprint.number());
        }
        is_right
    }

    /// True if nothing has changed a rendering since its content was last right, or if its content
    /// still is.
    fn is_as_seen(&mut self, hash: &StoreHash) -> bool {
        let Ok(now) = self.fingerprint(hash) else { return false };
        self.seen.renderings.get(hash) == Some(&now) || self.is_read(hash)
    }

    /// Reads a rendering, and remembers what the system says of it. True if it is right.
    pub(crate) fn is_read(&mut self, hash: &StoreHash) -> bool {
        // The stats come before the content: a change after them shows at the next look.
        let Ok(now) = self.fingerprint(hash) else { return false };
        let is_right = self.is_undamaged(hash);
        if is_right {
            self.seen.renderings.insert(*hash, now);
        }
        is_right
    }

    /// Remembers what the system says of a rendering that is right.
    pub(crate) fn note_seen(&mut self, hash: StoreHash) {
        if let Ok(now) = self.fingerprint(&hash) {
            self.seen.renderings.insert(hash, now);
        }
    }

    fn fingerprint(&self, hash: &StoreHash) -> io::Result<u64> {
        let mut fingerprint = Fingerprint::default();
        add_all(&mut fingerprint, &self.store.enter(&hash.to_string())?, "")?;
        Ok(fingerprint.number())
    }

    /// True if all of a rendering belongs to the owner of the export, and every user may enter its
    /// folders, and nobody else may add to them.
    pub(crate) fn is_own(&self, hash: &StoreHash) -> io::Result<bool> {
        let (owner, entry) = (self.root.own_stat()?.st_uid, self.store.enter(&hash.to_string())?);
        let is_own = |stat: &Stat| match Entry::of(stat) {
            Entry::Folder => self.is_open(Some(stat)),
            // A link has no permission bits, and those of a file are part of its content.
            _ => stat.st_uid == owner,
        };
        if !is_own(&entry.own_stat()?) {
            return Ok(false);
        }
        for (path, _) in entry.walk()? {
            if !is_own(&entry.stat_below(&path)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Adds a folder, whose path is `at`, and everything in it.
fn add_all(fingerprint: &mut Fingerprint, folder: &Folder, at: &str) -> io::Result<()> {
    fingerprint.add(at, Some(&folder.own_stat()?));
    let mut entries = folder.entries()?;
    entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    for (name, kind) in entries {
        let path = format!("{at}/{name}");
        match kind {
            Entry::Folder => add_all(fingerprint, &folder.enter(&name)?, &path)?,
            _ => fingerprint.add(&path, folder.stat(&name)?.as_ref()),
        }
    }
    Ok(())
}

/// Says that the files of a component were changed.
pub(crate) fn changed_words(component: impl std::fmt::Display) -> String {
    format!("the files of {component} are not as they were exported")
}
