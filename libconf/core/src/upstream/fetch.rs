//! Fetches: one POST by object id, streamed into the repository, checked to be complete.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use git2::OdbLookupFlags;
use reqwest::Response;
use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};

use crate::{
    daemon,
    git::{Malformed, Packet, PacketReader, Part, RepositoryPool, Step, StoreError, error_words, store},
    upstream::{
        error::{FetchError, UpstreamError},
        server::{SILENCE, Upstream, next_part},
    },
};

/// 1 KiB: an answer that brings less within the patience of a question has as good as stopped. 8
/// kbit/s; the slowest links bring 256.
const PROGRESS: usize = 1 << 10;

/// 2 hours for one answer: it occupies the disk until it is whole.
const LONGEST: Duration = Duration::from_secs(7200);

/// The most commits of which an answer says that history ends there, or no more: they are kept on
/// the disk. Snapshots follow each other in one line, which ends once.
const MOST_ENDS: usize = 2;

/// The most bytes of an answer that is handed back for caches; steps have a few KiB.
const MOST_KEPT: usize = 4 << 20;

/// The outcome of a fetch.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Request and response of the one POST, if it was a step (with a `have`) of at most 4 MiB: a
    /// cache serves them to others.
    pub answer: Option<(Bytes, Bytes)>,
    /// The bytes of all responses' bodies.
    pub wire_bytes: u64,
    /// The number of requests: 0 when every object was here, 1, or 2 when the first answer was not
    /// complete.
    pub requests: u32,
    /// The number of packs added.
    pub packs: u32,
}

/// Makes a step: afterwards `want` and all objects of its tree are in the repository, and with
/// [`Depth::Full`](crate::git::Depth::Full) its whole history too. They are durable, unless the
/// owner [makes them so later](RepositoryPool::syncing_later). Moves no ref.
///
/// A step whose objects are all here sends no request. An answer that leaves objects out is asked
/// for again without `have`.
/// - Errors: see [`FetchError`]; nothing but unreferenced objects is left behind.
/// - Cancel: dropping the future ends the request; unfinished files are removed.
pub async fn fetch(
    upstream: &Upstream,
    repo: impl Into<RepositoryPool>,
    mut step: Step,
) -> Result<Fetched, FetchError> {
    upstream.pulse.busy();
    let repo = repo.into();
    let mut fetched = Fetched { answer: None, wire_bytes: 0, requests: 0, packs: 0 };
    let opened = repo.clone();
    let missing = daemon::blocking(move || missing(&opened, step)).await;
    match missing.map_err(|cause| unusable(&repo, &cause.message()))? {
        Some(rest) => step = rest,
        None => return Ok(fetched),
    }
    loop {
        fetched.requests += 1;
        let outcome = exchange(upstream, &repo, step, &mut fetched).await;
        if matches!(outcome, Err(FetchError::Corrupt { .. } | FetchError::TooLarge { .. } | FetchError::Unreachable(_)))
        {
            upstream.report(false);
        }
        match outcome {
            // Objects that the answer is thin against, or left out, may be gone here: ask for all
            // of them.
            // What lies between the two may be too much.
            Err(FetchError::Corrupt { reason, .. } | FetchError::TooLarge { reason, .. }) if step.have.is_some() => {
                tracing::warn!(want = %step.want, reason, "the answer to a step is of no use; asked again in full");
                step.have = None;
            }
            Err(error) => return Err(error),
            Ok(answer) => {
                fetched.answer = answer.filter(|_| step.have.is_some());
                return Ok(fetched);
            }
        }
    }
}

/// The step that is left to do, without a `have` that is not here; `None` when every object is
/// here.
fn missing(opened: &RepositoryPool, mut step: Step) -> Result<Option<Step>, git2::Error> {
    let repo = opened.lend()?;
    let odb = repo.odb()?;
    step.have = step.have.filter(|have| odb.exists((*have).into()));
    // A commit that is not in the packs known here is new: to list the packs again would tell the
    // same of nearly every step, and a commit that is here all the same is fetched once more.
    let is_known = step.have.is_none() || odb.exists_ext(step.want.into(), OdbLookupFlags::NO_REFRESH);
    Ok((!is_known || step.check(&repo).is_err()).then_some(step))
}

