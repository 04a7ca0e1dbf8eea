//! Asks several servers the same question: one after the other, and the next one already while one
//! is silent.

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::upstream::server::Upstream;

/// 30 s: if nobody has answered and every server that was asked is silent, the question is over.
const GIVE_UP: Duration = Duration::from_secs(30);
/// 5 s: the same where another server has answered already, which can soon be asked again.
const GIVE_UP_AFTER_AN_ANSWER: Duration = Duration::from_secs(5);

/// 10 s: then the next server is asked whatever still comes of the answer: it may hardly go on.
const LONG: Duration = Duration::from_secs(10);

type Asking<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Called with a server that is found silent, and for how long it was.
type Report = dyn Fn(&Upstream, Duration) + Send + Sync;

/// A question that goes to one server after the other until the caller is content. Dropping it ends
/// all requests in progress.
pub struct Hedge<T> {
    /// Servers to ask, and whether each was asked before.
    waiting: VecDeque<(Arc<Upstream>, bool)>,
    patience: Duration,
    /// The patience before the first part of an answer.
    at_first: Duration,
    ask: Box<dyn Fn(Arc<Upstream>) -> Asking<T> + Send + Sync>,
    /// True when a silent server is tried last, and asked again over another connection.
    puts_last: bool,
    /// The server that was asked last, until it answers or is found silent; and whether it was
    /// asked before.
    newest: Option<(Arc<Upstream>, bool)>,
    /// When that one has had its time.
    due: Instant,
    /// The time that each has, whatever comes of its answer.
    long: Duration,
    /// True when the next server is to be asked.
    is_due: bool,
    /// The silence of all servers that ends the question.
    give_up: Duration,
    /// Called with each server that is found silent, and for how long it was.
    report: Box<Report>,
    /// The servers that have not answered.
    open: Vec<Arc<Upstream>>,
    asked: JoinSet<(Arc<Upstream>, T)>,
}

