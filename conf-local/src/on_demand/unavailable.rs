//! Why there is no folder for a change.

use libconf::name::Sequence;

use crate::on_demand::callers::{MOST_OF_USER, MOST_WAITING};

/// Why there is no folder for a change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error("nothing is exported on this host yet; `conf-local status` shows what the agent waits for")]
    Nothing,
    #[error(
        "too many callers wait for a change already: {MOST_WAITING}, or {MOST_OF_USER} of one user; try again soon"
    )]
    Busy,
    #[error("the agent is stopping; ask again when it runs")]
    Stopping,
    #[error("the datacenter had no configuration as old as change {0}")]
    TooOld(Sequence),
    /// It landed, if it did, at a conf-master that another one has replaced.
    #[error(
        "change {change} was replaced: conf-master's history goes on after {last} with {first}; begin the operation anew"
    )]
    Replaced { change: Sequence, last: Sequence, first: Sequence },
    /// No server knows the change yet, or no server answers.
    #[error("change {change} is not known here in time: {missing}")]
    Late { change: Sequence, missing: String },
    /// The snapshot is known, and no server has it.
    #[error("no server has the snapshot of change {change}: {missing}")]
    Nobody { change: Sequence, missing: String },
    /// This host's disk failed until the time was up.
    #[error("{0}; run `conf-local verify --repair`")]
    Broken(String),
}

impl Unavailable {
    /// True if another attempt may find the folder.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Unavailable::Late { .. } | Unavailable::Nobody { .. } | Unavailable::Broken(_))
    }
}
