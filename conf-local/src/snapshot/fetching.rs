//! Objects that no ref leads to: who fetches and uses them, and who removes what nothing leads to, do not meet.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Many may fetch at once; one removes, alone.
#[derive(Debug, Default)]
pub struct Fetching {
    lock: Arc<RwLock<()>>,
    /// Removing was put off.
    is_due: AtomicBool,
}

impl Fetching {
    /// Keeps what is fetched until the guard is dropped. Waits for who removes.
    pub async fn enter(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.lock).read_owned().await
    }

    /// Lets whoever has it remove, where nobody fetches; never waits. Where somebody does, it is due.
    pub fn alone(&self) -> Option<OwnedRwLockWriteGuard<()>> {
        let alone = Arc::clone(&self.lock).try_write_owned().ok();
        self.is_due.store(alone.is_none(), Ordering::Relaxed);
        alone
    }

    /// Where removing is due: waits until all who fetch have done, so that others who come wait behind. To be handed to who
    /// removes, who cannot wait for it: those who fetch wait for that one.
    pub async fn alone_when_due(&self) -> Option<OwnedRwLockWriteGuard<()>> {
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
    async fn what_is_put_off_gets_its_turn_though_somebody_always_fetches() {
        let fetching = Arc::new(Fetching::default());
        assert!(fetching.alone_when_due().await.is_none());
        let first = fetching.enter().await;
        assert!(fetching.alone().is_none());
        let waiting = tokio::spawn({
            let fetching = fetching.clone();
            async move { fetching.alone_when_due().await.is_some() }
        });
        // Until it waits, others enter; from then on they wait behind it.
        while Arc::clone(&fetching.lock).try_read_owned().is_ok() {
            tokio::task::yield_now().await;
        }
        drop(first);
        assert!(waiting.await.unwrap());
        assert!(fetching.alone_when_due().await.is_none(), "once for all who were told");
        drop(fetching.enter().await);
        assert!(fetching.alone().is_some());
    }
}
