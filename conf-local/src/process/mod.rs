//! Processes of this host: commands that the agent runs, and processes that it signals. Relies on
//! `fs`.

mod words;
mod stat;
mod run_as;
mod guardian;
mod command;
mod handle;
mod descendants;
mod pidfile;

pub use crate::process::guardian::child as guard;
#[cfg(test)]
pub(crate) use crate::process::handle::tests::Running;
pub(crate) use crate::process::{
    command::{
        Children, CommandError, GRACE_OF_GUARDIAN, Invocation, TIME_LIMIT, Variables, Visibility, guarded,
        run as run_command, variables_of_change,
    },
    descendants::{Descendant, Family, adopt, reap_adopted},
    guardian::END_WITHIN,
    handle::{FIRST_LOOK, LONGEST_LOOK, Process, ProcessError, ProcessIdentity, start_time},
    pidfile::of_pidfile,
    run_as::{RunAs, is_root},
    words::{CommandText, limit_from, parse_signal, words},
};
