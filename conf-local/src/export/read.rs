//! Reads the export back from disk: at the start, and to find damage.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
};

use conf_core::render::{Content, Rendered, StoreHash};
use libconf::name::{ComponentName, ComponentVersion, Kind, Sequence, Version};

use crate::{
    export::{
        folder::Export,
        kept::read_header,
        names::{CURRENT, MOST_FILE_BYTES, SHOWN, mode_of},
        plan::{Contents, KeptSnapshot},
    },
    fs::Entry,
};

impl Export {
    /// Reads an entry of the store, and returns its hash, which is its name if nothing has changed
    /// it.
    pub(crate) fn read_back(&self, name: &str) -> io::Result<StoreHash> {
        let entry = self.store.enter(name)?;
        let wrong = |path: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{path} has been changed"));
        let (settings, mode) = entry.read("settings.json", MOST_FILE_BYTES)?;
        let mut files = BTreeMap::new();
        let folder = entry.enter("files")?;
        let (found, mut empty) = (folder.walk()?, BTreeSet::new());
        for (path, kind) in &found {
            if let Some((above, _)) = path.rsplit_once('/') {
                empty.remove(above);
            }
            let content = match kind {
                Entry::Folder => {
                    empty.insert(path.as_str());
                    continue;
                }
                Entry::Link => Content::Link(folder.read_link(path)?),
                Entry::File => {
                    let (bytes, mode) = folder.read(path, MOST_FILE_BYTES)?;
                    let (executable, secret) = match mode {
                        0o444 => (false, false),
                        0o555 => (true, false),
                        0o600 => (false, true),
                        0o700 => (true, true),
                        _ => return Err(wrong(path)),
                    };
                    Content::File { bytes, executable, secret }
                }
                Entry::Other => return Err(wrong(path)),
            };
            files.insert(path.clone(), content);
        }
        // The agent never makes an empty folder.
        if let Some(path) = empty.first() {
            return Err(wrong(path));
        }
        let (settings_shown, expected) = match entry.entry(SHOWN)? {
            Some(_) => {
                let (shown, mode) = entry.read(SHOWN, MOST_FILE_BYTES)?;
                if mode != 0o444 {
                    return Err(wrong(SHOWN));
                }
                (Some(shown), 3)
            }
            None => (None, 2),
        };
        if mode != mode_of(false, settings_shown.is_some()) || entry.entries()?.len() != expected {
            return Err(wrong("settings.json"));
        }
        Ok(self.hash(&Rendered { files, settings, settings_shown }))
    }

    /// Reads all of the export. An entry that cannot be read counts as missing, and is rendered
    /// again.
    pub(crate) fn read(&mut self) -> io::Result<()> {
        let target = match self.root.entry(CURRENT)? {
            Some(Entry::Link) => self.root.read_link(CURRENT)?,
            _ => String::new(),
        };
        let current = target.strip_prefix("snapshots/").and_then(|name| name.parse::<Sequence>().ok());
        // Nothing switched to a snapshot beyond `current`. Without `current`, all stay until the
        // next export.
        let newest = current.unwrap_or(Sequence(u64::MAX));
        let mut names = HashMap::new();
        for (name, kind) in self.snapshots.entries()? {
            let Some(sequence) = name.parse::<Sequence>().ok().filter(|sequence| *sequence <= newest) else {
                continue;
            };
            if kind != Entry::Folder {
                continue;
            }
            let kept = self.read_snapshot(&name, &mut names)?;
            if kept.header.is_some() || Some(sequence) == current {
                self.kept.insert(sequence, kept);
            }
        }
        self.current = current.filter(|current| self.kept.contains_key(current));
        self.read_former()
    }

    pub(crate) fn read_snapshot(
        &self,
        name: &str,
        names: &mut HashMap<String, BTreeMap<Version, StoreHash>>,
    ) -> io::Result<KeptSnapshot> {
        let folder = self.snapshots.enter(name)?;
        // A former snapshot's folder has another name; its header is not needed.
        let header = name.parse().ok().and_then(|sequence| read_header(&folder, sequence));
        let mut contents = Contents::new();
        for kind in Kind::ALL {
            let Ok(kind_folder) = folder.enter(kind.as_str()) else { continue };
            for (name, _) in kind_folder.entries()? {
                let (Ok(component), Ok(target)) = (name.parse(), kind_folder.read_link(&name)) else { continue };
                let component = ComponentName { kind, name: component };
                let Some(hash) = target.strip_prefix("../../../names/") else { continue };
                if !names.contains_key(hash) {
                    names.insert(hash.to_owned(), self.read_names(hash));
                }
                for (version, hash) in &names[hash] {
                    let version = version.clone();
                    contents.insert(ComponentVersion { component: component.clone(), version }, *hash);
                }
            }
        }
        Ok(KeptSnapshot { header, contents })
    }

    /// Reads the versions in a folder of links, without those whose entries in the store are
    /// missing.
    pub(crate) fn read_names(&self, name: &str) -> BTreeMap<Version, StoreHash> {
        let links = self.links_in(name).unwrap_or_default();
        let version = |(link, target): (&String, &String)| {
            let hash = target.strip_prefix("../../store/")?.strip_suffix("/files")?;
            let settings = links.get(&format!("{link}.json"))?;
            let entry = self.store.enter(hash).ok()?;
            let exists = *settings == format!("../../store/{hash}/settings.json")
                && entry.entry("files").ok()? == Some(Entry::Folder)
                && entry.entry("settings.json").ok()? == Some(Entry::File);
            exists.then_some((link.parse().ok()?, hash.parse().ok()?))
        };
        links.iter().filter_map(version).collect()
    }

    pub(crate) fn links_in(&self, name: &str) -> io::Result<BTreeMap<String, String>> {
        let folder = self.names.enter(name)?;
        let links = folder.entries()?.into_iter();
        links.map(|(link, _)| folder.read_link(&link).map(|target| (link, target))).collect()
    }
}