/// Sends one POST, stores its answer and checks it. The result is request and response, when they
/// are small.
async fn exchange(
    upstream: &Upstream,
    repo: &RepositoryPool,
    step: Step,
    fetched: &mut Fetched,
) -> Result<Option<(Bytes, Bytes)>, FetchError> {
    let request = step.request();
    let response = upstream.upload_pack(request.clone(), None).await.map_err(FetchError::from)?;
    // Bounded: the network waits for the disk.
    let (parts, received) = mpsc::channel(16);
    let (opened, want) = (repo.clone(), step.want);
    let is_step = step.have.is_some();
    let storing = spawn_blocking(move || store(&opened, received, (want, is_step), |repo| step.check(repo)));
    // Only the answer to a step is worth keeping.
    let mut seen = Seen { bytes: 0, ends: 0, kept: is_step.then(BytesMut::new) };
    let read = timeout(LONGEST, read_answer(upstream, response, &parts, &mut seen)).await;
    let read = read.unwrap_or(Err(ReadError::Late));
    drop(parts);
    // The disk's time is not the server's silence.
    upstream.pulse.busy();
    let stored = storing.await.unwrap_or(Err(StoreError::BrokenOff));
    fetched.wire_bytes += seen.bytes;
    let url = || upstream.url().to_string();
    match (read, stored) {
        // That storing broke off says nothing when reading the answer failed.
        (Err(error), Ok(_) | Err(StoreError::BrokenOff)) => Err(match error {
            ReadError::Upstream(error) => error.into(),
            ReadError::Stopped => unusable(repo, &"storing stopped"),
            ReadError::Remote(words) if words.contains("not our ref") => {
                FetchError::NotFound { url: url(), want, words }
            }
            ReadError::Remote(reason) => FetchError::Corrupt { url: url(), want, reason },
            ReadError::Late => {
                let reason = format!("it has not come within {} s", LONGEST.as_secs());
                FetchError::TooLarge { url: url(), want, reason }
            }
            ReadError::Malformed => {
                FetchError::Corrupt { url: url(), want, reason: "not an answer of Git protocol v2".to_owned() }
            }
        }),
        (_, Err(StoreError::Repository(reason))) => Err(unusable(repo, &reason)),
        (_, Err(StoreError::TooLarge(reason))) => Err(FetchError::TooLarge { url: url(), want, reason }),
        (_, Err(StoreError::Unwanted(words))) => Err(FetchError::Unwanted(words)),
        (_, Err(StoreError::Damaged(reason))) => Err(FetchError::Corrupt { url: url(), want, reason }),
        (Ok(()), Err(StoreError::BrokenOff)) => {
            Err(FetchError::Corrupt { url: url(), want, reason: "it holds no pack".to_owned() })
        }
        (Ok(()), Ok(packs)) => {
            fetched.packs += packs;
            Ok(seen.kept.map(|kept| (request, kept.freeze())))
        }
    }
}

/// The bytes of an answer.
struct Seen {
    bytes: u64,
    /// The commits at which history ends, or ends no more.
    ends: usize,
    /// All bytes, until they are too many.
    kept: Option<BytesMut>,
}

/// Why an answer could not be read to its end.
enum ReadError {
    Upstream(UpstreamError),
    /// The server's own words, in the answer.
    Remote(String),
    Malformed,
    /// The storing task has stopped.
    Stopped,
    /// It took longer than [`LONGEST`].
    Late,
}

/// Takes an answer apart as it arrives, and passes the parts to the storing task.
async fn read_answer(
    upstream: &Upstream,
    mut response: Response,
    parts: &mpsc::Sender<Part>,
    seen: &mut Seen,
) -> Result<(), ReadError> {
    let mut packets = PacketReader::default();
    let mut section = Section::Start;
    // The first part of a pack is progress, however small it is: Git has counted its objects.
    let mut progress = PROGRESS - 1;
    upstream.pulse.wait();
    loop {
        let part = next_part(&mut response, upstream.url().as_str(), SILENCE).await;
        let bytes = match part.map_err(ReadError::Upstream)? {
            Some(bytes) => bytes,
            None if section == Section::End && packets.is_empty() => break,
            None => return Err(ReadError::Upstream(UpstreamError::Closed { url: upstream.url().to_string() })),
        };
        seen.bytes += bytes.len() as u64;
        match &mut seen.kept {
            Some(kept) if kept.len() + bytes.len() <= MOST_KEPT => kept.extend_from_slice(&bytes),
            other => *other = None,
        }
        packets.feed(&bytes);
        let (mut is_any, mut is_progress) = (false, false);
        while let Some(packet) = packets.next().map_err(|Malformed| ReadError::Malformed)? {
            let (next, part) = section.step(packet)?;
            section = next;
            is_any = true;
            if let Some(part) = part {
                is_progress = true;
                if matches!(part, Part::Shallow(_) | Part::Unshallow(_)) {
                    seen.ends += 1;
                    if seen.ends > MOST_ENDS {
                        return Err(ReadError::Malformed);
                    }
                }
                // The disk, too, may take its time: that is no silence of the server.
                let waited = upstream.pulse.pause();
                parts.send(part).await.map_err(|_| ReadError::Stopped)?;
                upstream.pulse.go_on(waited);
            }
        }
        // Git says that it is alive while it counts, and perhaps while it hangs: that is no
        // progress.
        if is_progress || !is_any {
            progress += bytes.len();
        }
        if progress >= PROGRESS {
            progress = 0;
            upstream.pulse.heard();
            upstream.pulse.wait();
        }
    }
    parts.send(Part::End).await.map_err(|_| ReadError::Stopped)
}

