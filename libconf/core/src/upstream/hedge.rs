//! Asks several servers the same question: one after the other, and the next one already while one
//! takes long.

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use crate::upstream::servers::Upstream;

type Asking<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A question that goes to one server after the other until the caller is content. Dropping it ends
/// all requests in progress.
pub struct Hedge<T> {
    waiting: VecDeque<Arc<Upstream>>,
    patience: Duration,
    ask: Box<dyn Fn(Arc<Upstream>) -> Asking<T> + Send + Sync>,
    /// True when a slow server is tried last for a while.
    puts_last: bool,
    /// The server that was asked last.
    newest: Option<Arc<Upstream>>,
    asked: JoinSet<(Arc<Upstream>, T)>,
}

impl<T: Send + 'static> Hedge<T> {
    /// Asks `servers` in this order by `ask`; waits for each alone for `patience`.
    pub fn new<F>(
        servers: impl IntoIterator<Item = Arc<Upstream>>,
        patience: Duration,
        ask: impl Fn(Arc<Upstream>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        let ask = Box::new(move |server| Box::pin(ask(server)) as Asking<T>);
        let waiting = servers.into_iter().collect();
        Hedge { waiting, patience, ask, puts_last: false, newest: None, asked: JoinSet::new() }
    }

    /// For questions that are answered at once or not at all: a server that does not answer within
    /// the patience is tried after the others for a while, until it has worked again.
    #[must_use]
    pub fn putting_slow_ones_last(self) -> Self {
        Hedge { puts_last: true, ..self }
    }

    /// Waits for the next answer of any server; `None` once all have answered. A second call means
    /// that the first answer was not good enough, so the next server is asked at once.
    ///
    /// Cancel: dropping the future loses no answer.
    pub async fn next(&mut self) -> Option<(Arc<Upstream>, T)> {
        loop {
            match self.waiting.pop_front() {
                Some(server) => {
                    let asking = (self.ask)(Arc::clone(&server));
                    self.newest = Some(Arc::clone(&server));
                    self.asked.spawn(async move { (server, asking.await) });
                }
                None if self.asked.is_empty() => return None,
                None => {}
            }
            let answer = if self.waiting.is_empty() {
                self.asked.join_next().await
            } else {
                let Ok(answer) = timeout(self.patience, self.asked.join_next()).await else {
                    if let Some(slow) = self.newest.take().filter(|_| self.puts_last) {
                        slow.report(false);
                    }
                    continue;
                };
                answer
            };
            // A task that panicked has no answer.
            if let Some(Ok(answer)) = answer {
                return Some(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{Notify, mpsc};

    use super::*;
    use crate::upstream::{credentials::Credentials, servers::Upstreams};

    fn servers(count: u16) -> Vec<Arc<Upstream>> {
        let urls = (1..=count).map(|port| format!("http://127.0.0.1:{port}/").parse().unwrap()).collect();
        Upstreams::new(urls, &Credentials::none()).unwrap().in_order()
    }

    fn port(server: &Upstream) -> u16 {
        server.url().port().unwrap()
    }

    #[tokio::test]
    async fn the_next_server_is_asked_while_one_takes_long_or_after_a_bad_answer() {
        let (asked, mut seen) = mpsc::unbounded_channel();
        let late = Arc::new(Notify::new());
        let (let_go, patience) = (Arc::clone(&late), Duration::from_millis(1));
        let mut hedge = Hedge::new(servers(4), patience, move |server| {
            let (asked, late, port) = (asked.clone(), Arc::clone(&late), port(&server));
            async move {
                asked.send(port).unwrap();
                match port {
                    1 => std::future::pending().await,
                    2 => late.notified().await,
                    _ => {}
                }
                port
            }
        });
        let (server, answer) = hedge.next().await.unwrap();
        assert_eq!((port(&server), answer), (3, 3));
        assert_eq!([seen.recv().await, seen.recv().await, seen.recv().await], [Some(1), Some(2), Some(3)]);
        assert!(seen.try_recv().is_err(), "the fourth is not needed yet");
        assert_eq!(hedge.next().await.unwrap().1, 4);
        let_go.notify_one();
        assert_eq!(hedge.next().await.unwrap().1, 2, "late, but not too late");
        drop(hedge);
        assert_eq!(seen.recv().await, Some(4));
        assert_eq!(seen.recv().await, None, "what hangs ends with it");
    }

    #[tokio::test]
    async fn a_slow_server_is_tried_last_when_answers_come_at_once() {
        let urls = ["http://127.0.0.1:1/", "http://127.0.0.1:2/"].map(|url| url.parse().unwrap());
        let upstreams = Upstreams::new(urls.to_vec(), &Credentials::none()).unwrap();
        let ask = |server: Arc<Upstream>| async move {
            if port(&server) == 1 { std::future::pending().await } else { port(&server) }
        };
        for (puts_last, first) in [(false, 1), (true, 2)] {
            let hedge = Hedge::new(upstreams.in_order(), Duration::from_millis(1), ask);
            let mut hedge = if puts_last { hedge.putting_slow_ones_last() } else { hedge };
            assert_eq!(hedge.next().await.unwrap().1, 2);
            assert_eq!(port(&upstreams.in_order()[0]), first);
        }
    }

    #[tokio::test]
    async fn without_more_servers_there_is_no_answer() {
        let mut hedge = Hedge::new(servers(2), Duration::ZERO, |server| async move { port(&server) });
        let mut ports = vec![hedge.next().await.unwrap().1, hedge.next().await.unwrap().1];
        ports.sort_unstable();
        assert_eq!(ports, [1, 2]);
        assert!(hedge.next().await.is_none());
    }
}
