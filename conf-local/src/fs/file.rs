//! Files of the agent's own state, each replaced in one step.
//!
//! A state file is a JSON object whose member `format` is 1. An agent that meets a higher format
//! reports it and does not use the content.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use conf_core::git::{Durability, SECTOR, overwrite_file, replace_file};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

const FORMAT: u32 = 1;

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Serialize)]
struct Formatted<'a, T> {
    format: u32,
    #[serde(flatten)]
    content: &'a T,
}

/// Replaces a state file.
pub(crate) fn replace_state<T: Serialize>(path: &Path, content: &T, durability: Durability) -> io::Result<()> {
    replace_file(path, &serde_json::to_vec(&Formatted { format: FORMAT, content })?, 0o600, durability)
}

/// Gives a state file that changes often a new content: in place, if that fits into a sector. The
/// caller makes it durable, or does without.
pub(crate) fn overwrite_state<T: Serialize>(path: &Path, content: &T) -> io::Result<fs::File> {
    let mut text = serde_json::to_vec(&Formatted { format: FORMAT, content })?;
    if text.len() > SECTOR {
        replace_file(path, &text, 0o600, Durability::None)?;
        return fs::File::open(path);
    }
    // Spaces at the end mean nothing in JSON, and the file keeps its length.
    text.resize(SECTOR, b' ');
    overwrite_file(path, &text, 0o600)
}

/// Reads a state file; one that does not exist holds the default.
///
/// Errors: the file cannot be read, is damaged, or has a higher format.
pub(crate) fn read_state<T: DeserializeOwned + Default>(path: &Path) -> io::Result<T> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        other => other?,
    };
    match serde_json::from_slice(&text)? {
        Format { format: FORMAT } => Ok(serde_json::from_slice(&text)?),
        Format { format } => Err(io::Error::other(format!("it has format {format}, written by a newer agent"))),
    }
}

/// 8 KiB: a file of `/proc` about one process, or about the memory of all, is shorter.
const USUAL_PROC_BYTES: usize = 8 << 10;

/// Reads a file below `/proc`. It has no length before it is read; the standard library would begin
/// with 32 bytes and take ten reads.
pub(crate) fn read_proc(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::with_capacity(USUAL_PROC_BYTES);
    fs::File::open(path)?.take(u64::MAX).read_to_string(&mut text)?;
    Ok(text)
}
