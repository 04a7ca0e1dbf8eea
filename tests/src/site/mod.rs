//! One central server, a datacenter's caches and its hosts, each a real process.

mod content;
mod repository;
mod plan;
mod master;
mod slave;
mod host;
mod tiers;

use rand::seq::IndexedRandom;

pub use self::{
    content::{CLASS, DATACENTER, ELSEWHERE, Pin, class, instance},
    host::Host,
    master::{Master, token_in},
    plan::{Plan, Pointers},
    repository::{fsck, in_repository, sequence_of},
    slave::Slave,
    tiers::Site,
};

/// Chooses one of several at random.
pub fn any<T>(several: &[T]) -> &T {
    several.choose(&mut rand::rng()).expect("there is at least one")
}
