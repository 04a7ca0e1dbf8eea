//! Measures a pack as it arrives, before anything of it is stored or built: its bytes, the number
//! of its objects, and what they inflate to, results of deltas included. A pack of some KiB can
//! hold gigabytes otherwise. Source: gitformat-pack(5).
//!
//! It inflates each object to find the next one, into one small buffer. Of the objects it keeps
//! nothing but a wanted commit, so that a snapshot can be looked at before its pack is stored.

use flate2::{Decompress, FlushDecompress, Status};
use sha1::{Digest as _, Sha1};

use libconf::name::CommitId;

/// What may be fetched at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchBounds {
    /// The bytes of a pack.
    pub bytes: u64,
    /// What its objects inflate to, results of deltas included.
    pub inflated: u64,
    /// The bytes of one object.
    pub object: u64,
    /// The number of its objects: of each a record stays in memory until the pack is indexed.
    pub objects: u32,
}

impl FetchBounds {
    /// The bounds of who fetches the history of everything from a server that may be large, and is
    /// not hostile by itself: a history inflates to many times its size.
    pub const HISTORY: Self = FetchBounds { bytes: 32 << 30, inflated: 1 << 40, object: 1 << 30, objects: 50_000_000 };

    /// The bounds of who fetches one snapshot of at most so many MiB. No file of one is larger than
    /// 32 MiB, and the smallest object of a pack has about 32 bytes there.
    pub fn of_snapshot(mib: u32) -> Self {
        let bytes = u64::from(mib) << 20;
        let objects = u32::try_from(bytes / 32).unwrap_or(u32::MAX).min(Self::HISTORY.objects);
        FetchBounds { bytes, inflated: bytes, object: bytes.min(64 << 20), objects }
    }
}

/// What is wrong with a pack.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Amiss {
    /// It passes a bound.
    TooLarge(String),
    /// It is not a pack.
    Damaged(&'static str),
}

/// "PACK", the version, the number of objects.
const HEADER: usize = 12;
/// The checksum at the end, and the name of a base.
const NAME: usize = 20;
/// A number of 64 bits in groups of 7 has ten bytes.
const NUMBER: u32 = 10;
/// 64 KiB are inflated at a time.
const BUFFER: usize = 64 << 10;
/// A commit that is kept has at most so many bytes: conf-master takes no larger one.
const MOST_COMMIT: u64 = 1 << 20;

const COMMIT: u8 = 1;
const OFFSET_DELTA: u8 = 6;
const NAMED_DELTA: u8 = 7;

/// Takes a pack apart, part by part.
pub(crate) struct Meter {
    bounds: FetchBounds,
    /// The commit whose bytes are kept, if it comes whole.
    wanted: Option<CommitId>,
    at: At,
    bytes: u64,
    inflated: u64,
    objects: u32,
    inflater: Decompress,
    buffer: Box<[u8]>,
}

/// What comes next.
enum At {
    Header(Vec<u8>),
    /// The type and the size of an object, after so many bytes of them.
    Object {
        kind: u8,
        size: u64,
        read: u32,
    },
    /// The distance to the base of a delta.
    Distance {
        size: u64,
    },
    /// The name of the base of a delta, of which so many bytes are missing.
    Base {
        size: u64,
        missing: usize,
    },
    Data(Data),
    /// The checksum, of which so many bytes are missing.
    Checksum(usize),
}

/// An object that is inflated.
struct Data {
    /// What is still to come of it.
    left: u64,
    kept: Kept,
}

/// What is kept of an object.
enum Kept {
    Nothing,
    /// The beginning of a delta, which says how long the result is.
    Delta(Vec<u8>),
    /// A commit that may be the wanted one.
    Commit(Vec<u8>),
}

impl Meter {
    /// Begins with a pack. The bytes of the commit `wanted` are returned when they have come.
    pub(crate) fn new(bounds: FetchBounds, wanted: Option<CommitId>) -> Self {
        let (at, inflater) = (At::Header(Vec::with_capacity(HEADER)), Decompress::new(true));
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Meter { bounds, wanted, at, bytes: 0, inflated: 0, objects: 0, inflater, buffer }
    }

