//! Reading server-sent events.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use reqwest::{
    Response,
    header::{ACCEPT, CONTENT_TYPE},
};

use crate::upstream::{
    error::UpstreamError,
    servers::{Upstream, Upstreams, next_part},
};

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
        let response = self.send(&url, request).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            let reason = format!("{kind:?} instead of text/event-stream");
            return Err(UpstreamError::Unexpected { url, reason });
        }
        Ok(Events::new(self, url, response))
    }
}

/// The longest silence: servers send something every 15 s, so three messages in a row were missed.
const SILENCE: Duration = Duration::from_secs(45);

/// The most bytes of one event; this project's events have a few hundred.
const LONGEST_LINE: usize = 1 << 20;

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
}

impl Events {
    pub(crate) fn new(upstream: Arc<Upstream>, url: String, response: Response) -> Self {
        Events { upstream, url, response, parser: Parser::default(), ready: VecDeque::new() }
    }

    /// The server of the stream.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Waits for the next event.
    ///
    /// - Errors: the stream ended, broke, or was silent for 45 s (comments count as a sign of
    ///   life): connect again.
    /// - Cancel: dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Event, UpstreamError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let url = || self.url.clone();
            let part = next_part(&mut self.response, &self.url, SILENCE).await;
            let part = part.and_then(|part| part.ok_or_else(|| UpstreamError::Closed { url: url() }));
            let part = part.inspect_err(|_| self.upstream.report(false))?;
            self.parser.feed(&part, &mut self.ready);
            if self.parser.pending() > LONGEST_LINE {
                return Err(UpstreamError::Unexpected { url: url(), reason: "an event above 1 MiB".to_owned() });
            }
        }
    }
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
    fn pending(&self) -> usize {
        self.line.len() + self.data.len()
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
