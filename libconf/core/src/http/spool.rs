//! Where bodies and answers wait until they are whole or taken: a little in memory, the rest in
//! files without a name. All of it is counted, for this process and for each peer.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use parking_lot::Mutex;
use rustix::{
    fs::statvfs,
    process::{Resource, getrlimit},
};

use crate::{
    daemon::blocking,
    http::{
        rates::Rates,
        shares::{Share, ShareBounds, Shares},
        who::Who,
    },
};

/// 64 KiB of each body are kept in memory; what is larger goes into a file.
pub(crate) const IN_MEMORY: usize = 64 << 10;
/// 64 MiB for bodies that are not whole yet, half of it for one peer: what is at its sender's pace
/// takes no room from what is worked on.
const PARTIAL: u64 = 64 << 20;
/// 256 MiB for everything else that peers sent or asked for, half of it for one peer.
const MEMORY: u64 = 256 << 20;
/// What is read out of a body takes about four times its bytes.
const PARSED: u64 = 4;
/// 64 MiB a second of what one peer sends in large bodies, and as much of what is made for it at
/// its first fetches: half of a gigabit network.
const RATE: u64 = 64 << 20;
/// 16 GiB of files, half of it for one peer. Two pushes of the largest size fit into that.
const DISK: u64 = 16 << 30;
/// More than 32 MiB: so much is always taken from the system itself, and given back to it at once.
/// What is less stays with the allocator, once for each of many threads. Memory that is not written
/// costs nothing. Source: mallopt(3), `M_MMAP_THRESHOLD`.
const FROM_SYSTEM: usize = 33 << 20;
/// 1 MiB: files are counted in such steps.
const STEP: u64 = 1 << 20;
/// The most files, where the limit of open files allows them.
const MOST_FILES: u64 = 2048;
/// Requests that wait until there is memory for them.
const WAITING: usize = 1024;
/// How long each of them waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// The room for bodies and answers of one process.
#[derive(Clone, Debug)]
pub struct Spools(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    partial: Shares,
    memory: Shares,
    disk: Shares,
    files: Shares,
    taken: Rates,
    given: Rates,
}

/// Why a body was not taken in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    /// The sender broke off, or was too slow.
    #[error("the request's body ended early: {0}")]
    Ended(io::Error),
    /// It has more bytes than are allowed here.
    #[error("the request's body is larger than the {0} bytes that are allowed here")]
    TooLarge(u64),
    /// Others have all the room.
    #[error("there is no room for the request's body now; send it again in a moment")]
    Crowded,
    /// The disk failed.
    #[error("the request's body could not be kept: {0}")]
    Disk(io::Error),
}

impl Spools {
    /// Makes room whose files are in this folder. They have no name, and are gone when this
    /// process ends.
    pub fn new(folder: &Path) -> Self {
        // A request takes some more descriptors, and the rest of this program as well.
        let open = getrlimit(Resource::Nofile).current.map_or(MOST_FILES, |most| MOST_FILES.min(most / 8)).max(2);
        Spools(Arc::new(Inner {
            folder: folder.to_owned(),
            partial: Shares::halves(PARTIAL, 0),
            memory: Shares::halves(MEMORY, WAITING),
            disk: Shares::new(ShareBounds { places: DISK, of_one: DISK / 2, waiting: 0 }),
            files: Shares::halves(open, 0),
            taken: Rates::new(RATE),
            given: Rates::new(RATE),
        }))
    }

    /// Bytes of memory that are not used yet but may be soon.
    pub(crate) fn memory(&self, who: Who) -> Option<Share> {
        self.0.memory.try_take(who, 0)
    }

    /// Waits until so many more bytes may be made for a peer.
    pub(crate) async fn pace(&self, who: Who, bytes: usize) {
        tokio::time::sleep(self.0.given.count(who, bytes, Instant::now())).await;
    }

    /// Opens a file; `None` when there are too many, or when none can be made. Blocks.
    pub(crate) fn file(&self, who: Who) -> io::Result<Option<SpoolFile>> {
        let (Some(place), Some(share)) = (self.0.files.try_take(who, 1), self.0.disk.try_take(who, 0)) else {
            return Ok(None);
        };
        let file = tempfile::tempfile_in(&self.0.folder)?;
        let room = Mutex::new(Room { share, bytes: 0 });
        Ok(Some(SpoolFile { file, room, spools: self.clone(), _place: place }))
    }

