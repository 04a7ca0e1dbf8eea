//! Why an answer could not be stored.

use std::io;

use git2::ErrorClass;

use crate::git::meter::Amiss;

/// Why an answer could not be stored.
#[derive(Debug)]
pub(crate) enum StoreError {
    /// The repository or its disk fails.
    Repository(String),
    /// The pack is damaged, thin against objects that are not here, or leaves objects out.
    Damaged(String),
    /// The pack passes a bound.
    TooLarge(String),
    /// The wanted commit is not to be taken.
    Unwanted(String),
    /// The parts ended before their end.
    BrokenOff,
}

impl From<Amiss> for StoreError {
    fn from(amiss: Amiss) -> Self {
        match amiss {
            Amiss::TooLarge(words) => StoreError::TooLarge(words),
            Amiss::Damaged(words) => StoreError::Damaged(words.to_owned()),
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        StoreError::Repository(error.to_string())
    }
}

impl From<git2::Error> for StoreError {
    fn from(error: git2::Error) -> Self {
        match error.class() {
            ErrorClass::Os | ErrorClass::Repository | ErrorClass::NoMemory | ErrorClass::Filesystem => {
                StoreError::Repository(error.message().to_owned())
            }
            _ => StoreError::Damaged(error.message().to_owned()),
        }
    }
}

impl StoreError {
    /// Finds libgit2's error inside the [`io::Error`] of the indexer.
    pub(crate) fn of_indexer(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<git2::Error>()) {
            Some(inner) => git2::Error::new(inner.code(), inner.class(), inner.message()).into(),
            None => StoreError::Repository(error.to_string()),
        }
    }
}
