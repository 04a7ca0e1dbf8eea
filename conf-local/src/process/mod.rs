//! Processes of this host: commands that the agent runs, and processes that it signals. Relies on
//! the system alone.

pub(crate) mod command;
pub(crate) mod guardian;
pub(crate) mod handle;
pub(crate) mod pidfile;
pub(crate) mod words;