    /// Takes in a whole body.
    pub(crate) async fn take_in(
        &self,
        body: impl Stream<Item = io::Result<Bytes>>,
        who: Who,
        limit: u64,
    ) -> Result<Spooled, NotTaken> {
        let mut body = std::pin::pin!(body);
        let (mut pending, mut share) = (BytesMut::new(), self.0.partial.try_take(who, 0));
        let (mut file, mut length, mut written) = (None, 0, 0);
        while let Some(part) = body.next().await {
            let part = part.map_err(NotTaken::Ended)?;
            length += part.len() as u64;
            if length > limit {
                return Err(NotTaken::TooLarge(limit));
            }
            let fits = pending.len() + part.len() <= IN_MEMORY;
            let has_room = fits && share.as_mut().is_some_and(|share| share.grow(part.len() as u64));
            pending.extend_from_slice(&part);
            if !has_room {
                tokio::time::sleep(self.0.taken.count(who, pending.len(), Instant::now())).await;
                written += pending.len() as u64;
                file = Some(self.append(file, who, pending.split().freeze(), written).await?);
                share = self.0.partial.try_take(who, 0);
            }
        }
        if file.is_some() && !pending.is_empty() {
            file = Some(self.append(file, who, pending.split().freeze(), length).await?);
        }
        let held = match file {
            None => Held::Memory(counted(pending.freeze(), share)),
            Some(file) => Held::File(Arc::new(file)),
        };
        Ok(Spooled { held, length, who, spools: self.clone() })
    }

    /// Writes `part`, with which the file has `length` bytes, at its end.
    async fn append(&self, file: Option<SpoolFile>, who: Who, part: Bytes, length: u64) -> Result<SpoolFile, NotTaken> {
        let spools = self.clone();
        blocking(move || {
            let file = match file {
                Some(file) => file,
                None => spools.file(who).map_err(NotTaken::Disk)?.ok_or(NotTaken::Crowded)?,
            };
            if !file.has_room(length) {
                let no_space = io::Error::from(rustix::io::Errno::NOSPC);
                return Err(if file.is_disk_full() { NotTaken::Disk(no_space) } else { NotTaken::Crowded });
            }
            file.write(&part, length - part.len() as u64).map_err(NotTaken::Disk)?;
            Ok(file)
        })
        .await
    }
}

