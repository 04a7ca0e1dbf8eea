//! Reading server-sent events.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use reqwest::{
    Response,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout, timeout_at};

use crate::upstream::{error::UpstreamError, server::Upstream, servers::Upstreams};

impl Upstreams {
    /// [`Upstream::events`] of the first server that answers.
    pub async fn events(&self, path: &str, last_id: Option<&str>) -> Result<Events, UpstreamError> {
        self.first(|one| async move { one.events(path, last_id).await }).await
    }
}

impl Upstream {
    /// Opens a stream of server-sent events; `last_id` is sent as `Last-Event-ID`.
    pub async fn events(self: Arc<Self>, path: &str, last_id: Option<&str>) -> Result<Events, UpstreamError> {
        let url = self.at(path);
        let mut request = self.authorize(self.client.get(&url))?.header(ACCEPT, "text/event-stream");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = self.send_within(&url, request, OPENING).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            let reason = format!("{kind:?} instead of text/event-stream");
            return Err(UpstreamError::Unexpected { url, reason });
        }
        Ok(Events::new(self, url, response))
    }
}

/// 3 s for the head of the answer, which comes before any event.
const OPENING: Duration = Duration::from_secs(3);

/// The longest silence where the server does not state its period: older servers send something
/// every 15 s, so three messages in a row were missed.
const SILENCE: Duration = Duration::from_secs(45);

/// The periods of silence after which a stream counts as broken: two messages in a row were missed.
const PERIODS: f64 = 2.5;

/// The shortest silence that counts, whatever period a server states.
const SHORTEST: Duration = Duration::from_millis(200);

/// 1 MiB for one event; most have a few hundred bytes.
const LONGEST: usize = 1 << 20;
/// 64 MiB for a list of who may ask, on a stream that takes such: one of 40,000 has 36 MB at most.
const LONGEST_LIST: usize = 64 << 20;
/// The event that is such a list.
const LIST: &str = "access";

/// One server-sent event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The newest `id:` seen so far, with this event's own.
    pub id: Option<String>,
    /// The value of `event:`, or `message` without one.
    pub name: String,
    /// The lines of `data:`.
    pub data: String,
}

/// An open stream of server-sent events.
#[derive(Debug)]
pub struct Events {
    upstream: Arc<Upstream>,
    url: String,
    response: Response,
    parser: Parser,
    ready: VecDeque<Event>,
    /// When something was last heard.
    heard: Instant,
    /// The silence after which the stream counts as broken.
    limit: Duration,
    /// Nothing was heard yet.
    is_mute: bool,
    /// Lists of who may ask are read, however long.
    takes_lists: bool,
}

impl Events {
    pub(crate) fn new(upstream: Arc<Upstream>, url: String, response: Response) -> Self {
        let (parser, ready) = (Parser::default(), VecDeque::new());
        Events {
            upstream,
            url,
            response,
            parser,
            ready,
            heard: Instant::now(),
            limit: SILENCE,
            is_mute: true,
            takes_lists: false,
        }
    }

    /// The same, where lists of who may ask may be up to 64 MiB long. Others are for conf-slaves.
    #[must_use]
    pub fn with_lists(self) -> Self {
        Events { takes_lists: true, ..self }
    }

    /// The server of the stream.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Asks the server of this stream over a connection of its own: that of the stream may be dead.
    /// An answer is a sign of life.
    pub async fn ask<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, UpstreamError> {
        self.upstream.distrust_connections();
        let answer = self.upstream.for_question(true).get_json(path).await?;
        self.heard = Instant::now();
        Ok(answer)
    }

    /// [`Events::next`]; but `None` if nothing at all has come since the stream was opened, and
    /// nothing comes for `quiet` either. A proxy may hold the events back.
    ///
    /// Cancel: dropping the future loses nothing.
    pub async fn next_within(&mut self, quiet: Duration) -> Result<Option<Event>, UpstreamError> {
        if !self.is_mute {
            return self.next().await.map(Some);
        }
        match timeout(quiet, self.next()).await {
            Ok(event) => event.map(Some),
            // Perhaps half an event.
            Err(_) if !self.is_mute => self.next().await.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Waits for the next event.
    ///
    /// - Errors: the stream ended, broke, or was silent for 2.5 periods of the heartbeat, or for
    ///   45 s where the server states no period (comments count as a sign of life): connect again.
    /// - Cancel: dropping the future loses nothing, and does not begin the silence anew.
    pub async fn next(&mut self) -> Result<Event, UpstreamError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.limit = silence_of(&event).unwrap_or(self.limit);
                return Ok(event);
            }
            let url = || self.url.clone();
            let part = match timeout_at(self.heard + self.limit, self.response.chunk()).await {
                Err(_) => {
                    self.upstream.report_silent();
                    return Err(UpstreamError::Silent { url: url(), after: self.limit });
                }
                Ok(Ok(Some(part))) => part,
                Ok(broken) => {
                    self.upstream.report(false);
                    return Err(match broken {
                        Err(cause) => UpstreamError::Unreachable { url: url(), cause },
                        Ok(_) => UpstreamError::Closed { url: url() },
                    });
                }
            };
            (self.heard, self.is_mute) = (Instant::now(), false);
            self.parser.feed(&part, &mut self.ready);
            if let Some(longest) = self.parser.exceeds(self.takes_lists) {
                let reason = format!("an event above {} MiB", longest >> 20);
                return Err(UpstreamError::Unexpected { url: url(), reason });
            }
        }
    }
}

