//! Git's protocol over one connection, as SSH gives one, with the checks, bounds and places of
//! requests over HTTP.

use std::{io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};
use tokio_util::io::StreamReader;

use crate::{
    access::Principal,
    git_http::{
        answer::{error_packet, not_our_ref},
        child::Received,
        commands::{Commands, CommandsReader, refusal},
        failure::Failure,
        receive::{HookEnvironment, MOST_BYTES, MOST_REFS, ReceivePack},
        upload::UploadPack,
        weight::Weight,
    },
    http::{Body, LONGEST, Who},
};

/// 64 KiB are read at a time.
const PART: usize = 64 << 10;
/// 1 hour: how long a client may take to begin a push. Its own hooks run before that, when it has
/// the list of refs.
const BEGINNING: Duration = LONGEST;
/// 120 s: how long a client that fetches may neither say nor take anything.
const SILENCE: Duration = Duration::from_secs(120);

impl ReceivePack {
    /// Takes a push from `reader`, and answers it on `writer`. It is refused as soon as it has too
    /// many refs or weighs too much, and Git gets it when it is all here. An error says that the
    /// client has gone. Dropping the future ends Git.
    pub async fn converse(
        &self,
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: &mut (impl AsyncWrite + Send + Unpin),
        (principal, who): (&Principal, Who),
        hooks: HookEnvironment,
    ) -> io::Result<()> {
        match self.advertisement((None, principal), who).await {
            Ok(refs) => writer.write_all(&refs).await?,
            Err(failure) => return writer.write_all(&error_packet(&failure.to_string())).await,
        }
        let Some((reader, first)) = begun(reader).await? else { return Ok(()) };
        let push = Arc::new(Mutex::new(PushReader::default()));
        let body = Body::from_stream(push_of(reader, first, push.clone())).kept_in(self.spools(), who);
        let received = Received::of_body(body, MOST_BYTES).await;
        let push = std::mem::take(&mut *push.lock());
        let commands = push.commands.commands();
        if let Some(why) = push.refused {
            tracing::warn!(?who, why, "a push is refused before Git starts");
            return writer.write_all(&refused_in_words(commands, &why)).await;
        }
        if push.has_nothing() {
            return Ok(());
        }
        let work = async {
            let received = received?;
            if !push.is_whole {
                return Err(Failure::Input("the connection was closed".to_owned()));
            }
            if commands.is_empty() {
                return Err(Failure::Input("it is no push of Git's protocol".to_owned()));
            }
            // The push is weighed: the place is for Git alone.
            self.run((&received, commands), (who, self.place(who).await?), None, hooks).await
        };
        let mut output = match work.await {
            Ok(output) => output,
            Err(failure) => return writer.write_all(&refused_in_words(commands, &failure.to_string())).await,
        };
        loop {
            match output.next().await {
                Some(Ok(part)) => writer.write_all(&part).await?,
                // Without the rest of the answer the client knows that Git failed.
                Some(Err(failure)) => return Err(io::Error::other(failure)),
                None => return Ok(()),
            }
        }
    }
}

impl UploadPack {
    /// Answers a fetch of `protocol`, the value of `GIT_PROTOCOL`. Each of its lines is looked at
    /// before Git gets it. An error says that the client has gone. Dropping the future ends Git.
    pub async fn converse(
        self: &Arc<Self>,
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: &mut (impl AsyncWrite + Send + Unpin),
        who: Who,
        protocol: &str,
    ) -> io::Result<()> {
        let refused = Arc::new(Mutex::new(None));
        let lines = StreamReader::new(Box::pin(lines_of(self.clone(), reader, refused.clone())));
        let mut output = match self.start_conversation(protocol, Box::new(lines), who) {
            Ok(output) => output,
            Err(failure) => return writer.write_all(&error_packet(&failure.to_string())).await,
        };
        while let Some(Ok(part)) = output.next().await {
            timeout(SILENCE, writer.write_all(&part)).await??;
        }
        let refused = refused.lock().take();
        match refused {
            Some(told) => writer.write_all(&told).await,
            // What Git had to say it has said.
            None => Ok(()),
        }
    }
}

