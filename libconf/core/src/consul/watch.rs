//! Blocking queries: waiting for the next change of one key.

use std::time::Duration;

use reqwest::Method;
use tokio::time::{Instant, sleep_until};

use crate::consul::{
    client::{Connection, Consul, ConsulError, check_key},
    operation::Entry,
};

/// The deadline of a read that does not wait for a change.
const READ: Duration = Duration::from_secs(5);
/// The pause after the first answer that came early and changed nothing; each further one doubles
/// it.
const FLOOR: Duration = Duration::from_millis(50);
/// The longest of these pauses. A change waits for it at the worst.
const MOST_FLOOR: Duration = Duration::from_secs(5);
/// The longest one for an absent key, which any write to Consul wakes.
const MOST_FLOOR_ABSENT: Duration = Duration::from_secs(1);

/// How far a watcher of one key has seen. It begins with nothing: the first call answers at once.
#[derive(Clone, Debug, Default)]
pub struct WatchIndex {
    // The place of an address and its index, which means something only to the server that gave it.
    index: Option<(usize, u64)>,
    /// True once an answer was acted on.
    has_answer: bool,
    /// The key of the last one.
    last: Option<Entry>,
    /// Answers in a row that came before their time and changed nothing.
    early: u32,
    /// The earliest time of the next question.
    floor: Option<Instant>,
}

impl WatchIndex {
    /// Forgets the position: the next call answers at once. For an answer that the caller cannot
    /// act on, and after a suspicion that the server is silent.
    pub fn forget(&mut self) {
        self.index = None;
    }

    /// Notes an answer that is acted on, and sets the earliest time of the next question.
    fn note(&mut self, entry: Option<&Entry>, is_early: bool, now: Instant) {
        let is_same = self.has_answer && value_of(self.last.as_ref()) == value_of(entry);
        self.early = if is_early && is_same { self.early.saturating_add(1) } else { 0 };
        let most = if entry.is_some() { MOST_FLOOR } else { MOST_FLOOR_ABSENT };
        let pause = FLOOR.saturating_mul(1 << self.early.saturating_sub(1).min(20)).min(most);
        self.floor = (self.early > 0).then(|| now + pause);
        (self.has_answer, self.last) = (true, entry.cloned());
    }
}

/// What a change of a key changes.
fn value_of(entry: Option<&Entry>) -> Option<(&[u8], u64)> {
    entry.map(|entry| (entry.value.as_slice(), entry.flags))
}

impl Consul {
    /// Waits until `key` differs from `seen`, or until `wait` has passed, then reads it.
    ///
    /// - Shape: the key, or `None` when Consul says that it is absent. An absent key wakes its
    ///   watchers at any write, so watch one that exists, and pause before asking for an absent one
    ///   again.
    /// - Units: `wait` is sent in whole milliseconds; Consul allows at most 10 minutes and adds up
    ///   to a sixteenth.
    /// - `seen` moves on with an answer that is of use, and with no other; it begins anew after an
    ///   error, at another address, and when Consul's index went back.
    /// - Answers that come before their time and change nothing are followed by a growing pause.
    /// - Cancel: dropping the future loses no change; the next call answers at once.
    /// - Source: Consul HTTP API, "Blocking Queries".
    pub async fn watch(&self, key: &str, seen: &mut WatchIndex, wait: Duration) -> Result<Option<Entry>, ConsulError> {
        check_key(key)?;
        if let Some(floor) = seen.floor {
            sleep_until(floor).await;
        }
        // Taken out, so that an error leaves nothing behind.
        let before = seen.index.take();
        let asked = Instant::now();
        let blocked = match before {
            Some((at, index)) => {
                let path = format!("/v1/kv/{key}?index={index}&wait={}ms", wait.as_millis());
                let deadline = wait + wait / 16 + READ;
                self.ask_one(at, Connection::Pooled, Method::GET, &path, None, deadline).await.ok()
            }
            None => None,
        };
        let answer = match blocked {
            Some(answer) => answer,
            None => self.ask(Method::GET, &format!("/v1/kv/{key}"), None, READ).await?,
        };
        let entry = answer.entry(key)?;
        let went_back = before.is_some_and(|(at, index)| at == answer.at && answer.index < index);
        seen.index = (!went_back).then_some((answer.at, answer.index));
        let is_early = asked.elapsed() < wait / 2;
        seen.note(entry.as_ref(), is_early, Instant::now());
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::{Notify, mpsc},
    };

