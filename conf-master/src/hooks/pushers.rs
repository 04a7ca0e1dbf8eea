//! Who pushes, as long as the program of Git runs.

use std::{collections::BTreeMap, sync::Arc};

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

/// The name of a user of this machine.
pub(crate) fn user_name(user: u32) -> String {
    let found = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(user)).ok().flatten();
    found.map_or_else(|| format!("user {user}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use conf_core::http::Who;

    use super::*;

    #[test]
    fn a_push_is_known_for_as_long_as_it_runs() {
        let pusher = || Pusher { by: Some("ann".to_owned()), through: "http 10.0.0.1".to_owned(), who: Who::User(1) };
        let pushers = Pushers::default();
        let first = pushers.begin(pusher());
        // Others come and go meanwhile, however many.
        (0..10_000).for_each(|_| drop(pushers.begin(pusher())));
        let found = pushers.find(&first.id).map(|found| found.by);
        assert_eq!(found, Some(Some("ann".to_owned())));
        let id = first.id.clone();
        drop(first);
        assert!(pushers.find(&id).is_none());
        assert!(pushers.0.lock().is_empty());
    }
}
