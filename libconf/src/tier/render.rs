//! One component of a snapshot as readers get it: its files, and its settings as one JSON object.

use std::{collections::BTreeMap, fmt, str::FromStr};

use git2::{ObjectType, Repository, Tree};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    layers::{self, LayerError, Sources},
    safety::{self, Limits},
    settings,
};
use crate::name::{BadName, ComponentName, HostName};

/// What a component is made into. Equal renderings have equal hashes, whatever they were made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// By path relative to the component's root, folders left out (Git keeps no empty ones).
    pub files: BTreeMap<String, Content>,
    /// One JSON object in canonical form.
    pub settings: Vec<u8>,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file.
    File {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Exported as 0555 in place of 0444.
        executable: bool,
    },
    /// A relative link that stays inside the component.
    Link(String),
}

/// The SHA-256 of a rendering: the name of its entry in the store, 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreHash([u8; 32]);

/// Why a component was not rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The repository lacks something, or it is damaged: no component's fault, and mended by fetching anew.
    #[error("the repository cannot be read")]
    Repository(#[source] git2::Error),
    /// Its content is not what can be exported; the component keeps what it had.
    #[error("{0}")]
    Fault(String),
}

/// Makes a component's files and settings as `host` has them; without a host, as one that the inventory says nothing of.
pub fn render(
    repo: &Repository,
    sources: &Sources<'_>,
    component: &ComponentName,
    host: Option<&HostName>,
) -> Result<Rendered, RenderError> {
    let tree = sources.component_tree;
    let faults = safety::faults_in_tree(repo, tree, &Limits::default()).map_err(RenderError::Repository)?;
    if !faults.is_empty() {
        return Err(RenderError::Fault(faults.join("; ")));
    }
    let mut files = BTreeMap::new();
    let root = repo.find_tree(tree.into()).map_err(RenderError::Repository)?;
    collect(repo, &root, "", &mut files)?;
    // The layers look at the root alone; what may not be deeper is refused here.
    settings::choose(files.keys().map(String::as_str), sources.raw)
        .map_err(|fault| RenderError::Fault(fault.to_string()))?;
    let stack = layers::stack(repo, sources, component, host).map_err(|error| match error {
        LayerError::Repository(cause) => RenderError::Repository(cause),
        faults @ LayerError::Faults(_) => RenderError::Fault(faults.to_string()),
    })?;
    Ok(Rendered { files, settings: settings::to_canonical(&Value::Object(stack.merged())) })
}

/// Reads a folder that [`safety`] has looked at: its names are plain UTF-8, its depth and size bounded.
fn collect(
    repo: &Repository,
    tree: &Tree<'_>,
    above: &str,
    files: &mut BTreeMap<String, Content>,
) -> Result<(), RenderError> {
    for entry in tree {
        let path = format!("{above}{}", String::from_utf8_lossy(entry.name_bytes()));
        if entry.kind() == Some(ObjectType::Tree) {
            let inner = repo.find_tree(entry.id()).map_err(RenderError::Repository)?;
            collect(repo, &inner, &format!("{path}/"), files)?;
            continue;
        }
        let blob = repo.find_blob(entry.id()).map_err(RenderError::Repository)?;
        let content = match entry.filemode() {
            0o120_000 => Content::Link(String::from_utf8_lossy(blob.content()).into_owned()),
            mode => Content::File { bytes: blob.content().to_vec(), executable: mode == 0o100_755 },
        };
        files.insert(path, content);
    }
    Ok(())
}

impl Rendered {
    /// Its name in the store.
    pub fn hash(&self) -> StoreHash {
        let mut hash = Sha256::new();
        // Every part goes in with its length, so that no two renderings give the same bytes.
        let mut part = |kind: &[u8], bytes: &[u8]| {
            hash.update(kind);
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(b"conf-store-1", &[]);
        for (path, content) in &self.files {
            part(b"path", path.as_bytes());
            match content {
                Content::File { bytes, executable: false } => part(b"file", bytes),
                Content::File { bytes, executable: true } => part(b"exec", bytes),
                Content::Link(target) => part(b"link", target.as_bytes()),
            }
        }
        part(b"settings", &self.settings);
        StoreHash(hash.finalize().into())
    }
}

impl StoreHash {
    /// The hash of a text.
    pub fn of(text: &str) -> Self {
        StoreHash(Sha256::digest(text).into())
    }
}

impl fmt::Display for StoreHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StoreHash {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName {
            text: text.chars().take(80).collect(),
            what: "the name of a store entry",
            reason: "it must be 64 lower-case hex digits",
        };
        if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| bad())?;
        }
        Ok(StoreHash(bytes))
    }
}
