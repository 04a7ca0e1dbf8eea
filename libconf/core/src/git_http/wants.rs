//! What a fetch asks for, read before Git starts.

use std::{collections::BTreeSet, fmt};

use libconf::name::ObjectId;

use crate::git::{Malformed, Packet, PacketReader};

/// Says which of the objects that a fetch asks for nobody may have, if any. Blocks. An error says
/// why that cannot be told.
pub struct WantCheck(Box<Check>);

type Check = dyn Fn(&BTreeSet<ObjectId>) -> Result<Option<ObjectId>, String> + Send + Sync;

impl fmt::Debug for WantCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WantCheck")
    }
}

impl WantCheck {
    /// Asks `check`.
    pub fn new(
        check: impl Fn(&BTreeSet<ObjectId>) -> Result<Option<ObjectId>, String> + Send + Sync + 'static,
    ) -> Self {
        WantCheck(Box::new(check))
    }

    pub(crate) fn refused(&self, wanted: &BTreeSet<ObjectId>) -> Result<Option<ObjectId>, String> {
        (self.0)(wanted)
    }
}

/// Lists every object that a request names with `want` or `shallow`, in whichever version of the
/// protocol: a client that deepens is given the parents of what it says it has no history of. Git
/// takes the digits in either case, so both are read here.
pub(crate) fn wanted(request: &[u8]) -> Result<BTreeSet<ObjectId>, Malformed> {
    let mut packets = PacketReader::default();
    packets.feed(request);
    let mut wanted = BTreeSet::new();
    while let Some(packet) = packets.next()? {
        let Packet::Data(line) = packet else { continue };
        let named = line.strip_prefix(b"want ").or_else(|| line.strip_prefix(b"shallow "));
        let Some(rest) = named else { continue };
        let id = rest.get(..40).and_then(|id| std::str::from_utf8(id).ok()).ok_or(Malformed)?;
        wanted.insert(id.to_ascii_lowercase().parse().map_err(|_| Malformed)?);
    }
    // Git would read on in what is cut short here, or fail.
    if packets.is_empty() { Ok(wanted) } else { Err(Malformed) }
}

/// True when a request names a commit that its sender has: not all of the history is packed for it.
pub(crate) fn has_something(request: &[u8]) -> bool {
    let mut packets = PacketReader::default();
    packets.feed(request);
    std::iter::from_fn(|| packets.next().ok().flatten())
        .any(|packet| matches!(packet, Packet::Data(data) if data.starts_with(b"have ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(request: &str) -> Option<Vec<String>> {
        Some(wanted(request.as_bytes()).ok()?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn each_want_is_found_in_every_version_of_the_protocol() {
        let [one, two] = ["1", "a"].map(|digit| digit.repeat(40));
        let plain = format!("0032want {one}\n0044want {} ofs-delta agent=x\n00000009done\n", two.to_uppercase());
        assert_eq!(ids(&plain), Some(vec![one.clone(), two.clone()]));
        let second = format!("0011command=fetch0001000fno-progress0031want {one}0032have {two}\n0032want {two}\n0000");
        assert_eq!(ids(&second), Some(vec![one, two]));
        let deeper = format!(
            "0034shallow {two}0015deepen 20000000000031want {one}0000",
            two = "b".repeat(40),
            one = "1".repeat(40)
        );
        assert_eq!(ids(&deeper).map(|ids| ids.len()), Some(2), "its parents would be given away");
        assert_eq!(ids("0014command=ls-refs\n0000"), Some(Vec::new()));
        assert_eq!(ids("0000"), Some(Vec::new()));
    }

    #[test]
    fn what_git_might_read_otherwise_is_no_request() {
        let id = "1".repeat(40);
        let cut = format!("0032want {id}\n0032want {}", &id[..8]);
        let short = format!("0031want {}\n", &id[..39]);
        let other = format!("0032want {}\n", "g".repeat(40));
        for bad in [cut, short, other, "0002".to_owned(), "00".to_owned(), "want".to_owned()] {
            assert_eq!(ids(&bad), None, "{bad}");
        }
    }
}