    /// Measures the next part. Returns the bytes of the wanted commit if they are in it.
    pub(crate) fn feed(&mut self, mut part: &[u8]) -> Result<Option<Vec<u8>>, Amiss> {
        self.bytes += part.len() as u64;
        if self.bytes > self.bounds.bytes {
            return Err(too_large(format_args!("it has more than {} bytes", self.bounds.bytes)));
        }
        let mut found = None;
        while !part.is_empty() {
            match &mut self.at {
                At::Data(_) => {
                    let (read, commit) = self.inflate(part)?;
                    part = &part[read..];
                    found = found.or(commit);
                }
                At::Base { missing, .. } | At::Checksum(missing) if *missing > 0 => {
                    let read = part.len().min(*missing);
                    *missing -= read;
                    part = &part[read..];
                    if let At::Base { size, missing: 0 } = self.at {
                        self.at = self.data(size, Kept::Delta(Vec::new()))?;
                    }
                }
                _ => {
                    self.byte(part[0])?;
                    part = &part[1..];
                }
            }
        }
        Ok(found)
    }

    /// Takes the next byte of a header.
    fn byte(&mut self, byte: u8) -> Result<(), Amiss> {
        let (goes_on, bits) = (byte & 0x80 != 0, u64::from(byte & 0x7f));
        self.at = match std::mem::replace(&mut self.at, At::Checksum(0)) {
            At::Header(mut header) => {
                header.push(byte);
                if header.len() < HEADER { At::Header(header) } else { self.begin(&header)? }
            }
            At::Object { read: NUMBER.., .. } => return Err(Amiss::Damaged("an object's size has too many bytes")),
            At::Object { read: 0, .. } => {
                let (kind, size) = (byte >> 4 & 7, u64::from(byte & 15));
                if goes_on { At::Object { kind, size, read: 1 } } else { self.object(kind, size)? }
            }
            At::Object { kind, size, read } => {
                let size = size | bits.checked_shl(4 + 7 * (read - 1)).unwrap_or(0);
                if goes_on { At::Object { kind, size, read: read + 1 } } else { self.object(kind, size)? }
            }
            At::Distance { size } if goes_on => At::Distance { size },
            At::Distance { size } => self.data(size, Kept::Delta(Vec::new()))?,
            At::Base { .. } | At::Data(_) | At::Checksum(_) => {
                return Err(Amiss::Damaged("something follows its checksum"));
            }
        };
        Ok(())
    }

