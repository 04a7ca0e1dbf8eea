//! Blocking queries: waiting for the next change of one key.

use std::time::Duration;

use reqwest::Method;

use crate::consul::{
    client::{Consul, ConsulError, check_key},
    operation::Entry,
};

/// How far a watcher of one key has seen. It begins with nothing: the first call answers at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchIndex {
    // The place of an address and its index, which means something only to the server that gave it.
    index: Option<(usize, u64)>,
}

impl Consul {
    /// Waits until `key` differs from `seen`, or until `wait` has passed, then reads it.
    ///
    /// - Shape: the key, or `None` when Consul says that it is absent. An absent key wakes its
    ///   watchers at any write, so watch one that exists, and pause before asking for an absent one
    ///   again.
    /// - Units: `wait` is sent in whole milliseconds; Consul allows at most 10 minutes and adds up
    ///   to a sixteenth.
    /// - `seen` moves on; it begins anew after an error, at another address, and when Consul's
    ///   index went back.
    /// - Cancel: dropping the future loses nothing; the next call sees the same.
    /// - Source: Consul HTTP API, "Blocking Queries".
    pub async fn watch(&self, key: &str, seen: &mut WatchIndex, wait: Duration) -> Result<Option<Entry>, ConsulError> {
        check_key(key)?;
        // Taken out, so that an error leaves nothing behind.
        let before = std::mem::take(seen);
        let path = |at: usize| match before.index.filter(|(address, _)| *address == at) {
            Some((_, index)) => format!("/v1/kv/{key}?index={index}&wait={}ms", wait.as_millis()),
            None => format!("/v1/kv/{key}"),
        };
        let deadline = wait + wait / 16 + Duration::from_secs(5);
        let answer = self.ask(Method::GET, path, None, deadline).await?;
        let went_back = before.index.is_some_and(|(at, index)| at == answer.at && answer.index < index);
        seen.index = (!went_back).then_some((answer.at, answer.index));
        Ok(answer.entries()?.into_iter().find(|entry| entry.key == key))
    }
}
