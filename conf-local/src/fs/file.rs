//! Files of the agent's own state, each replaced in one step.
//!
//! A state file is a JSON object whose member `format` is 1. An agent that meets a higher format
//! reports it and does not use the content.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

const FORMAT: u32 = 1;

/// What a power cut may undo of a replaced file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Everything: the file may be empty afterwards.
    None,
    /// The replacement alone: the file holds the old content or the new.
    Content,
    /// Nothing.
    Full,
}

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

/// Replaces a file in one step: a reader sees the old content or the new. `mode` are its
/// permission bits.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let staged = folder.join(name);
    // A file that a crash left may have other permission bits.
    let _ = fs::remove_file(&staged);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&staged)?;
    file.write_all(content)?;
    if durability != Durability::None {
        file.sync_all()?;
    }
    fs::rename(&staged, path)?;
    if durability == Durability::Full { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Replaces a state file.
pub(crate) fn replace_state<T: Serialize>(path: &Path, content: &T, durability: Durability) -> io::Result<()> {
    replace(path, &serde_json::to_vec(&Formatted { format: FORMAT, content })?, 0o644, durability)
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