    /// True when the last byte of the pack has come.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.at, At::Checksum(0))
    }

    fn begin(&mut self, header: &[u8]) -> Result<At, Amiss> {
        let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if !header.starts_with(b"PACK") || !matches!(number(4), 2 | 3) {
            return Err(Amiss::Damaged("it does not begin like a pack"));
        }
        self.objects = number(8);
        if self.objects > self.bounds.objects {
            return Err(too_large(format_args!("it has {} objects, and {} may be", self.objects, self.bounds.objects)));
        }
        Ok(self.next())
    }

    /// What follows an object, or the header.
    fn next(&self) -> At {
        if self.objects == 0 { At::Checksum(NAME) } else { At::Object { kind: 0, size: 0, read: 0 } }
    }

    fn object(&mut self, kind: u8, size: u64) -> Result<At, Amiss> {
        match kind {
            OFFSET_DELTA => Ok(At::Distance { size }),
            NAMED_DELTA => Ok(At::Base { size, missing: NAME }),
            COMMIT if self.wanted.is_some() && size <= MOST_COMMIT => self.data(size, Kept::Commit(Vec::new())),
            1..=4 => self.data(size, Kept::Nothing),
            _ => Err(Amiss::Damaged("an object has an unknown type")),
        }
    }

    fn data(&mut self, size: u64, kept: Kept) -> Result<At, Amiss> {
        self.count(size)?;
        self.inflater.reset(true);
        Ok(At::Data(Data { left: size, kept }))
    }

    /// Counts an object, or the result of a delta.
    fn count(&mut self, size: u64) -> Result<(), Amiss> {
        self.inflated = self.inflated.saturating_add(size);
        if size > self.bounds.object {
            return Err(too_large(format_args!("an object has {size} bytes, and {} may be", self.bounds.object)));
        }
        if self.inflated > self.bounds.inflated {
            return Err(too_large(format_args!("its objects have more than {} bytes", self.bounds.inflated)));
        }
        Ok(())
    }

    /// Inflates what it can of an object. Returns how much of the part was taken, and the bytes of
    /// the wanted commit.
    fn inflate(&mut self, part: &[u8]) -> Result<(usize, Option<Vec<u8>>), Amiss> {
        let At::Data(data) = &mut self.at else { return Ok((0, None)) };
        let before = (self.inflater.total_in(), self.inflater.total_out());
        let status = self.inflater.decompress(part, &mut self.buffer, FlushDecompress::None);
        let status = status.map_err(|_| Amiss::Damaged("an object cannot be inflated"))?;
        let read = usize::try_from(self.inflater.total_in() - before.0).unwrap_or(part.len());
        let made = self.inflater.total_out() - before.1;
        data.left = data.left.checked_sub(made).ok_or(Amiss::Damaged("an object is longer than it says"))?;
        let made = &self.buffer[..usize::try_from(made).unwrap_or(0)];
        let mut result = None;
        match &mut data.kept {
            Kept::Nothing => {}
            Kept::Commit(bytes) => bytes.extend_from_slice(made),
            Kept::Delta(head) => {
                head.extend_from_slice(&made[..made.len().min(2 * NUMBER as usize - head.len())]);
                result = result_of(head);
                if result.is_some() {
                    data.kept = Kept::Nothing;
                }
            }
        }
        match status {
            Status::StreamEnd if data.left > 0 => return Err(Amiss::Damaged("an object is shorter than it says")),
            Status::StreamEnd if matches!(data.kept, Kept::Delta(_)) => {
                return Err(Amiss::Damaged("a delta does not say what it makes"));
            }
            Status::StreamEnd => {}
            // It neither takes nor makes anything, and never will.
            _ if read == 0 && made.is_empty() => return Err(Amiss::Damaged("an object cannot be inflated")),
            _ => {
                return result.map_or(Ok(()), |result| self.count(result)).map(|()| (read, None));
            }
        }
        let kept = std::mem::replace(&mut data.kept, Kept::Nothing);
        self.objects -= 1;
        self.at = self.next();
        result.map_or(Ok(()), |result| self.count(result))?;
        let Kept::Commit(bytes) = kept else { return Ok((read, None)) };
        let is_wanted = self.wanted.is_some_and(|wanted| id_of_commit(&bytes) == wanted);
        if is_wanted {
            self.wanted = None;
        }
        Ok((read, is_wanted.then_some(bytes)))
    }
}

/// Returns the length of a delta's result, if its beginning is there: it stands after the length of
/// the base.
fn result_of(head: &[u8]) -> Option<u64> {
    let mut numbers = head.split_inclusive(|byte| byte & 0x80 == 0);
    let (_, result) = (numbers.next()?, numbers.next()?);
    if result.last()? & 0x80 != 0 {
        return None;
    }
    let parts = result.iter().enumerate();
    Some(parts.fold(0, |sum, (at, byte)| {
        let shift = u32::try_from(7 * at).unwrap_or(u32::MAX);
        sum | u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0)
    }))
}

fn id_of_commit(bytes: &[u8]) -> CommitId {
    let mut hash = Sha1::new();
    hash.update(format!("commit {}\0", bytes.len()));
    hash.update(bytes);
    CommitId::from(<[u8; NAME]>::from(hash.finalize()))
}

