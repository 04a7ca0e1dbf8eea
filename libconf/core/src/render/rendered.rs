//! The files and settings that a component is rendered to.

use std::{collections::BTreeMap, fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

use crate::settings::SettingsFault;
use libconf::name::BadName;

/// A rendered component. Equal renderings have equal hashes, whatever they were made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Files and links by path relative to the component's root. Folders are left out, since Git
    /// keeps no empty ones.
    pub files: BTreeMap<String, Content>,
    /// The settings: one JSON object in canonical form.
    pub settings: Vec<u8>,
    /// The settings as everybody may see them, with `{"$secret": "NAME"}` in the place of a
    /// secret's value; `None` when no secret went into them.
    pub settings_shown: Option<Vec<u8>>,
}

/// The content at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file.
    File {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Exported as 0555 in place of 0444.
        executable: bool,
        /// A secret's value went into it: exported as 0600, or 0700.
        secret: bool,
    },
    /// A link: relative, and to something inside the component, unless its entry says `links: any`.
    Link(String),
}

/// The SHA-256 of a rendering: the name of its entry in the store, 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreHash([u8; 32]);

/// Why a component was not rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The repository lacks an object, or is damaged. Not the component's fault; fetching again
    /// mends it.
    #[error("the repository cannot be read")]
    Repository(#[from] git2::Error),
    /// The component's content cannot be exported; the component keeps its last export.
    #[error("{0}")]
    Fault(String),
    /// The component's templates cannot be rendered on this host; all faults at once.
    #[error("{}", .0.iter().map(SettingsFault::to_string).collect::<Vec<_>>().join("; "))]
    Templates(Vec<SettingsFault>),
}

impl Rendered {
    /// True when a secret's value went into a file or into the settings.
    pub fn is_secret(&self) -> bool {
        let secret = |content: &Content| matches!(content, Content::File { secret: true, .. });
        self.settings_secret() || self.files.values().any(secret)
    }

    /// True when a secret's value went into the settings: exported as 0600.
    pub fn settings_secret(&self) -> bool {
        self.settings_shown.is_some()
    }

    /// The name of the rendering in the store. If it holds secrets, the name depends on `salt`,
    /// which only this host knows, so that nobody can test guesses of a secret against the name.
    pub fn hash(&self, salt: &[u8]) -> StoreHash {
        let mut hash = Sha256::new();
        // Every part goes in with its length, so that no two renderings give the same bytes.
        let mut part = |kind: &[u8], bytes: &[u8]| {
            hash.update(kind);
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(b"conf-store-1", &[]);
        if self.is_secret() {
            part(b"salt", salt);
        }
        for (path, content) in &self.files {
            part(b"path", path.as_bytes());
            match content {
                Content::File { bytes, executable: false, secret: false } => part(b"file", bytes),
                Content::File { bytes, executable: true, secret: false } => part(b"exec", bytes),
                Content::File { bytes, executable: false, secret: true } => part(b"secret file", bytes),
                Content::File { bytes, executable: true, secret: true } => part(b"secret exec", bytes),
                Content::Link(target) => part(b"link", target.as_bytes()),
            }
        }
        part(b"settings", &self.settings);
        if let Some(shown) = &self.settings_shown {
            part(b"shown", shown);
        }
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
        let what = "the name of a store entry";
        let bad =
            || BadName { text: text.chars().take(80).collect(), what, reason: "it must be 64 lower-case hex digits" };
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