/// Bytes that count for somebody as long as they are kept.
pub(crate) fn counted(bytes: Bytes, share: Option<Share>) -> Bytes {
    struct Counted(Bytes, #[expect(dead_code, reason = "it is dropped with the bytes")] Share);
    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    match share {
        Some(share) => Bytes::from_owner(Counted(bytes, share)),
        None => bytes,
    }
}

/// A file without a name.
#[derive(Debug)]
pub(crate) struct SpoolFile {
    file: File,
    room: Mutex<Room>,
    spools: Spools,
    _place: Share,
}

#[derive(Debug)]
struct Room {
    share: Share,
    bytes: u64,
}

impl SpoolFile {
    /// Tells whether the file may have this length, and counts it if so. All such files together
    /// leave half of what is free on the disk. Blocks.
    pub(crate) fn has_room(&self, length: u64) -> bool {
        let mut room = self.room.lock();
        let Some(more) = length.checked_sub(room.bytes).filter(|more| *more > 0) else { return true };
        let more = more.next_multiple_of(STEP);
        if self.spools.0.disk.taken_now() + more > self.free() || !room.share.grow(more) {
            return false;
        }
        room.bytes += more;
        true
    }

    /// True when there is no room on the disk, whoever has it. Blocks.
    fn is_disk_full(&self) -> bool {
        self.spools.0.disk.taken_now() + STEP > self.free()
    }

    /// The free bytes on the disk; as many as can be where nobody knows.
    fn free(&self) -> u64 {
        statvfs(&self.spools.0.folder).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Writes at an offset. Blocks.
    pub(crate) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Reads `length` bytes from an offset. Blocks.
    pub(crate) fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut bytes = Vec::with_capacity(if length > IN_MEMORY { length.max(FROM_SYSTEM) } else { length });
        bytes.resize(length, 0);
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }
}

/// A whole body.
#[derive(Debug)]
pub(crate) struct Spooled {
    held: Held,
    length: u64,
    who: Who,
    spools: Spools,
}

#[derive(Clone, Debug)]
enum Held {
    Memory(Bytes),
    File(Arc<SpoolFile>),
}

impl Spooled {
    /// Its bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The body once more, from its beginning.
    pub(crate) fn stream(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
        let (held, length) = (self.held.clone(), self.length);
        Box::pin(stream::unfold(0, move |offset| {
            let held = held.clone();
            async move {
                let left = length - offset;
                if left == 0 {
                    return None;
                }
                let most = left.min(IN_MEMORY as u64);
                let read = match held {
                    Held::Memory(bytes) => Ok(bytes),
                    // It fits: it is at most `IN_MEMORY`.
                    Held::File(file) => {
                        blocking(move || file.read(offset, usize::try_from(most).unwrap_or(IN_MEMORY))).await
                    }
                };
                let next = read.as_ref().map_or(length, |bytes| offset + bytes.len() as u64);
                Some((read, next))
            }
        }))
    }

    /// Reads all of it into memory, once there is some. The bytes count until the last copy of
    /// them is dropped.
    pub(crate) async fn whole(self) -> Result<Bytes, NotTaken> {
        let Spooled { held, length, who, spools } = self;
        match held {
            Held::Memory(bytes) => Ok(bytes),
            Held::File(file) => {
                let share = spools.0.memory.take(who, length * PARSED, PATIENCE).await;
                let share = share.map_err(|_| NotTaken::Crowded)?;
                let length = usize::try_from(length).map_err(|_| NotTaken::TooLarge(MEMORY))?;
                let bytes = blocking(move || file.read(0, length)).await.map_err(NotTaken::Disk)?;
                Ok(counted(bytes, Some(share)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(parts: usize, bytes: usize) -> impl Stream<Item = io::Result<Bytes>> {
        stream::iter((0..parts).map(move |number| Ok(Bytes::from(vec![u8::try_from(number % 251).unwrap(); bytes]))))
    }

    /// What is taken of bodies that came in part, of memory, of disk, and of files.
    fn taken(spools: &Spools) -> [u64; 4] {
        let Inner { partial, memory, disk, files, .. } = &*spools.0;
        [partial, memory, disk, files].map(Shares::taken_now)
    }

    #[tokio::test]
    async fn a_small_body_stays_in_memory_and_a_large_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (spools, who) = (Spools::new(folder.path()), Who::User(1));
        let small = spools.take_in(body(2, 100), who, 1000).await.unwrap();
        assert_eq!((small.length(), taken(&spools)), (200, [200, 0, 0, 0]));
        let large = spools.take_in(body(100, 10_000), who, 1 << 30).await.unwrap();
        assert_eq!((large.length(), taken(&spools)), (1_000_000, [200, 0, STEP, 1]));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
        for _ in 0..2 {
            let parts: Vec<Bytes> = large.stream().map(Result::unwrap).collect().await;
            assert!(parts.iter().all(|part| part.len() <= IN_MEMORY));
            let sent: Vec<Bytes> = body(100, 10_000).map(Result::unwrap).collect().await;
            assert!(parts.concat() == sent.concat());
        }
        drop(small);
        let whole = large.whole().await.unwrap();
        assert_eq!((whole.len(), taken(&spools)), (1_000_000, [0, 4_000_000, 0, 0]));
        let copy = whole.clone();
        drop(whole);
        assert_eq!(taken(&spools)[1], 4_000_000, "a copy is still there");
        drop(copy);
        assert_eq!(taken(&spools), [0; 4]);
    }

    #[tokio::test]
    async fn what_is_too_large_broken_or_too_much_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (spools, who) = (Spools::new(folder.path()), Who::User(1));
        let refused = spools.take_in(body(11, 10_000), who, 100_000).await.unwrap_err();
        assert!(matches!(refused, NotTaken::TooLarge(100_000)), "{refused}");
        let broken = body(20, 10_000).chain(stream::iter([Err(io::Error::other("gone"))]));
        let refused = spools.take_in(broken, who, 1 << 20).await.unwrap_err();
        assert!(matches!(refused, NotTaken::Ended(_)), "{refused}");
        assert_eq!(taken(&spools), [0; 4]);
        let all = spools.0.disk.try_take(who, DISK / 2).unwrap();
        let refused = spools.take_in(body(20, 10_000), who, 1 << 20).await.unwrap_err();
        assert!(matches!(refused, NotTaken::Crowded), "{refused}");
        spools.take_in(body(20, 10_000), Who::User(2), 1 << 20).await.unwrap();
        drop(all);
        assert_eq!(taken(&spools), [0; 4]);
    }
}
