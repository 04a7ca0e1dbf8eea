//! The bytes of a pack that this program writes itself. Source: gitformat-pack(5).

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use git2::{ObjectType, Oid};
use libconf::name::ObjectId;
use sha1::{Digest as _, Sha1};

/// Deflates one object after the other. To make its tables anew, a third of a MiB, costs more than
/// most objects.
pub(crate) struct Deflater(Compress);

impl Deflater {
    /// Makes one of this level.
    pub(crate) fn new(level: Compression) -> Self {
        Deflater(Compress::new(level, true))
    }

    /// Appends data, deflated.
    pub(crate) fn append(&mut self, mut data: &[u8], out: &mut Vec<u8>) {
        self.0.reset();
        loop {
            out.reserve(data.len() / 2 + 64);
            let before = self.0.total_in();
            let status = self.0.compress_vec(data, out, FlushCompress::Finish).expect("any bytes can be deflated");
            data = &data[usize::try_from(self.0.total_in() - before).unwrap_or(data.len())..];
            if status == Status::StreamEnd {
                return;
            }
        }
    }
}

/// A pack in memory.
pub(crate) struct PackBytes {
    bytes: Vec<u8>,
    deflater: Deflater,
    /// Where each object begins.
    offsets: Vec<usize>,
}

/// A pack in memory with its index.
pub(crate) struct IndexedPack {
    pub(crate) pack: Vec<u8>,
    pub(crate) index: Vec<u8>,
    /// The checksum of the pack, in hexadecimal: files are named by it.
    pub(crate) name: String,
}

impl PackBytes {
    /// Begins a pack of so many objects.
    pub(crate) fn new(objects: usize, compression: Compression) -> Self {
        let mut bytes = b"PACK\0\0\0\x02".to_vec();
        bytes.extend_from_slice(&u32::try_from(objects).unwrap_or(u32::MAX).to_be_bytes());
        PackBytes { bytes, deflater: Deflater::new(compression), offsets: Vec::with_capacity(objects) }
    }

    /// Adds a whole object.
    pub(crate) fn whole(&mut self, kind: ObjectType, data: &[u8]) {
        let kind = match kind {
            ObjectType::Commit => 1,
            ObjectType::Tree => 2,
            ObjectType::Tag => 4,
            _ => 3,
        };
        self.header(kind, data.len());
        self.deflater.append(data, &mut self.bytes);
    }

    /// Adds a delta against an object that is named by its id.
    pub(crate) fn delta(&mut self, base: Oid, delta: &[u8]) {
        self.header(7, delta.len());
        self.bytes.extend_from_slice(base.as_bytes());
        self.deflater.append(delta, &mut self.bytes);
    }

    /// Ends the pack, and returns its bytes.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let checksum = Sha1::digest(&self.bytes);
        self.bytes.extend_from_slice(&checksum);
        self.bytes
    }

    /// Ends the pack, and makes its index, version 2. `ids` are those of the objects in the order
    /// in which they were added, which is their own order.
    pub(crate) fn indexed<'i>(self, ids: impl Iterator<Item = &'i Oid>) -> IndexedPack {
        let offsets = self.offsets.clone();
        let pack = self.finish();
        let content = &pack[..pack.len() - 20];
        let checksum: [u8; 20] = Sha1::digest(content).into();
        let ids: Vec<&[u8]> = ids.map(Oid::as_bytes).collect();
        let mut index = b"\xfftOc\0\0\0\x02".to_vec();
        for first in 0..=u8::MAX {
            let up_to = ids.partition_point(|id| id[0] <= first);
            index.extend_from_slice(&u32::try_from(up_to).unwrap_or(u32::MAX).to_be_bytes());
        }
        ids.iter().for_each(|id| index.extend_from_slice(id));
        let ends = offsets.iter().skip(1).copied().chain([content.len()]);
        for (start, end) in offsets.iter().zip(ends) {
            let mut crc = Crc::new();
            crc.update(&content[*start..end]);
            index.extend_from_slice(&crc.sum().to_be_bytes());
        }
        for offset in offsets {
            // Offsets of 2^31 and more have another form. What is made in memory is smaller.
            index.extend_from_slice(&u32::try_from(offset).unwrap_or(u32::MAX).to_be_bytes());
        }
        index.extend_from_slice(&checksum);
        let end = Sha1::digest(&index);
        index.extend_from_slice(&end);
        IndexedPack { pack, index, name: ObjectId::from(checksum).to_string() }
    }

    /// Adds type and size of an object: three bits of type, then the size in groups of 4, 7, 7, …
    /// bits.
    fn header(&mut self, kind: u8, size: usize) {
        self.offsets.push(self.bytes.len());
        let mut byte = kind << 4 | low_byte(size & 15);
        let mut rest = size >> 4;
        while rest > 0 {
            self.bytes.push(byte | 0x80);
            byte = low_byte(rest & 0x7f);
            rest >>= 7;
        }
        self.bytes.push(byte);
    }
}

/// Returns the lowest byte of a number.
pub(crate) fn low_byte(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::ZlibDecoder;

    use super::*;

    #[test]
    fn what_is_deflated_after_something_else_is_whole() {
        let mut deflater = Deflater::new(Compression::fast());
        let noise: Vec<u8> = (0..200_000_u32).flat_map(|one| one.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for data in [&b""[..], b"a", &noise, &vec![7; 100_000], b"b"] {
            let mut out = b"before".to_vec();
            deflater.append(data, &mut out);
            let mut back = Vec::new();
            ZlibDecoder::new(&out[6..]).read_to_end(&mut back).unwrap();
            assert_eq!(back, data);
        }
    }
}
