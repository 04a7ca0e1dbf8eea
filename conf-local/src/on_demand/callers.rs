//! Who may wait at once: so many in all, and of one user a share of it, so that none shuts the others out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Callers that wait at once; more are turned away.
pub(crate) const MOST_WAITING: usize = 256;

/// Of one user; of all whose user the kernel does not tell together.
pub(crate) const MOST_OF_USER: usize = 128;

/// Everybody who waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Callers(Arc<Mutex<BTreeMap<Option<u32>, usize>>>);

/// One who waits, until it is dropped.
#[derive(Debug)]
pub(crate) struct Caller {
    all: Callers,
    user: Option<u32>,
}

impl Callers {
    /// Lets one more wait, unless there are too many.
    pub(crate) fn enter(&self, user: Option<u32>) -> Option<Caller> {
        let mut waiting = self.waiting();
        let of_user = waiting.get(&user).copied().unwrap_or_default();
        if of_user >= MOST_OF_USER || waiting.values().sum::<usize>() >= MOST_WAITING {
            return None;
        }
        waiting.insert(user, of_user + 1);
        Some(Caller { all: self.clone(), user })
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Option<u32>, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut waiting = self.all.waiting();
        if let Some(of_user) = waiting.get_mut(&self.user) {
            *of_user -= 1;
            if *of_user == 0 {
                waiting.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_shuts_the_others_out() {
        let callers = Callers::default();
        let enter = |user: u32, count: usize| (0..count).map_while(|_| callers.enter(Some(user))).collect::<Vec<_>>();
        let greedy = enter(1, 1000);
        assert_eq!(greedy.len(), MOST_OF_USER);
        let other = enter(2, 1);
        assert_eq!(other.len(), 1);
        assert_eq!(enter(3, 1000).len(), MOST_WAITING - MOST_OF_USER - 1);
        drop(greedy);
        assert_eq!(enter(1, 1000).len(), MOST_OF_USER);
        drop(other);
        assert!(callers.waiting().is_empty(), "nothing is left of who has gone");
    }
}
