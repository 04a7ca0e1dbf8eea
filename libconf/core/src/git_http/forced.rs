//! Git's programs in the place of this one, for whoever comes over SSH.

use std::{io, os::unix::process::CommandExt as _, path::Path};

use nix::unistd::alarm;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    git,
    git_http::receive::{IN_LITTLE_MEMORY, bounds_of},
};

/// Becomes `git receive-pack` of `repo`, in the memory and processor time of a push over HTTP.
/// What is pushed is not measured before. It ends after `longest` seconds. Returns only when it
/// cannot be started. The hooks see `variables`.
pub fn become_receive_pack(repo: &Path, longest: u32, variables: &[(&str, &str)]) -> io::Error {
    let bounds = bounds_of(repo);
    for (resource, most) in [(Resource::As, bounds.memory), (Resource::Cpu, bounds.seconds)] {
        let limit = Rlimit { current: Some(most), ..getrlimit(resource) };
        if let Err(cause) = setrlimit(resource, limit) {
            return cause.into();
        }
    }
    let mut git = git::command(repo);
    git.args(IN_LITTLE_MEMORY.iter().flat_map(|setting| ["-c", setting]));
    git.envs(variables.iter().copied()).arg("receive-pack").arg(repo);
    // Git uses no alarm of its own there, and a program takes this one over. What it has started
    // ends when nobody talks to it any more.
    alarm::set(longest);
    git.exec()
}

/// Becomes `git upload-pack` of `repo`. Returns only when it cannot be started. In the protocol
/// that it speaks here, Git itself refuses a wish for what no ref points to, but whoever deepens
/// gets the parents of a commit that he names.
pub fn become_upload_pack(repo: &Path) -> io::Error {
    let mut git = git::command(repo);
    for setting in ["AnySHA1InWant", "TipSHA1InWant", "ReachableSHA1InWant", "RefInWant", "Filter"] {
        git.arg("-c").arg(format!("uploadpack.allow{setting}=false"));
    }
    // The environment, which would name another version of the protocol, is not passed on.
    git.args(["-c", "pack.useBitmaps=false", "upload-pack", "--strict", "--timeout=120"]).arg(repo).exec()
}
