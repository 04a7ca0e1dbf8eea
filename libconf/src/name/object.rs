//! Ids of Git's objects.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::name::text::{BadName, through_text};

/// The full name of a Git object: 40 lower-case hex digits (SHA-1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectId([u8; 20]);

/// An [`ObjectId`] that names a commit.
pub type CommitId = ObjectId;

impl ObjectId {
    /// The id that Git writes for "no object": forty zeros.
    pub const ZERO: ObjectId = ObjectId([0; 20]);

    /// Returns the twenty bytes.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// Tells whether this is [`ObjectId::ZERO`].
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// Returns the first ten digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..10].to_owned()
    }
}

impl From<[u8; 20]> for ObjectId {
    fn from(bytes: [u8; 20]) -> Self {
        ObjectId(bytes)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ObjectId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName::new(text, "an object id", "it must be 40 lower-case hex digits");
        if text.len() != 40 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        let mut bytes = [0; 20];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte =
                std::str::from_utf8(digits).ok().and_then(|two| u8::from_str_radix(two, 16).ok()).ok_or_else(bad)?;
        }
        Ok(ObjectId(bytes))
    }
}

through_text!(ObjectId);

#[cfg(feature = "git2")]
impl From<git2::Oid> for ObjectId {
    fn from(oid: git2::Oid) -> Self {
        let mut bytes = [0; 20];
        bytes.copy_from_slice(oid.as_bytes());
        ObjectId(bytes)
    }
}

#[cfg(feature = "git2")]
impl From<ObjectId> for git2::Oid {
    fn from(id: ObjectId) -> Self {
        git2::Oid::from_bytes(&id.0).expect("twenty bytes are an object id")
    }
}
