//! The newest accepted snapshot, for the time in which the repository does not know it.
//!
//! `accepted.json`: `{"format": 1, "accepted": {"sequence", "commit"}}`. It is written soon after a
//! change, and before a repository goes. So it may be older than what is known otherwise, and keeps
//! older snapshots out where somebody has removed repository and export.

use std::{io, path::Path};

use conf_core::{api::Pointer, git::Durability};
use serde::{Deserialize, Serialize};

use crate::fs::{read_state, replace_state};

const FILE: &str = "accepted.json";

#[derive(Default, Serialize, Deserialize)]
struct Content {
    accepted: Option<Pointer>,
}

pub(crate) fn read(state: &Path) -> Option<Pointer> {
    let content: Content = read_state(&state.join(FILE)).unwrap_or_else(|error| {
        tracing::warn!(%error, "{FILE} cannot be read; what the repository and the export know counts");
        Content::default()
    });
    content.accepted
}

pub(crate) fn write(state: &Path, accepted: Pointer, durability: Durability) -> io::Result<()> {
    replace_state(&state.join(FILE), &Content { accepted: Some(accepted) }, durability)
}