/// A push as far as it has come.
struct PushReader {
    commands: CommandsReader,
    weight: Weight,
    /// Why nothing more of it is read.
    refused: Option<String>,
    is_whole: bool,
}

impl Default for PushReader {
    fn default() -> Self {
        let commands = CommandsReader::new(MOST_REFS);
        PushReader { commands, weight: Weight::default(), refused: None, is_whole: false }
    }
}

impl PushReader {
    /// True for the words of a client that has nothing to push.
    fn has_nothing(&self) -> bool {
        self.is_whole && self.commands.commands().is_empty() && self.weight.ends() > 0
    }

    /// Looks at the next part. Returns false when nothing follows, since clients may leave the
    /// connection open.
    fn feed(&mut self, part: &[u8]) -> bool {
        self.commands.feed(part);
        let commands = self.commands.commands();
        self.refused = commands.refused().or_else(|| self.weight.feed(part).err());
        // Without a pack the push ends with its options, or with its commands.
        let ends = if commands.has_options() { 2 } else { 1 };
        let has_ended = self.commands.is_read() && !commands.has_pack() && self.weight.ends() >= ends;
        self.is_whole = has_ended || self.weight.is_whole();
        self.refused.is_none() && !self.is_whole
    }
}

/// Waits for the first byte of a push; `None` when the client goes away before it.
async fn begun<R: AsyncRead + Unpin>(mut reader: R) -> io::Result<Option<(R, u8)>> {
    let mut first = [0];
    match timeout(BEGINNING, reader.read(&mut first)).await?? {
        0 => Ok(None),
        _ => Ok(Some((reader, first[0]))),
    }
}

/// The bytes of a push, to its end.
fn push_of(
    mut reader: impl AsyncRead + Send + Unpin + 'static,
    first: u8,
    push: Arc<Mutex<PushReader>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    async_stream::try_stream! {
        let mut buffer = BytesMut::from(&[first][..]);
        let mut goes_on = true;
        while goes_on {
            buffer.reserve(PART);
            if reader.read_buf(&mut buffer).await? == 0 {
                return;
            }
            let part = buffer.split().freeze();
            goes_on = push.lock().feed(&part);
            // A small part may have become large, and others wait.
            tokio::task::yield_now().await;
            yield part;
        }
    }
}

/// The lines of a fetch, as they come, if nobody is forbidden what they ask for.
fn lines_of(
    git: Arc<UploadPack>,
    mut reader: impl AsyncRead + Send + Unpin + 'static,
    refused: Arc<Mutex<Option<Bytes>>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    async_stream::try_stream! {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PART);
            if timeout(SILENCE, reader.read_buf(&mut buffer)).await?? == 0 {
                return;
            }
            let whole = whole_lines(&buffer);
            let lines = buffer.split_to(whole).freeze();
            let told = match git.refused(&lines).await {
                Ok(None) => {
                    yield lines;
                    continue;
                }
                Ok(Some(id)) => not_our_ref(id),
                Err(failure) => error_packet(&failure.to_string()),
            };
            *refused.lock() = Some(told);
            Err(io::Error::other("it is refused before Git sees what it asks for"))?;
        }
    }
}

/// The length of the lines that are all here. A line whose length is none is here, so that whoever
/// reads it refuses it.
fn whole_lines(bytes: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(head) = bytes.get(whole..whole + 4) {
        let digits = std::str::from_utf8(head).ok();
        let length = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok()).unwrap_or(0).max(4);
        if bytes.len() < whole + length {
            break;
        }
        whole += length;
    }
    whole
}

/// Says why nothing of a push is taken in, in Git's own form.
fn refused_in_words(commands: &Commands, why: &str) -> Bytes {
    let told = refusal(commands, why);
    if told.is_empty() { error_packet(why) } else { told }
}
