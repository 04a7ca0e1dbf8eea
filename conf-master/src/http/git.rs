//! Who stands behind a push that comes in over HTTP.

use conf_core::http::{Peer, Request};

use crate::hooks::Pusher;

/// The address that a push comes from. No name is proven until conf-master checks tokens.
pub(crate) fn pusher(request: &Request) -> Pusher {
    let from = match &request.peer {
        Peer::Tcp(address) => address.ip().to_string(),
        Peer::Unix { .. } => "a socket".to_owned(),
    };
    Pusher { by: None, through: format!("http {from}") }
}
