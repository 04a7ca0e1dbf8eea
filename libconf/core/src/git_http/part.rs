//! Fetches of somebody who reads a part of the repository: the refs of that part are listed, and
//! nothing else may be asked for.

use std::{collections::BTreeSet, fmt, pin::Pin, sync::Arc};

use bytes::Bytes;
use libconf::name::ObjectId;

use crate::{
    access::Principal,
    git::{Packet, PacketReader, push_line},
    git_http::{
        answer::{not_our_ref, whole},
        failure::Failure,
        upload::{RESULT, UploadPack},
        wants::wanted,
    },
    http::Response,
};

/// A part of the repository, as it is now.
pub trait Part: Send + Sync {
    /// Its refs, in order.
    fn refs(&self) -> Asked<'_, Vec<ShownRef>>;

    /// Finds one of these objects that is not in it. Each is a commit or a tag that landed.
    fn refused(&self, wanted: BTreeSet<ObjectId>) -> Asked<'_, Option<ObjectId>>;
}

/// What is found out about a part; an error says why it is not.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// A ref as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownRef {
    /// Its full name.
    pub name: String,
    /// What it names.
    pub id: ObjectId,
    /// The commit of the tag that it names.
    pub peeled: Option<ObjectId>,
}

/// Finds the part that somebody reads; `None` for whoever reads all of it.
pub struct Parts(Box<Find>);

type Find = dyn Fn(&Principal) -> Option<Box<dyn Part>> + Send + Sync;

impl Parts {
    /// Asks `find`.
    pub fn new(find: impl Fn(&Principal) -> Option<Box<dyn Part>> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Parts(Box::new(find)))
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts")
    }
}

/// A request of version 2 of Git's protocol.
enum Command {
    List(List),
    Fetch,
}

/// What a list shows.
#[derive(Default)]
struct List {
    peel: bool,
    /// The beginnings of the names; without any, all.
    prefixes: Vec<Vec<u8>>,
}

impl UploadPack {
    /// Shows readers their parts from now on; before, everybody reads all. Only the first call
    /// counts.
    pub fn show_parts(&self, parts: Arc<Parts>) {
        let _ = self.parts.set(parts);
    }

    /// The part that somebody reads; `None` for all of it.
    pub(crate) fn part_of(&self, who: &Principal) -> Option<Box<dyn Part>> {
        self.parts.get().and_then(|parts| (parts.0)(who))
    }

    /// Answers what is no fetch of what somebody may have; `None` for what Git answers.
    pub(crate) async fn serve_part(
        &self,
        part: &dyn Part,
        protocol: &str,
        request: &Bytes,
    ) -> Result<Option<Response>, Failure> {
        expect_second_version(protocol)?;
        match command(request).ok_or_else(|| Failure::Input("it is neither a list nor a fetch".to_owned()))? {
            Command::List(list) => {
                let refs = part.refs().await.map_err(Failure::Git)?;
                Ok(Some(whole(RESULT, list.answer(&refs))))
            }
            Command::Fetch => {
                let wanted = wanted(request).map_err(|_| Failure::Input("it is no request of Git's".to_owned()))?;
                let refused = part.refused(wanted).await.map_err(Failure::Git)?;
                Ok(refused.map(|id| whole(RESULT, not_our_ref(id))))
            }
        }
    }
}

/// In the versions before, the server lists every ref unasked.
pub(crate) fn expect_second_version(protocol: &str) -> Result<(), Failure> {
    if protocol == "version=2" {
        return Ok(());
    }
    Err(Failure::Partial)
}

fn command(request: &[u8]) -> Option<Command> {
    let mut packets = PacketReader::default();
    packets.feed(request);
    let Packet::Data(first) = packets.next().ok()?? else { return None };
    match first.trim_ascii_end() {
        b"command=fetch" => return Some(Command::Fetch),
        b"command=ls-refs" => {}
        _ => return None,
    }
    let mut list = List::default();
    while let Some(packet) = packets.next().ok()? {
        let Packet::Data(line) = packet else { continue };
        let line = line.trim_ascii_end();
        list.peel |= line == b"peel";
        list.prefixes.extend(line.strip_prefix(b"ref-prefix ").map(<[u8]>::to_vec));
    }
    packets.is_empty().then_some(Command::List(list))
}

impl List {
    fn answer(&self, refs: &[ShownRef]) -> Bytes {
        let is_asked = |name: &str| {
            self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| name.as_bytes().starts_with(prefix))
        };
        let mut text = String::new();
        for ShownRef { name, id, peeled } in refs.iter().filter(|one| is_asked(&one.name)) {
            match peeled.filter(|_| self.peel) {
                Some(peeled) => push_line(&mut text, &format!("{id} {name} peeled:{peeled}")),
                None => push_line(&mut text, &format!("{id} {name}")),
            }
        }
        text.push_str("0000");
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(request: &str, refs: &[ShownRef]) -> Option<String> {
        match command(request.as_bytes())? {
            Command::List(list) => Some(String::from_utf8(list.answer(refs).to_vec()).unwrap()),
            Command::Fetch => Some("fetch".to_owned()),
        }
    }

    #[test]
    fn a_list_has_what_was_asked_for() {
        let [one, two] = ["1", "2"].map(|digit| digit.repeat(40));
        let shown_ref = |name: &str, peeled: Option<&String>| ShownRef {
            name: name.to_owned(),
            id: one.parse().unwrap(),
            peeled: peeled.map(|id| id.parse().unwrap()),
        };
        let refs = [shown_ref("refs/heads/a", None), shown_ref("refs/tags/b", Some(&two))];
        let all = format!("003a{one} refs/heads/a\n0039{one} refs/tags/b\n0000");
        assert_eq!(shown("0014command=ls-refs\n0000", &refs).unwrap(), all);
        let peeled = shown("0013command=ls-refs00010009peel\n001aref-prefix refs/tags/\n0000", &refs);
        assert_eq!(peeled.unwrap(), format!("0069{one} refs/tags/b peeled:{two}\n0000"));
        let one =
            shown("0014command=ls-refs\n00010019ref-prefix refs/tags\n001bref-prefix refs/heads/b0000", &refs).unwrap();
        assert!(one.contains("refs/tags/b") && !one.contains("heads") && !one.contains("peeled"), "{one}");
        assert_eq!(shown("0012command=fetch\n0001", &refs).as_deref(), Some("fetch"));
    }

    #[test]
    fn what_git_might_answer_otherwise_is_refused() {
        for bad in ["", "0000", "0018command=object-info\n0000", "0032want", "0014command=ls-refs\n00010009pee", "zzzz"]
        {
            assert_eq!(shown(bad, &[]), None, "{bad}");
        }
    }
}
