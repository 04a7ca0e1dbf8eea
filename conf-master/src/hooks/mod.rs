//! A push, from Git's hooks to the landing: the hook `program` on one side of a socket, the
//! `server` on the other.
//!
//! `git receive-pack` runs the hooks in the repository, whoever started it: this server, or who
//! pushes to a path. The hook reports what is pushed and prints the answer; it decides nothing.

pub(crate) mod forced;
pub(crate) mod local;
mod options;
pub(crate) mod program;
pub(crate) mod protocol;
mod pushers;
pub(crate) mod server;
pub(crate) mod ssh;

pub(crate) use crate::hooks::program::run_hook;
pub(crate) use crate::hooks::protocol::PUSH_VARIABLE;
pub(crate) use crate::hooks::pushers::Pushers;
