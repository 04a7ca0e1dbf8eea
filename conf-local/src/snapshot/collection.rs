//! Keeps the repository's collection of unused objects away from fetches whose objects no ref names
//! yet.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// A lock that any number of fetches may hold, or one collection alone.
#[derive(Debug, Default)]
pub struct CollectionLock {
    lock: Arc<RwLock<()>>,
    /// A collection was put off.
    is_due: AtomicBool,
}

impl CollectionLock {
    /// Keeps the objects of a fetch until the guard is dropped. Waits for a collection to end.
    pub(crate) async fn fetch(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.lock).read_owned().await
    }

    /// Allows a collection if there is no fetch, without waiting. If there is one, a collection is
    /// due.
    pub(crate) fn try_collect(&self) -> Option<OwnedRwLockWriteGuard<()>> {
        let guard = Arc::clone(&self.lock).try_write_owned().ok();
        self.is_due.store(guard.is_none(), Ordering::Relaxed);
        guard
    }

    /// If a collection is due, waits for all fetches to end; new fetches then wait behind it. The
    /// caller hands the guard to the task that collects, which cannot wait for it: fetches wait for
    /// that task.
    pub(crate) async fn collect_if_due(&self) -> Option<OwnedRwLockWriteGuard<()>> {
        if !self.is_due.swap(false, Ordering::Relaxed) {
            return None;
        }
        Some(Arc::clone(&self.lock).write_owned().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_collection_that_was_put_off_gets_its_turn_between_endless_fetches() {
        let lock = Arc::new(CollectionLock::default());
        assert!(lock.collect_if_due().await.is_none());
        let first = lock.fetch().await;
        assert!(lock.try_collect().is_none());
        let waiting = tokio::spawn({
            let lock = lock.clone();
            async move { lock.collect_if_due().await.is_some() }
        });
        // Other fetches get the lock until the collection waits; from then on they wait behind it.
        while Arc::clone(&lock.lock).try_read_owned().is_ok() {
            tokio::task::yield_now().await;
        }
        drop(first);
        assert!(waiting.await.unwrap());
        assert!(lock.collect_if_due().await.is_none(), "a due collection happens once");
        drop(lock.fetch().await);
        assert!(lock.try_collect().is_some());
    }
}
