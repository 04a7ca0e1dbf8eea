//! Who is counted as one peer.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use crate::http::peer::Peer;

/// Whose places are counted together: an address, the network of an IPv6 address, or a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// An IPv4 address, or this machine.
    Address(IpAddr),
    /// The first 64 bits of an IPv6 address.
    Network([u16; 4]),
    /// A user of this machine.
    User(u32),
}

impl Peer {
    /// Who that is.
    pub fn who(self) -> Who {
        self.into()
    }

    /// The way in and the address, as records say it.
    pub fn through(self) -> String {
        match self {
            Peer::Tcp(address) => format!("http {}", address.ip()),
            Peer::Unix { .. } => "http a socket".to_owned(),
        }
    }
}

impl From<Peer> for Who {
    fn from(peer: Peer) -> Self {
        match peer {
            Peer::Unix { uid, .. } => Who::User(uid),
            Peer::Tcp(address) => address.ip().into(),
        }
    }
}

impl From<IpAddr> for Who {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            // One machine may have all addresses of such a network.
            IpAddr::V6(address) if !address.is_loopback() => {
                let [a, b, c, d, ..] = address.segments();
                Who::Network([a, b, c, d])
            }
            address => Who::Address(address),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Address(address) => address.fmt(f),
            Who::Network(network) => {
                let mut address = [0; 8];
                address[..4].copy_from_slice(network);
                Ipv6Addr::from(address).fmt(f)
            }
            Who::User(uid) => write!(f, "user {uid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> Peer {
        Peer::Tcp(address.parse().unwrap())
    }

    #[test]
    fn what_counts_as_one_peer() {
        let unix = |uid| Peer::Unix { uid, pid: None };
        for (one, other, is_same) in [
            (tcp("10.0.0.1:1"), tcp("10.0.0.1:2"), true),
            (tcp("10.0.0.1:1"), tcp("10.0.0.2:1"), false),
            (tcp("[2001:db8:1:2::1]:1"), tcp("[2001:db8:1:2:3::9]:1"), true),
            (tcp("[2001:db8:1:2::1]:1"), tcp("[2001:db8:1:3::1]:1"), false),
            (unix(1), unix(1), true),
            (unix(1), unix(2), false),
        ] {
            assert_eq!(Who::from(one) == Who::from(other), is_same, "{one:?} {other:?}");
            assert_eq!(Who::from(one).to_string() == Who::from(other).to_string(), is_same, "{one:?} {other:?}");
        }
        assert_eq!(Who::from(tcp("[::ffff:10.0.0.1]:1")).to_string(), "10.0.0.1");
    }
}
