//! Places that peers share: nobody takes all of them, and who comes while none is free waits.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot::{self, Receiver, Sender};

use crate::http::who::Who;

/// A number of places, of which each peer gets some at most.
///
/// Who finds no free place waits, for a bounded time and in a bounded crowd. A place that becomes
/// free goes to the peer that has the fewest, and of several such to the one that came first: a
/// peer that asks for much waits for itself alone.
#[derive(Clone, Debug)]
pub struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: ShareBounds,
    state: Mutex<State>,
}

/// How many places there are, for all and for one.
#[derive(Clone, Copy, Debug)]
pub struct ShareBounds {
    /// All places.
    pub places: u64,
    /// Those of one peer at most.
    pub of_one: u64,
    /// Requests that wait at once; half of them of one peer.
    pub waiting: usize,
}

#[derive(Debug, Default)]
struct State {
    taken: BTreeMap<Who, u64>,
    sum: u64,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    who: Who,
    weight: u64,
    place: Sender<Share>,
}

/// One place or several, until it is dropped.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    who: Who,
    weight: u64,
}

/// All places are taken, and nobody left one in time; or too many wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowded;

impl Shares {
    /// Makes places, all of them free.
    pub fn new(bounds: ShareBounds) -> Self {
        Shares(Arc::new(Inner { bounds, state: Mutex::default() }))
    }

    /// Makes places of which one peer gets half.
    pub fn halves(places: u64, waiting: usize) -> Self {
        Shares::new(ShareBounds { places, of_one: places.div_ceil(2), waiting })
    }

    /// Takes `weight` places at once, and waits for them for at most `patience`. More than a peer
    /// may have count as all that it may have.
    ///
    /// Cancel: the place in the queue is left.
    pub async fn take(&self, who: Who, weight: u64, patience: Duration) -> Result<Share, Crowded> {
        match self.line_up(who, weight)? {
            Ok(share) => Ok(share),
            Err(coming) => {
                let come = tokio::time::timeout(patience, coming).await;
                come.map_err(|_| Crowded)?.map_err(|_| Crowded)
            }
        }
    }

    /// Like [`Shares::take`], for a thread that may block, and without a bound in time: only for
    /// places that everybody leaves soon.
    pub fn take_blocking(&self, who: Who, weight: u64) -> Result<Share, Crowded> {
        self.line_up(who, weight)?.or_else(|coming| coming.blocking_recv().map_err(|_| Crowded))
    }

    /// Takes places that are free now.
    pub fn try_take(&self, who: Who, weight: u64) -> Option<Share> {
        let mut state = self.0.state.lock();
        self.has_room(&state, who, weight).then(|| self.taken(&mut state, who, weight))
    }

    /// The places that are taken.
    pub fn taken_now(&self) -> u64 {
        self.0.state.lock().sum
    }

    /// Those that wait.
    pub fn waiting_now(&self) -> usize {
        self.0.state.lock().waiting.iter().filter(|one| !one.place.is_closed()).count()
    }

    fn line_up(&self, who: Who, weight: u64) -> Result<Result<Share, Receiver<Share>>, Crowded> {
        let ShareBounds { of_one, waiting, .. } = self.0.bounds;
        let weight = weight.min(of_one);
        let mut state = self.0.state.lock();
        state.waiting.retain(|one| !one.place.is_closed());
        // Nobody who may have a place waits for one while it is free, except for a larger one.
        let others = state.waiting.iter().any(|one| self.may_have(&state, one.who, one.weight));
        if !others && self.has_room(&state, who, weight) {
            return Ok(Ok(self.taken(&mut state, who, weight)));
        }
        let own = state.waiting.iter().filter(|one| one.who == who).count();
        if state.waiting.len() >= waiting || own >= waiting.div_ceil(2) {
            return Err(Crowded);
        }
        let (place, coming) = oneshot::channel();
        state.waiting.push_back(Waiter { who, weight, place });
        drop(state);
        self.hand_out();
        Ok(Err(coming))
    }

    fn may_have(&self, state: &State, who: Who, weight: u64) -> bool {
        state.of(who) + weight <= self.0.bounds.of_one
    }

    fn has_room(&self, state: &State, who: Who, weight: u64) -> bool {
        self.may_have(state, who, weight) && state.sum + weight <= self.0.bounds.places
    }

    fn taken(&self, state: &mut State, who: Who, weight: u64) -> Share {
        *state.taken.entry(who).or_default() += weight;
        state.sum += weight;
        Share { shares: self.clone(), who, weight }
    }

    /// Gives free places to those that wait.
    fn hand_out(&self) {
        let mut state = self.0.state.lock();
        let mut given = Vec::new();
        loop {
            state.waiting.retain(|one| !one.place.is_closed());
            let able = state.waiting.iter().enumerate().filter(|(_, one)| self.may_have(&state, one.who, one.weight));
            let Some((next, _)) = able.min_by_key(|(number, one)| (state.of(one.who), *number)) else { break };
            let Waiter { who, weight, .. } = state.waiting[next];
            // Smaller ones do not pass by for ever.
            if !self.has_room(&state, who, weight) {
                break;
            }
            let Some(waiter) = state.waiting.remove(next) else { break };
            given.push((waiter.place, self.taken(&mut state, who, weight)));
        }
        drop(state);
        for (place, share) in given {
            // Who has gone meanwhile leaves the share, which goes to the next.
            drop(place.send(share));
        }
    }

