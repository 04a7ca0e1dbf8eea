//! Who pushes, as long as the program of Git runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conf_core::access::{Named, Principal, Scope};
use libconf::name::PrincipalName;
use parking_lot::Mutex;

use crate::landing::Pusher;

/// The pushers of the pushes for which this server started a Git program itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pushers(Arc<Mutex<BTreeMap<String, Pusher>>>);

/// A push for as long as its Git program runs.
#[derive(Debug)]
pub(crate) struct RunningPush {
    /// The value for [`PUSH_VARIABLE`](crate::hooks::protocol::PUSH_VARIABLE), which nobody can
    /// guess.
    pub(crate) id: String,
    pushers: Pushers,
}

impl Pushers {
    /// Remembers a push until what it returns is dropped.
    pub(crate) fn begin(&self, pusher: Pusher) -> RunningPush {
        let id = format!("{:032x}", rand::random::<u128>());
        self.0.lock().insert(id.clone(), pusher);
        RunningPush { id, pushers: self.clone() }
    }

    /// Finds who is behind a push that still runs.
    pub(crate) fn find(&self, id: &str) -> Option<Pusher> {
        self.0.lock().get(id).cloned()
    }
}

impl Drop for RunningPush {
    fn drop(&mut self) {
        self.pushers.0.lock().remove(&self.id);
    }
}

/// A user of this machine who came to the socket in a repository of `owner`. Root and the owner may
/// write to its files without asking.
pub(crate) fn user(user: u32, owner: u32) -> Principal {
    if user == 0 || user == owner { Principal::Owner(user_name(user)) } else { account(user) }
}

/// An account of this machine.
pub(crate) fn account(user: u32) -> Principal {
    named(user_name(user).parse().ok(), user)
}

/// Somebody for whom a key or an account of this machine stands.
pub(crate) fn named(name: Option<PrincipalName>, user: u32) -> Principal {
    // Numbers alone are always a name.
    match name.or_else(|| format!("user-{user}").parse().ok()) {
        Some(name) => Principal::Named(Named { name, groups: BTreeSet::new(), scope: Scope::Policy, token: None }),
        None => Principal::Anybody,
    }
}

/// The name of a user of this machine.
fn user_name(user: u32) -> String {
    let found = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(user)).ok().flatten();
    found.map_or_else(|| format!("user {user}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use conf_core::http::Who;

    use super::*;

    #[test]
    fn who_comes_by_a_path() {
        assert_eq!(user(0, 5), Principal::Owner("root".to_owned()));
        assert_eq!(user(4_000_000, 4_000_000), Principal::Owner("user 4000000".to_owned()));
        let other = user(4_000_000, 5);
        assert_eq!(other.named().map(|named| named.name.to_string()), Some("user-4000000".to_owned()));
    }

    #[test]
    fn a_push_is_known_for_as_long_as_it_runs() {
        let pusher = || Pusher { principal: user(1, 2), through: "http 10.0.0.1".to_owned(), who: Who::User(1) };
        let pushers = Pushers::default();
        let first = pushers.begin(pusher());
        // Others come and go meanwhile, however many.
        (0..10_000).for_each(|_| drop(pushers.begin(pusher())));
        let found = pushers.find(&first.id).map(|found| found.principal);
        assert_eq!(found, Some(user(1, 2)));
        let id = first.id.clone();
        drop(first);
        assert!(pushers.find(&id).is_none());
        assert!(pushers.0.lock().is_empty());
    }
}
