//! Places for readers of streams, which stay for as long as they like.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use crate::http::{
    answer::{Response, busy},
    listener::most_connections,
    peer::Peer,
    who::Who,
};

/// Places for readers: half of the connections, so that the other half is left for all else; and
/// half of the places for one peer, so that nobody keeps all others out. A proxy is one peer.
#[derive(Clone, Debug)]
pub struct StreamPlaces(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    most: usize,
    of_one: usize,
    by: Mutex<BTreeMap<Who, usize>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct StreamPlace {
    places: StreamPlaces,
    who: Who,
}

impl Default for StreamPlaces {
    fn default() -> Self {
        StreamPlaces::new((most_connections() / 2).max(1))
    }
}

impl StreamPlaces {
    /// Makes so many places; more than connections there never are.
    pub fn new(most: usize) -> Self {
        StreamPlaces(Arc::new(Taken { most, of_one: most.div_ceil(2), by: Mutex::default() }))
    }

    /// The places that are taken.
    pub fn taken_now(&self) -> usize {
        self.0.by.lock().values().sum()
    }

    /// Takes a place; without one, asks to come again. A reader that is gone leaves its place when
    /// the kernel gives its connection up.
    pub fn take(&self, peer: Peer) -> Result<StreamPlace, Box<Response>> {
        let who = Who::from(peer);
        let mut by = self.0.by.lock();
        let own = by.get(&who).copied().unwrap_or_default();
        let words = if by.values().sum::<usize>() >= self.0.most {
            "too many readers listen here already; use another server, or ask again later"
        } else if own >= self.0.of_one {
            "too many readers of your address listen here already; end some, use another server, or ask again later"
        } else {
            by.insert(who, own + 1);
            return Ok(StreamPlace { places: self.clone(), who });
        };
        Err(Box::new(busy(words, 10)))
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut by = self.places.0.by.lock();
        if let Some(own) = by.get_mut(&self.who) {
            *own -= 1;
            if *own == 0 {
                by.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn tcp(address: &str) -> Peer {
        Peer::Tcp(address.parse().unwrap())
    }

    #[test]
    fn streams_are_bounded_and_no_peer_takes_all_places() {
        let places = StreamPlaces::new(3);
        let mut taken = vec![places.take(tcp("10.0.0.1:1")).unwrap(), places.take(tcp("10.0.0.1:2")).unwrap()];
        let full = places.take(tcp("[::ffff:10.0.0.1]:3")).unwrap_err();
        assert_eq!(
            (full.status(), &full.headers()["retry-after"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"10".parse().unwrap())
        );
        taken.push(places.take(tcp("10.0.0.2:1")).unwrap());
        assert!(places.take(tcp("10.0.0.3:1")).is_err(), "there is no fourth place");
        taken.remove(0);
        taken.push(places.take(tcp("10.0.0.1:4")).unwrap());
        taken.clear();
        assert!(places.0.by.lock().is_empty(), "nothing is remembered of who has gone");
    }
}
