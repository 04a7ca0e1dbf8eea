//! Who a host is, and what one server gave it for the proof.

use std::{fmt, sync::Arc, time::Instant};

use libconf::name::{DatacenterName, HostName};
use parking_lot::Mutex;

use crate::secret::Identity;

/// A host that can prove itself.
#[derive(Clone)]
pub struct HostProof {
    /// Its datacenter.
    pub datacenter: DatacenterName,
    /// Its name in the inventory.
    pub host: HostName,
    /// Its private key.
    pub identity: Arc<Identity>,
}

/// The session with one server. Copies of the server share it.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// What is sent like a token, and until when.
    pub(crate) bearer: Mutex<Option<(Arc<str>, Instant)>>,
    /// One task opens it for all.
    pub(crate) opening: tokio::sync::Mutex<()>,
}

impl Session {
    /// What is sent like a token now.
    pub(crate) fn bearer(&self) -> Option<Arc<str>> {
        let bearer = self.bearer.lock();
        bearer.as_ref().filter(|(_, until)| Instant::now() < *until).map(|(bearer, _)| bearer.clone())
    }
}

impl fmt::Debug for HostProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostProof")
            .field("datacenter", &self.datacenter)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}
