//! Puts the parts together: `bind` does everything that can fail at the start, `run` everything
//! else.

mod options;
mod privileges;
mod health;
mod socket;
mod local_agent;

pub(crate) use crate::agent::options::AgentSocket;
pub use crate::agent::{
    local_agent::LocalAgent,
    options::{FileOnly, RunOptions},
    privileges::limit_privileges,
};
