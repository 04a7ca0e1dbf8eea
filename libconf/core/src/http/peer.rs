//! The sender of a request.

use std::net::SocketAddr;

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client on the network.
    Tcp(SocketAddr),
    /// A process of this machine, as the kernel saw it when it connected.
    Unix {
        /// The process's user.
        uid: u32,
        /// The process's id; `None` when the kernel does not tell.
        pid: Option<i32>,
    },
}