impl<T: Send + 'static> Hedge<T> {
    /// Asks `servers` in this order by `ask`; waits for each alone until it is silent for
    /// `patience`.
    pub fn new<F>(
        servers: impl IntoIterator<Item = Arc<Upstream>>,
        patience: Duration,
        ask: impl Fn(Arc<Upstream>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        Hedge {
            waiting: servers.into_iter().map(|server| (server, false)).collect(),
            patience,
            at_first: patience,
            ask: Box::new(move |server| Box::pin(ask(server)) as Asking<T>),
            puts_last: false,
            newest: None,
            due: Instant::now(),
            long: LONG,
            is_due: true,
            give_up: GIVE_UP,
            report: Box::new(|_, _| {}),
            open: Vec::new(),
            asked: JoinSet::new(),
        }
    }

    /// For questions that are answered at once or not at all: a silent server is tried after the
    /// others until it has worked again. It is asked once more, after them and over a connection of
    /// its own, since the connection alone may be dead.
    #[must_use]
    pub fn putting_silent_ones_last(self) -> Self {
        Hedge { puts_last: true, ..self }
    }

    /// Lets each server be silent for `at_first` before the first part of its answer.
    #[must_use]
    pub fn waiting_longer_at_first(self, at_first: Duration) -> Self {
        let long = self.long.max(at_first);
        Hedge { at_first: at_first.max(self.patience), long, ..self }
    }

    /// Calls `report` with each server that is found silent, and for how long it was.
    #[must_use]
    pub fn reporting(self, report: impl Fn(&Upstream, Duration) + Send + Sync + 'static) -> Self {
        Hedge { report: Box::new(report), ..self }
    }

    /// Ends the question as soon as all servers were asked and are silent for `silence`.
    pub fn give_up_after(&mut self, silence: Duration) {
        self.give_up = self.give_up.min(silence);
    }

    /// Puts every server that has not answered yet behind the others for a while: the question ends
    /// without them.
    pub fn report_late(&self) {
        self.open.iter().for_each(|one| one.report_late());
    }

    /// Has the next server asked at once, beside the newest one, which is late.
    pub fn hurry(&mut self) {
        if let Some((late, _)) = self.newest.take() {
            late.report_late();
        }
        self.is_due = true;
    }

    /// Waits for the next answer of any server; `None` once all have answered, or are silent. A
    /// second call means that the first answer was not good enough, so the next server is asked at
    /// once.
    ///
    /// Cancel: dropping the future loses no answer, and asks nobody else.
    pub async fn next(&mut self) -> Option<(Arc<Upstream>, T)> {
        loop {
            if std::mem::take(&mut self.is_due)
                && let Some((server, is_second)) = self.waiting.pop_front()
            {
                let server = server.for_question(is_second);
                self.open.push(Arc::clone(&server));
                let asking = (self.ask)(Arc::clone(&server));
                self.newest = Some((Arc::clone(&server), is_second));
                self.due = Instant::now() + self.long;
                self.asked.spawn(async move { (server, asking.await) });
            }
            if self.asked.is_empty() {
                return None;
            }
            let heard = self.answer_or_silence().await;
            self.is_due = true;
            match heard {
                Heard::Answer(answer) => {
                    self.give_up_after(GIVE_UP_AFTER_AN_ANSWER);
                    self.open.retain(|one| !one.pulse.is(&answer.0.pulse));
                    self.newest.take_if(|(newest, _)| newest.pulse.is(&answer.0.pulse));
                    return Some(answer);
                }
                Heard::Nothing => return None,
                Heard::Panic | Heard::Silence => {}
            }
        }
    }

    /// Waits until a server has answered, or the newest one is silent and another can be asked.
    async fn answer_or_silence(&mut self) -> Heard<T> {
        let may_repeat = self.puts_last && self.newest.as_ref().is_some_and(|(_, is_second)| !is_second);
        let is_awaited = self.newest.is_some() && (may_repeat || !self.waiting.is_empty());
        let (at_first, patience, limit) = (self.at_first, self.patience, self.give_up);
        let newest = async {
            match &self.newest {
                Some((newest, _)) => newest.pulse.silence(at_first, patience).await,
                None => std::future::pending().await,
            }
        };
        let all = async {
            loop {
                let silence = |one: &Arc<Upstream>| {
                    let pulse = one.pulse.clone();
                    async move { pulse.silence(limit.max(at_first), limit.max(patience)).await }
                };
                for one in &self.open {
                    silence(one).await;
                }
                // The first one may have said something meanwhile.
                let silent = self.open.iter().map(silence);
                if silent.map(FutureExt::now_or_never).all(|silent| silent.is_some()) {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            answer = self.asked.join_next() => match answer {
                Some(Ok(answer)) => Heard::Answer(answer),
                // A task that panicked has no answer.
                _ => Heard::Panic,
            },
            () = sleep_until(self.due), if self.newest.is_some() && !self.waiting.is_empty() => {
                if let Some((late, _)) = self.newest.take().filter(|_| self.puts_last) {
                    late.report_late();
                }
                Heard::Silence
            }
            () = newest, if is_awaited => {
                if let Some((silent, is_second)) = self.newest.take().filter(|_| self.puts_last) {
                    silent.report_silent();
                    silent.report_late();
                    (self.report)(&silent, silent.pulse.limit(at_first, patience));
                    if !is_second {
                        self.waiting.push_back((silent, true));
                    }
                }
                Heard::Silence
            }
            () = all, if self.puts_last && !is_awaited => Heard::Nothing,
        }
    }
}

enum Heard<T> {
    Answer((Arc<Upstream>, T)),
    Panic,
    /// The newest server is silent or takes long, and the next one is to be asked.
    Silence,
    /// Every server is silent.
    Nothing,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

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
        let (let_go, patience) = (Arc::clone(&late), Duration::from_millis(200));
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
    async fn a_silent_server_is_tried_last_when_answers_come_at_once() {
        let urls = ["http://127.0.0.1:1/", "http://127.0.0.1:2/"].map(|url| url.parse().unwrap());
        let upstreams = Upstreams::new(urls.to_vec(), &Credentials::none()).unwrap();
        let ask = |server: Arc<Upstream>| async move {
            if port(&server) == 1 { std::future::pending().await } else { port(&server) }
        };
        for (puts_last, first) in [(false, 1), (true, 2)] {
            let hedge = Hedge::new(upstreams.in_order(), Duration::from_millis(200), ask);
            let mut hedge = if puts_last { hedge.putting_silent_ones_last() } else { hedge };
            assert_eq!(hedge.next().await.unwrap().1, 2);
            assert_eq!(port(&upstreams.in_order()[0]), first);
        }
        assert!(upstreams.in_order()[1].is_silent());
        upstreams.in_order()[1].report(true);
        assert_eq!(port(&upstreams.in_order()[0]), 1, "it works again");
    }

    #[tokio::test]
    async fn a_silent_server_is_asked_again_over_another_connection() {
        let asked = AtomicU32::new(0);
        // The first connection is dead.
        let mut hedge = Hedge::new(servers(1), Duration::from_millis(1), move |_| {
            let is_first = asked.fetch_add(1, Ordering::SeqCst) == 0;
            async move { if is_first { std::future::pending().await } else { "well" } }
        })
        .putting_silent_ones_last();
        assert_eq!(hedge.next().await.unwrap().1, "well");
    }

    #[tokio::test]
    async fn a_server_whose_answer_goes_on_is_not_silent() {
        let (parts, patience) = (4, Duration::from_secs(1));
        let ask = move |server: Arc<Upstream>| async move {
            if port(&server) == 2 {
                return "the second was asked";
            }
            // A whole that is soon there. One that goes on for long has the next one asked too.
            for _ in 0..parts {
                tokio::time::sleep(patience / 3).await;
                server.pulse.heard();
                server.pulse.wait();
            }
            "whole"
        };
        // A thread of a busy machine may be as silent as a server, but not each time.
        for _ in 0..10 {
            if Hedge::new(servers(2), patience, ask).next().await.unwrap().1 == "whole" {
                return;
            }
        }
        panic!("the second was asked each time");
    }

    #[tokio::test]
    async fn a_server_whose_answer_hardly_goes_on_has_the_next_one_asked_beside_it() {
        let mut hedge = Hedge::new(servers(2), Duration::from_secs(60), move |server| async move {
            if port(&server) == 2 {
                return "the second was asked";
            }
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                server.pulse.heard();
                server.pulse.wait();
            }
        })
        .putting_silent_ones_last();
        hedge.long = Duration::from_millis(50);
        let (server, answer) = hedge.next().await.unwrap();
        assert_eq!((port(&server), answer), (2, "the second was asked"));
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
