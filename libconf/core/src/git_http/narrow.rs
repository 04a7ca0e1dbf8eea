//! Requests of somebody who reads a part: what they name, and the same without what is outside.

use std::collections::BTreeSet;

use bytes::Bytes;
use libconf::name::ObjectId;

use crate::{
    git::{Malformed, Packet, PacketReader, push_line},
    git_http::{failure::Failure, part::ShownRef},
};

/// A request of version 2 of Git's protocol.
pub(crate) enum Command {
    List(List),
    Fetch(Fetch),
}

/// A fetch, line by line. What Git answers to it depends on nothing else.
pub(crate) struct Fetch(Vec<Line>);

/// A line of a fetch.
enum Line {
    /// Not about an object.
    Plain(Packet),
    /// Asks for this one, or for what is before it.
    Wants(ObjectId, Bytes),
    /// Says that its sender has this one.
    Has(ObjectId, Bytes),
    /// Asks for more than the wanted objects.
    Dropped,
}

/// The most objects that one fetch of a part names.
const MOST_NAMED: usize = 20_000;

/// What a list shows.
#[derive(Default)]
pub(crate) struct List {
    peel: bool,
    /// The beginnings of the names; without any, all.
    prefixes: Vec<Vec<u8>>,
}

/// Reads a request.
pub(crate) fn command(request: &[u8]) -> Result<Command, Failure> {
    let not_of_git = |_| Failure::Input("it is no request of Git's protocol".to_owned());
    let mut packets = PacketReader::default();
    packets.feed(request);
    let first = packets.next().map_err(not_of_git)?;
    let command = match &first {
        Some(Packet::Data(line)) => line.trim_ascii_end(),
        _ => b"",
    };
    let mut rest = Vec::new();
    while let Some(packet) = packets.next().map_err(not_of_git)? {
        rest.push(packet);
    }
    // What is cut short Git would read on in.
    match command {
        _ if !packets.is_empty() => Err(not_of_git(Malformed)),
        b"command=ls-refs" => Ok(Command::List(List::read(&rest))),
        b"command=fetch" => Ok(Command::Fetch(Fetch::read(&rest)?)),
        _ => Err(Failure::Input("whoever reads a part of the repository may list and fetch alone".to_owned())),
    }
}

impl List {
    fn read(packets: &[Packet]) -> Self {
        let mut list = List::default();
        for packet in packets {
            let Packet::Data(line) = packet else { continue };
            let line = line.trim_ascii_end();
            list.peel |= line == b"peel";
            list.prefixes.extend(line.strip_prefix(b"ref-prefix ").map(<[u8]>::to_vec));
        }
        list
    }

