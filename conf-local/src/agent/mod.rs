//! The daemon as a whole: `bind` does everything that can fail at the start, `run` everything else.
//! Relies on all folders above.

mod options;
mod health;
mod local_agent;

pub(crate) use crate::agent::options::AgentSocket;
pub use crate::agent::{
    local_agent::LocalAgent,
    options::{FileOnly, RunOptions},
};