    use super::*;
    use crate::consul::address::ConsulCredentials;

    #[test]
    fn answers_that_change_nothing_and_come_early_are_followed_by_a_growing_pause() {
        let entry = |value: &str, index| Entry {
            key: "key".to_owned(),
            value: value.as_bytes().to_vec(),
            flags: 0,
            index,
            session: None,
        };
        let (now, mut seen) = (Instant::now(), WatchIndex::default());
        let pause = |seen: &WatchIndex| seen.floor.map(|floor| floor - now);
        seen.note(Some(&entry("1", 5)), false, now);
        assert_eq!(pause(&seen), None, "the first answer");
        seen.note(Some(&entry("2", 6)), true, now);
        assert_eq!(pause(&seen), None, "a change");
        for (index, expected) in [(6, 50), (7, 100), (8, 200), (8, 400)] {
            seen.note(Some(&entry("2", index)), true, now);
            assert_eq!(pause(&seen), Some(Duration::from_millis(expected)), "whatever index it has");
        }
        (0..30).for_each(|_| seen.note(Some(&entry("2", 8)), true, now));
        assert_eq!(pause(&seen), Some(MOST_FLOOR));
        seen.note(Some(&entry("2", 8)), false, now);
        assert_eq!(pause(&seen), None, "its time was up");
        seen.note(None, true, now);
        assert_eq!(pause(&seen), None, "it was deleted");
        (0..30).for_each(|_| seen.note(None, true, now));
        assert_eq!(pause(&seen), Some(MOST_FLOOR_ABSENT));
    }

    /// Takes requests for `key`, and answers with the index 7 while `wait` says nothing else.
    async fn serve(mut client: TcpStream, asked: mpsc::UnboundedSender<String>, change: Arc<Notify>) {
        let mut bytes = vec![0; 4096];
        let length = client.read(&mut bytes).await.unwrap();
        let line = String::from_utf8_lossy(&bytes[..length]).lines().next().unwrap_or_default().to_owned();
        let is_blocking = line.contains("wait=");
        asked.send(line).unwrap();
        let (index, value) = if is_blocking { (8, "Mg==") } else { (7, "MQ==") };
        if is_blocking {
            change.notified().await;
        }
        let body = format!(r#"[{{"Key":"key","Value":"{value}","Flags":0,"ModifyIndex":{index}}}]"#);
        let head = format!("HTTP/1.1 200 OK\r\nX-Consul-Index: {index}\r\nContent-Length: {}\r\n", body.len());
        client.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn a_silent_address_is_asked_beside_a_wait_until_it_answers_again() {
        let (silent, well) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let urls = [&silent, &well].map(|one| format!("http://{}", one.local_addr().unwrap()));
        let mut consul = Consul::new(&urls, ConsulCredentials::default()).unwrap();
        // Far above the time of a change on a busy machine.
        consul.beside = Duration::from_secs(60);
        consul.while_silent = Duration::from_millis(10);
        let (asked, mut seen_requests) = mpsc::unbounded_channel();
        let change = Arc::new(Notify::new());
        let (let_go, others) = (Arc::clone(&change), asked.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = well.accept().await {
                tokio::spawn(serve(client, asked.clone(), Arc::clone(&change)));
            }
        });
        let wait = Duration::from_secs(60);
        let mut seen = WatchIndex::default();
        let first = consul.watch("key", &mut seen, wait).await.unwrap().unwrap();
        assert_eq!((first.value.as_slice(), consul.silent().as_slice()), (b"1".as_slice(), &urls[..1]));
        assert!(!seen_requests.recv().await.unwrap().contains("wait="));
        while silent.accept().now_or_never().is_some() {}
        let (back, mut told) = mpsc::unbounded_channel();
        let work = async {
            // The silent one is asked, and a change comes meanwhile.
            let (client, _) = silent.accept().await.unwrap();
            let_go.notify_one();
            let second = consul.watch("key", &mut seen, wait).await.unwrap().unwrap();
            assert_eq!((second.value.as_slice(), consul.silent().as_slice()), (b"2".as_slice(), &urls[..1]));
            serve(client, others, Arc::default()).await;
            told.recv().await.unwrap();
            assert_eq!(consul.silent(), urls[..0], "it answers again");
        };
        tokio::select! {
            _ = consul.revive("key", || back.send(()).unwrap()) => {}
            () = work => {}
        }
    }
}