/// The silence that breaks a stream whose heartbeat states its period; `None` for other events.
fn silence_of(event: &Event) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Beat {
        /// Seconds.
        period: f64,
    }
    if event.name != "heartbeat" {
        return None;
    }
    let Beat { period } = serde_json::from_str(&event.data).ok()?;
    Duration::try_from_secs_f64(period * PERIODS).ok().map(|limit| limit.clamp(SHORTEST, SILENCE))
}

/// The event stream format of the HTML standard, less `retry:`.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    after_return: bool,
    id: Option<String>,
    name: String,
    data: String,
}

impl Parser {
    /// The most bytes of the event that is being read, if it has more.
    fn exceeds(&self, takes_lists: bool) -> Option<usize> {
        let longest = if takes_lists && self.name == LIST { LONGEST_LIST } else { LONGEST };
        (self.line.len() + self.data.len() > longest).then_some(longest)
    }

    fn feed(&mut self, bytes: &[u8], ready: &mut VecDeque<Event>) {
        for &byte in bytes {
            match byte {
                // The second half of "\r\n".
                b'\n' if std::mem::take(&mut self.after_return) => {}
                b'\n' | b'\r' => {
                    self.after_return = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    self.end_of_line(&String::from_utf8_lossy(&line), ready);
                }
                _ => {
                    self.after_return = false;
                    self.line.push(byte);
                }
            }
        }
    }

    fn end_of_line(&mut self, line: &str, ready: &mut VecDeque<Event>) {
        if line.is_empty() {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            if !data.is_empty() {
                let name = if name.is_empty() { "message".to_owned() } else { name };
                let data = data.strip_suffix('\n').unwrap_or(&data).to_owned();
                ready.push_back(Event { id: self.id.clone(), name, data });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            // Comments, and fields of later versions, are ignored.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gives_up_after_two_and_a_half_periods_of_the_heartbeat() {
        let silence =
            |name: &str, data: &str| silence_of(&Event { id: None, name: name.to_owned(), data: data.to_owned() });
        assert_eq!(silence("heartbeat", r#"{"period":2}"#), Some(Duration::from_secs(5)));
        assert_eq!(silence("heartbeat", r#"{"period":0}"#), Some(SHORTEST));
        assert_eq!(silence("heartbeat", r#"{"period":1e300}"#), None, "no time");
        assert_eq!(silence("heartbeat", r#"{"period":3600}"#), Some(SILENCE), "no server makes a reader deaf");
        assert_eq!(silence("heartbeat", "{}"), None, "an older server");
        assert_eq!(silence("snapshot", r#"{"period":2}"#), None);
    }

    #[test]
    fn a_list_may_be_long_where_one_is_taken_and_nothing_else_may() {
        let exceeds = |event: &str, takes_lists: bool, bytes: usize| {
            let mut parser = Parser::default();
            let text = format!("event: {event}\ndata: {}", "x".repeat(bytes));
            parser.feed(text.as_bytes(), &mut VecDeque::new());
            parser.exceeds(takes_lists)
        };
        assert_eq!(exceeds("snapshot", true, LONGEST / 2), None);
        assert_eq!(exceeds("snapshot", true, 2 * LONGEST), Some(LONGEST));
        assert_eq!(exceeds("access", false, 2 * LONGEST), Some(LONGEST));
        assert_eq!(exceeds("access", true, 36 << 20), None);
        assert_eq!(exceeds("access", true, LONGEST_LIST + 1), Some(LONGEST_LIST));
    }

    #[test]
    fn events_come_whole_however_they_are_cut() {
        let text =
            b": hello\n\nid: 7\nevent: snapshot\ndata: a\r\ndata: b\r\n\r\nevent: none\n\ndata:c\n\ndata: unfinished\n";
        let event = |name: &str, data: &str| Event { id: Some("7".into()), name: name.into(), data: data.into() };
        for size in 1..text.len() {
            let (mut parser, mut ready) = (Parser::default(), VecDeque::new());
            text.chunks(size).for_each(|part| parser.feed(part, &mut ready));
            assert_eq!(ready, [event("snapshot", "a\nb"), event("message", "c")], "in parts of {size}");
        }
    }
}