    /// The answer to it.
    pub(crate) fn answer(&self, refs: &[ShownRef]) -> Bytes {
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

impl Fetch {
    /// Reads what follows `command=fetch`. Words that Git would take to compare its refs with, and
    /// those that nobody thought about here, are refused.
    fn read(packets: &[Packet]) -> Result<Self, Failure> {
        let mut lines = Vec::new();
        let mut is_argument = false;
        for packet in packets {
            lines.push(match packet {
                Packet::Data(line) if is_argument => Line::of_argument(line)?,
                // What the client calls itself, and how it names objects.
                Packet::Data(line) if line.starts_with(b"agent=") || line.starts_with(b"object-format=sha1") => {
                    Line::Plain(packet.clone())
                }
                Packet::Data(_) => Line::Dropped,
                Packet::Delimiter | Packet::Flush => {
                    is_argument |= *packet == Packet::Delimiter;
                    Line::Plain(packet.clone())
                }
            });
        }
        let named = lines.iter().filter(|line| matches!(line, Line::Wants(..) | Line::Has(..))).count();
        if named > MOST_NAMED {
            return Err(Failure::Input(format!("it names more than {MOST_NAMED} objects; fetch in several steps")));
        }
        Ok(Fetch(lines))
    }

    /// Every object that it names.
    pub(crate) fn named(&self) -> BTreeSet<ObjectId> {
        let id = |line: &Line| match line {
            Line::Wants(id, _) | Line::Has(id, _) => Some(*id),
            Line::Plain(_) | Line::Dropped => None,
        };
        self.0.iter().filter_map(id).collect()
    }

    /// The same fetch, without what its sender may not know of: what Git has in common with it
    /// would be the base of differences. An error names a wanted object that is not readable.
    pub(crate) fn within(self, readable: &BTreeSet<ObjectId>, request: Bytes) -> Result<Bytes, ObjectId> {
        let is_left_out = |line: &Line| match line {
            Line::Dropped => true,
            Line::Has(id, _) => !readable.contains(id),
            Line::Plain(_) | Line::Wants(..) => false,
        };
        let refused = self.0.iter().find_map(|line| match line {
            Line::Wants(id, _) if !readable.contains(id) => Some(*id),
            _ => None,
        });
        if let Some(id) = refused {
            return Err(id);
        }
        if !self.0.iter().any(is_left_out) {
            // Byte for byte: its answer may be kept.
            return Ok(request);
        }
        let mut text = Vec::new();
        push_packet(&mut text, b"command=fetch\n");
        for line in self.0.iter().filter(|line| !is_left_out(line)) {
            match line {
                Line::Plain(Packet::Data(line)) | Line::Wants(_, line) | Line::Has(_, line) => {
                    push_packet(&mut text, line);
                }
                Line::Plain(Packet::Delimiter) => text.extend_from_slice(b"0001"),
                Line::Plain(Packet::Flush) => text.extend_from_slice(b"0000"),
                Line::Dropped => {}
            }
        }
        Ok(text.into())
    }
}

impl Line {
    fn of_argument(line: &Bytes) -> Result<Self, Failure> {
        let refused = || Failure::Input("it asks for something that whoever reads a part may not ask for".to_owned());
        let words = line.trim_ascii_end();
        let (word, rest) = match words.iter().position(|byte| *byte == b' ') {
            Some(at) => (&words[..at], &words[at + 1..]),
            None => (words, &b""[..]),
        };
        let id = || {
            let text = std::str::from_utf8(rest).map_err(|_| refused())?;
            text.to_ascii_lowercase().parse::<ObjectId>().map_err(|_| refused())
        };
        Ok(match word {
            b"want" | b"shallow" => Line::Wants(id()?, line.clone()),
            b"have" => Line::Has(id()?, line.clone()),
            b"thin-pack" | b"no-progress" | b"ofs-delta" | b"done" | b"deepen" | b"deepen-relative" => {
                Line::Plain(Packet::Data(line.clone()))
            }
            // Tags that lead to the wanted commits may be of another part.
            b"include-tag" => Line::Dropped,
            _ => return Err(refused()),
        })
    }
}

fn push_packet(text: &mut Vec<u8>, line: &[u8]) {
    text.extend_from_slice(format!("{:04x}", line.len() + 4).as_bytes());
    text.extend_from_slice(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(request: &str, refs: &[ShownRef]) -> Option<String> {
        match command(request.as_bytes()).ok()? {
            Command::List(list) => Some(String::from_utf8(list.answer(refs).to_vec()).unwrap()),
            Command::Fetch(_) => Some("fetch".to_owned()),
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

    /// Joins lines to a request; `-` stands for the delimiter, and nothing for the end.
    fn request(lines: &[&str]) -> Bytes {
        let mut text = Vec::new();
        for line in lines {
            match *line {
                "-" => text.extend_from_slice(b"0001"),
                "" => text.extend_from_slice(b"0000"),
                line => push_packet(&mut text, format!("{line}\n").as_bytes()),
            }
        }
        text.into()
    }

    fn fetch(lines: &[&str]) -> Result<Fetch, Failure> {
        match command(&request(lines))? {
            Command::Fetch(fetch) => Ok(fetch),
            Command::List(_) => panic!("it is a list"),
        }
    }

    #[test]
    fn a_fetch_says_nothing_of_what_is_outside_of_the_part() {
        let [own, older, foreign] = ["1", "2", "3"].map(|digit| digit.repeat(40));
        let readable: BTreeSet<ObjectId> = [&own, &older].map(|id| id.parse().unwrap()).into();
        let [want, have, hidden] = [format!("want {own}"), format!("have {older}"), format!("have {foreign}")];
        let good = [
            "command=fetch",
            "agent=git/2",
            "object-format=sha1",
            "-",
            "thin-pack",
            "ofs-delta",
            &want,
            &have,
            "done",
            "",
        ];
        let bytes = request(&good);
        assert_eq!(fetch(&good).unwrap().within(&readable, bytes.clone()).unwrap(), bytes, "as it came");
        // A commit of others in common would be the base of differences.
        let more =
            ["command=fetch", "session-id=x", "-", "thin-pack", "include-tag", &want, &hidden, &have, "deepen 1", ""];
        let read = fetch(&more).unwrap();
        assert_eq!(read.named().len(), 3);
        let narrowed = read.within(&readable, request(&more)).unwrap();
        assert_eq!(narrowed, request(&["command=fetch", "-", "thin-pack", &want, &have, "deepen 1", ""]));
        for word in ["want", "shallow"] {
            let outside = format!("{word} {foreign}");
            let refused = fetch(&["command=fetch", "-", &want, &outside, ""]).unwrap();
            assert_eq!(refused.within(&readable, Bytes::new()).unwrap_err().to_string(), foreign);
        }
        for bad in [
            "deepen-not refs/heads/a",
            "deepen-since 1",
            "want-ref refs/heads/a",
            "filter blob:none",
            "sideband-all",
            "want x",
            "new",
        ] {
            assert!(fetch(&["command=fetch", "-", bad, ""]).is_err(), "{bad}");
        }
    }
}
