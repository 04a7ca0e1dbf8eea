//! Who sent a request.

use std::net::SocketAddr;

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Somebody on the network.
    Tcp(SocketAddr),
    /// A process of this machine, as the kernel saw it when it connected.
    Unix {
        /// Its user.
        uid: u32,
        /// Its process; `None` where the kernel does not tell.
        pid: Option<i32>,
    },
}