/// The section of an answer that is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Start,
    Shallow,
    /// A section without meaning here.
    Other,
    Pack,
    End,
}

impl Section {
    fn step(self, packet: Packet) -> Result<(Section, Option<Part>), ReadError> {
        Ok(match (self, packet) {
            (Section::Pack, Packet::Data(data)) => match data.first() {
                Some(1) if data.len() > 1 => (self, Some(Part::Pack(data.slice(1..)))),
                Some(1 | 2) => (self, None),
                Some(3) => return Err(ReadError::Remote(String::from_utf8_lossy(&data[1..]).trim().to_owned())),
                _ => return Err(ReadError::Malformed),
            },
            (Section::Pack, Packet::Flush) => (Section::End, None),
            (Section::End | Section::Pack, _) => return Err(ReadError::Malformed),
            (_, Packet::Data(data)) => match (error_words(&data), self, data.trim_ascii_end()) {
                (Some(words), ..) => return Err(ReadError::Remote(words)),
                (_, Section::Start, b"shallow-info") => (Section::Shallow, None),
                (_, Section::Start, b"packfile") => (Section::Pack, None),
                (_, Section::Start, _) => (Section::Other, None),
                (_, Section::Shallow, line) => (self, Some(Part::shallow(line).ok_or(ReadError::Malformed)?)),
                (..) => (self, None),
            },
            (Section::Shallow | Section::Other, Packet::Delimiter) => (Section::Start, None),
            (..) => return Err(ReadError::Malformed),
        })
    }
}

fn unusable(repo: &RepositoryPool, reason: &dyn std::fmt::Display) -> FetchError {
    FetchError::Repository { path: repo.path(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::sleep,
    };

    use super::*;
    use crate::{
        git::Depth,
        upstream::{credentials::Credentials, servers::Upstreams},
    };

    const PATIENCE: Duration = Duration::from_millis(300);

    /// Tells whether a server counts as silent within `limit` that begins a pack, and then sends
    /// this again and again.
    async fn is_silent_with(first: &str, part: &'static [u8], limit: Duration) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\n\r\n000dpackfile\n";
        let head = format!("{head}{first}");
        let serving = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let _ = client.read(&mut [0; 4096]).await.unwrap();
            client.write_all(head.as_bytes()).await.unwrap();
            while client.write_all(part).await.is_ok() {
                sleep(PATIENCE / 10).await;
            }
        });
        let folder = tempfile::tempdir().unwrap();
        git2::Repository::init_bare(folder.path()).unwrap();
        let upstreams = Upstreams::new(vec![url.parse().unwrap()], &Credentials::none()).unwrap();
        let server = upstreams.in_order()[0].for_question(false);
        let step = Step { have: None, want: [7; 20].into(), depth: Depth::One };
        let silent = tokio::select! {
            _ = fetch(&server, RepositoryPool::at(folder.path().to_owned()), step) => panic!("it never ends"),
            silent = timeout(limit, server.pulse.silence(PATIENCE, PATIENCE)) => silent.is_ok(),
        };
        serving.abort();
        silent
    }

    #[tokio::test]
    async fn only_what_is_part_of_a_pack_is_progress() {
        const LONG: Duration = Duration::from_secs(60);
        assert!(is_silent_with("", b"0005\x01", LONG).await, "Git says that it is alive");
        assert!(is_silent_with("", b"0009\x02busy", LONG).await, "words about progress");
        assert!(is_silent_with("fff0\u{1}PACK", b"\0", LONG).await, "it hardly goes on");
        // A thread of a busy machine may be as silent as a server, but not each time.
        for _ in 0..10 {
            if !is_silent_with("fff0\u{1}PACK", &[0; 600], PATIENCE * 6).await {
                return;
            }
        }
        panic!("a part is progress");
    }
}
