//! Checks of bare repositories.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    git::git,
    program::{run, text},
    wait::eventually,
};

/// Runs git in a bare repository and expects success.
#[track_caller]
pub fn in_repository(repo: &Path, arguments: &[&str]) -> String {
    let mut command = git(Path::new("git"), repo);
    command.args(arguments);
    let output = run(command);
    assert!(output.status.success(), "git {arguments:?} in {}:\n{}", repo.display(), text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Expects a repository to be whole. While a daemon joins packs, Git finds that one is gone which it
/// has just listed: what counts is a fault that stays.
#[track_caller]
pub fn fsck(repo: &Path) {
    eventually(&format!("{} to be whole", repo.display()), || {
        let mut command = git(Path::new("git"), repo);
        // Objects of refused pushes stay until they are pruned, which is no fault.
        command.args(["-c", "safe.directory=*", "fsck", "--full", "--strict", "--no-dangling"]);
        let output = run(command);
        let words = text(&output);
        let is_whole = output.status.success() && words.lines().all(|line| line.starts_with("notice:"));
        if is_whole { Ok(()) } else { Err(format!("git fsck ({}):\n{words}", output.status)) }
    });
}

pub(crate) fn repositories_below(folder: &Path) -> Vec<PathBuf> {
    if folder.join("HEAD").is_file() && folder.join("objects").is_dir() {
        return vec![folder.to_owned()];
    }
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .flat_map(|entry| repositories_below(&entry.path()))
        .collect()
}

/// Reads the number from the line `Conf-Sequence: <n>`.
pub fn sequence_of(message: &str) -> Option<u64> {
    message.lines().find_map(|line| line.strip_prefix("Conf-Sequence:")?.trim().parse().ok())
}
