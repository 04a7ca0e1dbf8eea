//! Which of several equal servers a client asks first: rendezvous hashing spreads many clients
//! evenly over the servers, and moves only those of a server that goes.

use reqwest::Url;
use sha2::{Digest as _, Sha256};

/// Returns the weight of a server for a client: the client asks the server of the highest weight
/// first. Every version of this program must compute the same.
pub(crate) fn weight(client: &str, server: &Url) -> u64 {
    let hash = Sha256::new().chain_update(client).chain_update([0]).chain_update(server.as_str()).finalize();
    u64::from_be_bytes(hash.first_chunk().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The servers of 10.0.0.1 to this number, without one.
    fn servers(count: usize, without: Option<usize>) -> Vec<Url> {
        let all = (1..=count).filter(|number| Some(*number) != without);
        all.map(|number| format!("http://10.0.0.{number}:7401/").parse().unwrap()).collect()
    }

    fn first(host: usize, servers: &[Url]) -> Url {
        let host = format!("web-{host}");
        servers.iter().max_by_key(|server| weight(&host, server)).unwrap().clone()
    }

    fn counts(servers: &[Url]) -> BTreeMap<Url, usize> {
        let mut counts = BTreeMap::new();
        (0..300).for_each(|host| *counts.entry(first(host, servers)).or_default() += 1);
        counts
    }

    #[test]
    fn hosts_are_spread_evenly() {
        for (count, least, most) in [(3, 75, 135), (5, 40, 90)] {
            let counts = counts(&servers(count, None));
            assert_eq!(counts.len(), count);
            assert!(counts.values().all(|hosts| (least..=most).contains(hosts)), "{counts:?}");
        }
    }

    #[test]
    fn only_the_hosts_of_a_server_that_goes_move_and_they_go_to_all_others() {
        for count in [3, 5] {
            for gone in 1..=count {
                let (before, after) = (servers(count, None), servers(count, Some(gone)));
                let mut moved = BTreeMap::<Url, usize>::new();
                for host in 0..300 {
                    let (was, is) = (first(host, &before), first(host, &after));
                    if was == before[gone - 1] {
                        *moved.entry(is).or_default() += 1;
                    } else {
                        assert_eq!(was, is);
                    }
                }
                let sum: usize = moved.values().sum();
                assert_eq!(moved.len(), count - 1, "{moved:?}");
                assert!(moved.values().all(|hosts| *hosts <= sum * 2 / (count - 1)), "{moved:?} of {sum}");
            }
        }
    }

    #[test]
    fn every_version_computes_the_same() {
        let server = "http://10.0.0.1:7401/".parse().unwrap();
        assert_eq!(format!("{:016x}", weight("web-1", &server)), "9e0aa7bef68ac8a9");
    }
}