fn too_large(words: std::fmt::Arguments<'_>) -> Amiss {
    Amiss::TooLarge(format!("its pack is refused: {words}"))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use git2::{ObjectType, Oid};

    use super::*;
    use crate::git::pack::PackBytes;

    const BOUNDS: FetchBounds = FetchBounds { bytes: 1 << 20, inflated: 4 << 20, object: 2 << 20, objects: 100 };

    /// Feeds a pack in parts of this length.
    fn feed(pack: &[u8], length: usize, wanted: Option<CommitId>) -> Result<Option<Vec<u8>>, Amiss> {
        let mut meter = Meter::new(BOUNDS, wanted);
        let mut found = None;
        for part in pack.chunks(length) {
            found = found.or(meter.feed(part)?);
        }
        assert!(meter.is_whole(), "it ends where the pack ends");
        Ok(found)
    }

    fn pack(objects: &[(ObjectType, &[u8])]) -> Vec<u8> {
        let mut pack = PackBytes::new(objects.len(), Compression::best());
        objects.iter().for_each(|(kind, data)| pack.whole(*kind, data));
        pack.finish()
    }

    /// A delta that makes so many bytes of a base of 64 KiB, and its pack.
    fn delta(result: u64, copies: usize) -> Vec<u8> {
        let number = |mut number: u64| {
            let mut bytes = Vec::new();
            while number > 0x7f {
                bytes.push(0x80 | u8::try_from(number & 0x7f).unwrap());
                number >>= 7;
            }
            bytes.push(u8::try_from(number).unwrap());
            bytes
        };
        // Copies 64 KiB from the beginning of the base.
        let delta = [number(1 << 16), number(result), vec![0x80; copies]].concat();
        let mut pack = PackBytes::new(1, Compression::best());
        pack.delta(Oid::ZERO_SHA1, &delta);
        pack.finish()
    }

    #[test]
    fn a_pack_in_whatever_parts_is_measured_and_its_commit_found() {
        let commit = b"tree 1\n\nwords\n".repeat(1000);
        let id = id_of_commit(&commit);
        let whole = pack(&[
            (ObjectType::Blob, b""),
            (ObjectType::Commit, b"another"),
            (ObjectType::Commit, &commit),
            (ObjectType::Tree, &vec![7; 300_000]),
        ]);
        for length in [1, 2, 3, 100, whole.len()] {
            assert_eq!(feed(&whole, length, Some(id)), Ok(Some(commit.clone())), "{length}");
            assert_eq!(feed(&whole, length, None), Ok(None), "{length}");
            assert_eq!(feed(&delta(1 << 20, 16), length, None), Ok(None), "{length}");
        }
    }

    #[test]
    fn what_passes_a_bound_is_refused_before_it_has_come() {
        let large = vec![0; 2 << 20];
        let too_large = |pack: &[u8]| match feed(pack, 100, None) {
            Err(Amiss::TooLarge(words)) => words,
            other => panic!("{other:?}"),
        };
        assert!(
            too_large(&pack(&[(ObjectType::Blob, &vec![0; (2 << 20) + 1])])).contains("an object has 2097153 bytes")
        );
        let three: Vec<(ObjectType, &[u8])> = (0..3).map(|_| (ObjectType::Blob, &large[..])).collect();
        assert!(too_large(&pack(&three)).contains("its objects have more than 4194304 bytes"));
        assert!(too_large(&delta(1 << 40, 16)).contains("an object has 1099511627776 bytes"));
        assert!(too_large(&delta(u64::MAX, 16)).contains("an object has 18446744073709551615 bytes"));
        assert!(too_large(b"PACK\0\0\0\x02\0\0\0\x65").contains("it has 101 objects, and 100 may be"));
        let mut endless = Meter::new(BOUNDS, None);
        endless.feed(b"PACK\0\0\0\x02\0\0\0\x01\xb0\x7f").unwrap();
        let stored = [&[0x78, 0x01, 0x00, 0xff, 0xff, 0x00, 0x00][..], &vec![0; 65_535]].concat();
        endless.feed(&stored[..1000]).unwrap();
        let error = (0..2000).find_map(|_| endless.feed(&stored[1000..2000]).err());
        assert!(matches!(error, Some(Amiss::Damaged(_) | Amiss::TooLarge(_))), "{error:?}");
        assert!(endless.bytes <= BOUNDS.bytes + 1000);
    }

    #[test]
    fn what_is_no_pack_is_damaged() {
        let good = pack(&[(ObjectType::Blob, b"some words")]);
        let damaged = |pack: &[u8]| match feed(pack, 7, None) {
            Err(Amiss::Damaged(words)) => words,
            other => panic!("{other:?}"),
        };
        let with = |at: usize, byte: u8| {
            let mut pack = good.clone();
            pack[at] = byte;
            pack
        };
        assert!(damaged(&with(0, b'X')).contains("does not begin like a pack"));
        assert!(damaged(&with(12, 0x50)).contains("unknown type"));
        assert!(damaged(&with(12, 0x39)).contains("longer than it says"));
        assert!(damaged(&with(12, 0x3b)).contains("shorter than it says"));
        assert!(damaged(&with(13, 0xff)).contains("cannot be inflated"));
        assert!(damaged(&[good.clone(), b"more".to_vec()].concat()).contains("follows its checksum"));
        assert!(
            damaged(&delta(0, 0)[..13].iter().copied().chain([0x70; 1]).chain([0x80; 40]).collect::<Vec<_>>())
                .contains("inflated")
        );
    }
}
