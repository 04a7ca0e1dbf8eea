//! What took all the time there is, remembered for a while: what many datacenters run is not tried in each of them.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use libconf::name::ObjectId;

/// How long one is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);
/// After so many within that time no other is tried: landings wait for each.
const MOST: usize = 6;

/// Those that took all the time there is, with what to say of each.
#[derive(Debug)]
pub struct Endless<T>(Mutex<Vec<(ObjectId, Instant, T)>>);

/// What is known of one before it is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known<T> {
    /// Nothing: it may be tried.
    Nothing,
    /// It took all the time there is.
    Endless(T),
    /// Others took it.
    TooMany,
}

impl<T> Default for Endless<T> {
    fn default() -> Self {
        Endless(Mutex::default())
    }
}

impl<T: Clone> Endless<T> {
    /// What is known of the tree or blob `id`.
    pub fn known(&self, id: ObjectId) -> Known<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, when, _)| when.elapsed() < REMEMBERED);
        match all.iter().find(|(one, ..)| *one == id) {
            Some((.., what)) => Known::Endless(what.clone()),
            None if all.len() >= MOST => Known::TooMany,
            None => Known::Nothing,
        }
    }

    /// Remembers one.
    pub fn remember(&self, id: ObjectId, what: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((id, Instant::now(), what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_tried_again_and_after_some_no_other_is() {
        let id = |number: u8| format!("{number:040x}").parse::<ObjectId>().unwrap();
        let endless = Endless::default();
        assert_eq!(endless.known(id(1)), Known::Nothing);
        for number in 1..=6 {
            assert_eq!(endless.known(id(number)), Known::Nothing);
            endless.remember(id(number), number);
        }
        assert_eq!(endless.known(id(2)), Known::Endless(2));
        assert_eq!(endless.known(id(7)), Known::TooMany);
    }
}
