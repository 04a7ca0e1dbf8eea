//! Hosts that join: each shows a join token once, and is known by its key from then on.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use http::StatusCode;
use libconf::name::{DatacenterName, HostName};

use crate::access::Token;
use crate::http::answer::{Response, busy, error};
use crate::secret::HostKey;

/// A host that has proven a key, and asks to be known by it.
#[derive(Clone, Debug)]
pub struct Joining {
    /// The datacenter.
    pub datacenter: DatacenterName,
    /// The name that it gives itself.
    pub host: HostName,
    /// The key.
    pub key: HostKey,
    /// The join token.
    pub token: Token,
}

/// Why a host did not join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotJoined {
    /// It may not.
    #[error("{0}")]
    Refused(String),
    /// Nobody could decide it now.
    #[error("{0}; it asks again by itself")]
    Later(String),
}

/// The answer, some time later.
pub type Joined = Pin<Box<dyn Future<Output = Result<(), NotJoined>> + Send>>;

/// Lets hosts join. When it says that one did, the host is known by its key here.
#[derive(Clone)]
pub(crate) struct Joins(pub(crate) Arc<dyn Fn(Joining) -> Joined + Send + Sync>);

impl NotJoined {
    /// The answer to who asked for it: `refused` where that may not be.
    pub fn answer(&self, refused: StatusCode) -> Response {
        match self {
            NotJoined::Refused(words) => error(refused, words),
            NotJoined::Later(words) => busy(words, 5),
        }
    }
}

impl fmt::Debug for Joins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Joins")
    }
}
