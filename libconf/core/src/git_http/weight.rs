//! What a pushed pack inflates to, its differences applied: measured before Git works any of it
//! out.

use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncReadExt as _;

use crate::{
    git::{Amiss, FetchBounds, Meter},
    git_http::{child::Input, failure::Failure},
};

/// 4 GiB for all objects of a push together: as many as may land. Its bytes were counted before.
const BOUNDS: FetchBounds = FetchBounds { bytes: u64::MAX, inflated: 4 << 30, object: 4 << 30, ..FetchBounds::HISTORY };
/// What is read at a time.
const PART: usize = 64 << 10;

/// Weighs a push as it comes.
pub(crate) struct Weight {
    bounds: FetchBounds,
    at: At,
    /// The lines that end a part of the push.
    ends: u32,
}

enum At {
    /// Before the pack, with what may be the beginning of a line.
    Lines(BytesMut),
    Pack(Meter),
    /// It is no push, and has no weight: Git finds the words for it.
    Nothing,
}

impl Default for Weight {
    fn default() -> Self {
        Weight::new(BOUNDS)
    }
}

impl Weight {
    fn new(bounds: FetchBounds) -> Self {
        Weight { bounds, at: At::Lines(BytesMut::new()), ends: 0 }
    }

    /// Weighs the next part. An error says in words why the push is heavier than may be, or cannot
    /// be measured.
    pub(crate) fn feed(&mut self, part: &[u8]) -> Result<(), String> {
        let measured = match &mut self.at {
            At::Nothing => Ok(None),
            At::Pack(meter) => meter.feed(part),
            At::Lines(lines) => {
                lines.extend_from_slice(part);
                match skip_lines(lines, &mut self.ends) {
                    Some(false) => Ok(None),
                    Some(true) => {
                        let (mut meter, first) = (Meter::new(self.bounds, None), lines.split());
                        let measured = meter.feed(&first);
                        self.at = At::Pack(meter);
                        measured
                    }
                    None => {
                        self.at = At::Nothing;
                        Ok(None)
                    }
                }
            }
        };
        match measured {
            Ok(_) => Ok(()),
            Err(Amiss::TooLarge(words)) => Err(words),
            // Git may read on where this does not.
            Err(Amiss::Damaged(words)) => Err(format!("its pack is damaged: {words}")),
        }
    }

    /// The number of lines that came and end a part of the push: the first one ends the commands.
    pub(crate) fn ends(&self) -> u32 {
        self.ends
    }

    /// True when the last byte of the pack has come, or what came is no push.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.at {
            At::Lines(_) => false,
            At::Pack(meter) => meter.is_whole(),
            At::Nothing => true,
        }
    }
}

/// Says in words why a push is heavier than may be, or cannot be measured, if so.
pub(crate) async fn too_heavy(input: Input) -> Result<Option<String>, Failure> {
    heavier_than(BOUNDS, input).await
}

async fn heavier_than(bounds: FetchBounds, mut input: Input) -> Result<Option<String>, Failure> {
    let (mut part, mut weight) = (vec![0; PART], Weight::new(bounds));
    loop {
        let count = input.read(&mut part).await.map_err(|cause| Failure::Input(cause.to_string()))?;
        if count == 0 || matches!(weight.at, At::Nothing) {
            return Ok(None);
        }
        if let Err(why) = weight.feed(&part[..count]) {
            return Ok(Some(why));
        }
        // A small part may have become large, and others wait.
        tokio::task::yield_now().await;
    }
}

/// Skips the lines before the pack, and counts those that end a part of the push. True when the
/// pack begins here, and `None` for what is no push.
fn skip_lines(bytes: &mut BytesMut, ends: &mut u32) -> Option<bool> {
    while let Some(length) = bytes.get(..4) {
        if length == b"PACK" {
            return Some(true);
        }
        let length = usize::from_str_radix(std::str::from_utf8(length).ok()?, 16).ok()?;
        if bytes.len() < length.max(4) {
            return Some(false);
        }
        *ends = ends.saturating_add(u32::from(length < 2));
        bytes.advance(length.max(4));
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use git2::{ObjectType, Oid};

    use super::*;
    use crate::git::{PackBytes, push_line};
    use bytes::Bytes;
    use tokio_util::io::StreamReader;

    /// A push of one ref with these objects: whole ones, and differences to the first.
    fn push(whole: &[&[u8]], deltas: &[Vec<u8>]) -> Vec<u8> {
        let mut lines = String::new();
        push_line(&mut lines, &format!("{0} {0} refs/heads/a\0push-options", "0".repeat(40)));
        lines.push_str("0000");
        push_line(&mut lines, "allow-shrink");
        lines.push_str("0000");
        let mut pack = PackBytes::new(whole.len() + deltas.len(), Compression::fast());
        whole.iter().for_each(|data| pack.whole(ObjectType::Blob, data));
        let base = Oid::hash_object(ObjectType::Blob, whole[0]).unwrap();
        deltas.iter().for_each(|delta| pack.delta(base, delta));
        [lines.into_bytes(), pack.finish()].concat()
    }

    /// A difference that repeats the base.
    fn repeated(base: usize, times: usize) -> Vec<u8> {
        let number = |mut number: usize| {
            let mut bytes = Vec::new();
            while number >= 0x80 {
                bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
                number >>= 7;
            }
            bytes.push(u8::try_from(number).unwrap());
            bytes
        };
        let copy = [0x80 | 0x70, base.to_le_bytes()[0], base.to_le_bytes()[1], base.to_le_bytes()[2]];
        [number(base), number(base * times), copy.repeat(times)].concat()
    }

    /// Says why a push is refused that may inflate to so many bytes, and comes in parts.
    async fn refused(bytes: &[u8], most: u64, step: usize) -> Option<String> {
        let parts: Vec<_> =
            bytes.chunks(step).map(|part| Ok::<_, std::io::Error>(Bytes::copy_from_slice(part))).collect();
        let input: Input = Box::new(StreamReader::new(futures_util::stream::iter(parts)));
        heavier_than(FetchBounds { inflated: most, ..BOUNDS }, input).await.unwrap()
    }

    #[tokio::test]
    async fn a_push_weighs_what_it_inflates_to() {
        let (base, other) = (vec![b'x'; 1 << 20], b"other".as_slice());
        let deltas = [repeated(1 << 20, 3), repeated(1 << 20, 1000)];
        let bytes = push(&[&base, other, b""], &deltas);
        let all = (1 << 20) + 5 + (3 << 20) + (1000 << 20) + deltas.iter().map(|one| one.len() as u64).sum::<u64>();
        assert!(bytes.len() < 10_000, "{}", bytes.len());
        for step in [1, 7, 1000, bytes.len()] {
            assert_eq!(refused(&bytes, all, step).await, None, "{step}");
            let words = refused(&bytes, all - 1, step).await.unwrap();
            assert!(words.contains("its objects have more than"), "{words}");
        }
    }

    #[tokio::test]
    async fn a_push_without_a_pack_or_objects_weighs_nothing_and_git_finds_words_for_what_is_none() {
        for bytes in [&push(&[b""], &[])[..], b"0000", b"", b"00", b"zzzz", b"0fff"] {
            assert_eq!(refused(bytes, 0, 3).await, None, "{bytes:?}");
        }
        let words = refused(b"0000PACKnonenonenone", 0, 3).await.unwrap();
        assert!(words.contains("its pack is damaged"), "{words}");
        // A length of less than four bytes is none.
        assert_eq!(refused(b"0003000300030003", 0, 5).await, None);
    }
}
