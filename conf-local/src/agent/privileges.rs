//! What the agent keeps of root's capabilities.

use std::io;

use conf_core::privileges::{bound, keep};
use rustix::thread::CapabilitySet;

use crate::{agent::options::FileOnly, process::is_root};

/// What the agent itself does as root: it reads and writes files of any user and gives them owners,
/// signals processes of any user and looks at them, starts commands and workers as other users,
/// and listens.
const NEEDED: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_PTRACE);

/// Has an agent that is root give up, for good, the capabilities that it never needs. Where its own
/// file names no command, no program that it starts gains them either. Call it before any other
/// thread starts.
pub fn limit_privileges(file: &FileOnly) -> io::Result<()> {
    if !is_root() {
        return Ok(());
    }
    if !file.names_commands() {
        bound(NEEDED)?;
    }
    keep(NEEDED)
}
