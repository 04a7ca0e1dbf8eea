//! Answers with server-sent events.

use std::{convert::Infallible, fmt::Write as _, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::http::answer::{Response, stream};

/// 2 s: a stream of events sends something at least so often, and says so. Its reader gives up
/// after 2.5 of these periods.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// A server-sent event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The event's type.
    pub event: String,
    /// The id that a reader sends as `Last-Event-ID` when it comes back.
    pub id: Option<String>,
    /// Its content, JSON in one line.
    pub data: String,
}

impl Event {
    /// An event that carries `value` as JSON.
    pub fn json<T: Serialize + ?Sized>(event: &str, id: Option<String>, value: &T) -> Self {
        let data = serde_json::to_string(value).expect("a type of ours has text keys and cannot fail to be written");
        Self { event: event.to_owned(), id, data }
    }

    fn encode(&self) -> Bytes {
        let mut text = String::with_capacity(self.data.len() + 64);
        let _ = writeln!(text, "event: {}", self.event);
        if let Some(id) = &self.id {
            let _ = writeln!(text, "id: {id}");
        }
        for line in self.data.lines() {
            let _ = writeln!(text, "data: {line}");
        }
        text.push('\n');
        text.into()
    }
}

/// Answers with server-sent events, and with an event `heartbeat` at once and after 2 s of silence,
/// which states this period in seconds. The answer ends when `events` ends, and when the server
/// stops.
pub fn events(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let mut response = stream(StatusCode::OK, "text/event-stream", with_heartbeat(events, HEARTBEAT));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would collect 4 KiB of events before it passes them on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

pub(crate) fn with_heartbeat(
    events: impl Stream<Item = Event> + Send,
    silence: Duration,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let beat = Bytes::from(format!("event: heartbeat\ndata: {{\"period\":{}}}\n\n", silence.as_secs_f64()));
    async_stream::stream! {
        let mut events = std::pin::pin!(events);
        yield Ok(beat.clone());
        loop {
            match tokio::time::timeout(silence, events.next()).await {
                Ok(Some(event)) => yield Ok(event.encode()),
                Ok(None) => return,
                Err(_) => yield Ok(beat.clone()),
            }
        }
    }
}
