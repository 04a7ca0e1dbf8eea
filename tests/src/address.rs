//! Addresses for daemons.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Chooses one of sixteen million loopback addresses at random, which no other program has. A
/// program that starts again keeps it; the system would not promise to keep a port that it gave
/// out.
pub fn own_address(port: u16) -> SocketAddr {
    let [a, b, c, _] = rand::random::<u32>().to_be_bytes();
    // Not 127.0.0.1, where the user's own programs listen, and no first or last address.
    let address = Ipv4Addr::new(127, 1 + a % 250, b, 2 + c % 250);
    SocketAddr::new(IpAddr::V4(address), port)
}
