//! The sender of a request.

use std::{
    collections::{BTreeMap, BinaryHeap},
    net::SocketAddr,
    time::Instant,
};

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

/// Chooses `count` entries to let go: always the one that came first of the peer that has the most
/// then. So nobody who sends much crowds out who sends little.
pub fn crowded_out<K>(entries: impl IntoIterator<Item = (String, Instant, K)>, count: usize) -> Vec<K> {
    let mut by_peer: BTreeMap<String, Vec<(Instant, K)>> = BTreeMap::new();
    for (peer, came, key) in entries {
        by_peer.entry(peer).or_default().push((came, key));
    }
    for entries in by_peer.values_mut() {
        entries.sort_by_key(|(came, _)| std::cmp::Reverse(*came));
    }
    let mut most: BinaryHeap<(usize, String)> = by_peer.iter().map(|(peer, all)| (all.len(), peer.clone())).collect();
    let mut gone = Vec::new();
    while gone.len() < count
        && let Some((left, peer)) = most.pop()
    {
        gone.extend(by_peer.get_mut(&peer).and_then(Vec::pop).map(|(_, key)| key));
        if left > 1 {
            most.push((left - 1, peer));
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_has_most_loses_what_came_first() {
        let now = Instant::now();
        let entries = [("a", 5, 1), ("b", 1, 2), ("a", 4, 3), ("a", 6, 4), ("c", 2, 5), ("b", 3, 6)];
        let entries = entries.map(|(peer, came, key)| (peer.to_owned(), now + Duration::from_secs(came), key));
        assert_eq!(crowded_out(entries.clone(), 1), [3]);
        let mut three = crowded_out(entries.clone(), 3);
        three.sort_unstable();
        assert_eq!(three, [1, 2, 3]);
        assert_eq!(crowded_out(entries, 10).len(), 6);
    }
}
