//! Bounds the number of callers that wait at once: in all, and of one user, so that no user blocks
//! the others.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

/// 256 callers wait at once: each holds a connection. More are refused.
pub(crate) const MOST_WAITING: usize = 256;

/// 128 callers of one user. Callers without a user that the kernel names count as one user.
pub(crate) const MOST_OF_USER: usize = 128;

/// All waiting callers, counted by user.
#[derive(Clone, Debug, Default)]
pub(crate) struct Callers(Arc<Mutex<BTreeMap<Option<u32>, usize>>>);

/// One waiting caller, until it is dropped.
#[derive(Debug)]
pub(crate) struct Caller {
    all: Callers,
    user: Option<u32>,
}

impl Callers {
    /// Adds a caller, unless there are too many.
    pub(crate) fn enter(&self, user: Option<u32>) -> Option<Caller> {
        let mut waiting = self.0.lock();
        let of_user = waiting.get(&user).copied().unwrap_or_default();
        if of_user >= MOST_OF_USER || waiting.values().sum::<usize>() >= MOST_WAITING {
            return None;
        }
        waiting.insert(user, of_user + 1);
        Some(Caller { all: self.clone(), user })
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut waiting = self.all.0.lock();
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
    fn no_user_blocks_the_others() {
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
        assert!(callers.0.lock().is_empty(), "a caller that has gone still counts");
    }
}