    fn leave(&self, who: Who, weight: u64) {
        {
            let mut state = self.0.state.lock();
            state.sum -= weight;
            if let Some(own) = state.taken.get_mut(&who) {
                *own -= weight;
                if *own == 0 {
                    state.taken.remove(&who);
                }
            }
        }
        self.hand_out();
    }
}

impl State {
    fn of(&self, who: Who) -> u64 {
        self.taken.get(&who).copied().unwrap_or_default()
    }
}

impl Share {
    /// Takes more places, if they are free now.
    #[must_use]
    pub fn grow(&mut self, more: u64) -> bool {
        let mut state = self.shares.0.state.lock();
        if !self.shares.has_room(&state, self.who, more) {
            return false;
        }
        *state.taken.entry(self.who).or_default() += more;
        state.sum += more;
        self.weight += more;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.weight > 0 {
            self.shares.leave(self.who, self.weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn peer(number: u32) -> Who {
        Who::User(number)
    }

    fn waits(shares: &Shares, who: Who, weight: u64) -> JoinHandle<Result<Share, Crowded>> {
        let shares = shares.clone();
        tokio::spawn(async move { shares.take(who, weight, LONG).await })
    }

    /// Lets the tasks of this runtime, which has one thread, come to their waits.
    async fn settled(shares: &Shares, waiting: usize) {
        while shares.waiting_now() != waiting {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_peer_has_half_and_what_is_free_goes_to_who_has_least() {
        let shares = Shares::halves(4, 10);
        let own = [shares.take(peer(1), 1, LONG).await.unwrap(), shares.take(peer(1), 1, LONG).await.unwrap()];
        assert_eq!(shares.take(peer(1), 1, Duration::ZERO).await.unwrap_err(), Crowded, "there are two for each");
        let others = [shares.take(peer(2), 1, LONG).await.unwrap(), shares.take(peer(3), 1, LONG).await.unwrap()];
        // Both that have one and the one that has none wait, in this order.
        let (second, first) = (waits(&shares, peer(2), 1), waits(&shares, peer(4), 1));
        settled(&shares, 2).await;
        drop(own);
        let (second, first) = (second.await.unwrap().unwrap(), first.await.unwrap().unwrap());
        assert_eq!(shares.taken_now(), 4);
        drop((second, first, others));
        assert_eq!((shares.taken_now(), shares.0.state.lock().taken.len()), (0, 0), "nothing is remembered");
    }

    #[tokio::test]
    async fn who_has_none_goes_before_who_came_first_and_has_one() {
        let shares = Shares::new(ShareBounds { places: 2, of_one: 2, waiting: 10 });
        let (one, other) = (shares.try_take(peer(1), 1).unwrap(), shares.try_take(peer(2), 1).unwrap());
        let greedy = waits(&shares, peer(1), 1);
        settled(&shares, 1).await;
        let modest = waits(&shares, peer(3), 1);
        settled(&shares, 2).await;
        drop(other);
        let modest = modest.await.unwrap().unwrap();
        assert_eq!(shares.waiting_now(), 1);
        drop((one, modest));
        greedy.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn those_that_wait_are_bounded_and_who_goes_away_leaves_its_place() {
        let shares = Shares::halves(1, 4);
        let held = shares.try_take(peer(1), 1).unwrap();
        let waiting = [waits(&shares, peer(1), 1), waits(&shares, peer(1), 1)];
        settled(&shares, 2).await;
        assert_eq!(shares.take(peer(1), 1, LONG).await.unwrap_err(), Crowded, "half of those that wait");
        let others = [waits(&shares, peer(2), 1), waits(&shares, peer(2), 1)];
        settled(&shares, 4).await;
        assert_eq!(shares.take(peer(3), 1, LONG).await.unwrap_err(), Crowded);
        for one in waiting {
            one.abort();
            assert!(one.await.unwrap_err().is_cancelled());
        }
        let last = waits(&shares, peer(3), 1);
        settled(&shares, 3).await;
        drop(held);
        for one in others {
            drop(one.await.unwrap().unwrap());
        }
        last.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_is_large_is_not_passed_by_for_ever_and_fits_at_last() {
        let shares = Shares::new(ShareBounds { places: 10, of_one: 8, waiting: 10 });
        let held = shares.try_take(peer(1), 6).unwrap();
        let large = waits(&shares, peer(2), 100);
        settled(&shares, 1).await;
        let small = waits(&shares, peer(3), 1);
        settled(&shares, 2).await;
        drop(held);
        let large = large.await.unwrap().unwrap();
        assert_eq!(large.weight, 8, "all that a peer may have");
        small.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_share_grows_within_the_bounds() {
        let shares = Shares::halves(10, 1);
        let mut share = shares.try_take(peer(1), 1).unwrap();
        assert!(share.grow(4) && !share.grow(1), "half is for one peer");
        let mut other = shares.try_take(peer(2), 4).unwrap();
        let third = shares.try_take(peer(3), 1).unwrap();
        assert!(!other.grow(1), "all are taken");
        drop(third);
        assert!(other.grow(1));
    }

    #[test]
    fn a_thread_waits_too() {
        let shares = Shares::halves(1, 1);
        let held = shares.take_blocking(peer(1), 1).unwrap();
        let waiting = shares.clone();
        let thread = std::thread::spawn(move || drop(waiting.take_blocking(peer(2), 1).unwrap()));
        while shares.waiting_now() == 0 {
            std::thread::yield_now();
        }
        drop(held);
        thread.join().unwrap();
        assert_eq!(shares.taken_now(), 0);
    }
}
