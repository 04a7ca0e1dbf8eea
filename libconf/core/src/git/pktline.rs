//! Git's pkt-line framing, read as it arrives.

use std::fmt::Write as _;

use bytes::{Buf as _, Bytes, BytesMut};

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// `0000`
    Flush,
    /// `0001`, between sections.
    Delimiter,
    /// Any other.
    Data(Bytes),
}

/// What cannot be a packet.
#[derive(Debug)]
pub(crate) struct Malformed;

/// Cuts a stream of bytes into packets; holds at most one unfinished packet (64 KiB) and the last
/// part given.
#[derive(Debug, Default)]
pub(crate) struct PacketReader(BytesMut);

impl PacketReader {
    pub(crate) fn feed(&mut self, part: &[u8]) {
        self.0.extend_from_slice(part);
    }

    /// True between packets.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next whole packet; `None` when more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Packet>, Malformed> {
        let Some(digits) = self.0.first_chunk::<4>() else { return Ok(None) };
        let length = digits.iter().try_fold(0, |length, digit| {
            let digit = char::from(*digit).to_digit(16).ok_or(Malformed)?;
            Ok(length << 4 | digit as usize)
        })?;
        match length {
            0 | 1 => {
                self.0.advance(4);
                Ok(Some(if length == 0 { Packet::Flush } else { Packet::Delimiter }))
            }
            2 | 3 => Err(Malformed),
            _ if self.0.len() < length => Ok(None),
            _ => Ok(Some(Packet::Data(self.0.split_to(length).split_off(4).freeze()))),
        }
    }
}

/// Appends a line as a packet.
pub(crate) fn push_line(text: &mut String, line: &str) {
    // Four digits, the line and its end.
    let _ = writeln!(text, "{:04x}{line}", line.len() + 5);
}

/// The words of an `ERR` packet.
pub(crate) fn error_words(packet: &[u8]) -> Option<String> {
    packet.strip_prefix(b"ERR ").map(|words| String::from_utf8_lossy(words).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_whole_however_they_are_cut() {
        let mut text = String::new();
        push_line(&mut text, "command=fetch");
        text.push_str("0001");
        push_line(&mut text, "done");
        text.push_str("0000");
        assert_eq!(text, "0012command=fetch\n00010009done\n0000");
        for size in 1..=text.len() {
            let (mut reader, mut seen) = (PacketReader::default(), Vec::new());
            for part in text.as_bytes().chunks(size) {
                reader.feed(part);
                while let Some(packet) = reader.next().unwrap() {
                    seen.push(packet);
                }
            }
            let data = |line: &'static str| Packet::Data(Bytes::from(line));
            assert_eq!(seen, [data("command=fetch\n"), Packet::Delimiter, data("done\n"), Packet::Flush]);
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn malformed_packets() {
        for bad in ["0002", "0003", "zzzz", "+123"] {
            let mut reader = PacketReader::default();
            reader.feed(bad.as_bytes());
            assert!(reader.next().is_err(), "{bad}");
        }
    }
}
