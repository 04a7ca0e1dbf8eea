//! The commands at the beginning of a push: which refs shall move.
//!
//! Source: gitprotocol-pack(5), "Reference Update Request and Packfile Transfer" and "Report
//! Status".

use bytes::Bytes;
use tokio::io::AsyncReadExt as _;

use crate::{
    git::{Packet, PacketReader, push_line},
    git_http::{child::Input, failure::Failure},
};

/// The most refs that a refusal names: a client takes the others for refused as well.
const MOST_NAMED: usize = 1000;
/// The most bytes of output in one packet of the side band. Source: gitprotocol-pack(5),
/// "side-band-64k".
const IN_BAND: usize = 65_515;
/// The most bytes of a ref's name that are kept; no ref here has so many.
const MOST_NAME: usize = 1000;
/// The band of the report.
const REPORT: u8 = 1;
/// Words for people.
const WORDS: u8 = 2;

/// What a push asks for.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    /// The names of the first refs.
    names: Vec<String>,
    most: usize,
    capabilities: String,
    /// It has a certificate, which Git would store and look at before anybody else does.
    is_certified: bool,
    /// A ref is made or moved, and not deleted: objects follow.
    has_pack: bool,
    /// They end as Git ends them.
    is_whole: bool,
}

/// Reads the commands as they come.
#[derive(Debug)]
pub(crate) struct CommandsReader {
    packets: PacketReader,
    commands: Commands,
    is_read: bool,
}

impl CommandsReader {
    /// Reads up to one more than `most`.
    pub(crate) fn new(most: usize) -> Self {
        let commands = Commands { most, ..Commands::default() };
        CommandsReader { packets: PacketReader::default(), commands, is_read: false }
    }

    /// Reads the next part. What follows the commands is passed over.
    pub(crate) fn feed(&mut self, part: &[u8]) {
        if self.is_read {
            return;
        }
        self.packets.feed(part);
        while !self.is_read {
            match self.packets.next() {
                Ok(Some(Packet::Data(line))) => self.commands.add(&line),
                Ok(None) => return,
                Ok(Some(Packet::Flush | Packet::Delimiter)) => {
                    self.is_read = true;
                    self.commands.is_whole = true;
                }
                // What is no push has no commands.
                Err(_) => self.is_read = true,
            }
            self.is_read |= self.commands.refused().is_some();
        }
    }

    /// The commands that were read so far.
    pub(crate) fn commands(&self) -> &Commands {
        &self.commands
    }

    /// True when no more of them come.
    pub(crate) fn is_read(&self) -> bool {
        self.is_read
    }
}

impl Commands {
    /// Reads the commands, up to one more than `most`. What is no push has none.
    pub(crate) async fn read(mut input: Input, most: usize) -> Result<Self, Failure> {
        let (mut reader, mut part) = (CommandsReader::new(most), vec![0; 16 << 10]);
        while !reader.is_read {
            let count = input.read(&mut part).await.map_err(|cause| Failure::Input(cause.to_string()))?;
            if count == 0 {
                break;
            }
            reader.feed(&part[..count]);
        }
        Ok(reader.commands)
    }

    fn add(&mut self, line: &[u8]) {
        self.is_certified |= line.starts_with(b"push-cert");
        let line = String::from_utf8_lossy(line);
        let (command, capabilities) = line.split_once('\0').unwrap_or((&line, ""));
        if self.names.is_empty() {
            self.capabilities = capabilities.chars().take(MOST_NAME).collect();
        }
        // An old id, a new id and a name; others, such as `shallow`, move no ref.
        if let [_, new, name] = command.trim_end().splitn(3, ' ').collect::<Vec<_>>()[..] {
            self.names.push(name.chars().take(MOST_NAME).collect());
            self.has_pack |= new.bytes().any(|digit| digit != b'0');
        }
    }

    /// The refs that shall move.
    pub(crate) fn count(&self) -> usize {
        self.names.len()
    }

    /// True when they were read to their end. Otherwise Git would fail.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// True for a push that moves nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// True when a pack follows.
    pub(crate) fn has_pack(&self) -> bool {
        self.has_pack
    }

    /// True when push options follow, before the pack.
    pub(crate) fn has_options(&self) -> bool {
        self.has("push-options")
    }

    /// True when there are more than may be.
    fn is_too_many(&self) -> bool {
        self.names.len() > self.most
    }

    /// Says why nothing of the push is looked at, if so.
    pub(crate) fn refused(&self) -> Option<String> {
        if self.is_certified {
            return Some("signed pushes are not taken; push without --signed".to_owned());
        }
        self.is_too_many().then(|| format!("more than {} refs in one push; push fewer at once", self.most))
    }

    fn has(&self, capability: &str) -> bool {
        self.capabilities.split_whitespace().any(|one| one == capability)
    }
}

/// The answer to a push of which every ref is refused, as Git's own clients show it; empty for one
/// that asks for no report.
pub(crate) fn refusal(commands: &Commands, why: &str) -> Bytes {
    let mut report = String::new();
    push_line(&mut report, "unpack ok");
    for name in commands.names.iter().take(MOST_NAMED) {
        push_line(&mut report, &format!("ng {name} {why}"));
    }
    report.push_str("0000");
    if !commands.has("report-status") && !commands.has("report-status-v2") {
        return Bytes::new();
    }
    if !commands.has("side-band-64k") {
        return report.into();
    }
    let mut answer = Vec::new();
    let mut push_band = |band: u8, bytes: &[u8]| {
        for part in bytes.chunks(IN_BAND) {
            answer.extend_from_slice(format!("{:04x}", part.len() + 5).as_bytes());
            answer.push(band);
            answer.extend_from_slice(part);
        }
    };
    push_band(WORDS, format!("refused: {why}\n").as_bytes());
    push_band(REPORT, report.as_bytes());
    answer.extend_from_slice(b"0000");
    answer.into()
}

#[cfg(test)]
mod tests {
    use crate::git_http::child::input_of;

    use super::*;

    fn push(refs: usize, capabilities: &str) -> Bytes {
        let id = "1".repeat(40);
        let mut text = String::new();
        for number in 0..refs {
            let tail = if number == 0 { format!("\0 {capabilities}") } else { String::new() };
            push_line(&mut text, &format!("{id} {id} refs/heads/services/b{number}{tail}"));
        }
        text.push_str("0000PACK and the rest");
        text.into()
    }

    async fn read(body: Bytes) -> Commands {
        Commands::read(input_of(body), 3).await.unwrap()
    }

    #[tokio::test]
    async fn refs_are_counted_and_no_more_is_read() {
        for (refs, is_too_many) in [(0, false), (1, false), (3, false), (4, true), (100_000, true)] {
            let commands = read(push(refs, "report-status")).await;
            assert_eq!(commands.is_too_many(), is_too_many, "{refs}");
            assert_eq!(commands.names.len(), refs.min(4));
        }
        let certified = read("0022push-cert\0report-status atomic0000".into()).await;
        assert!(certified.refused().is_some_and(|why| why.contains("--signed")));
        for other in ["", "0000", "zzzz", "0003", "00", "nothing of the kind"] {
            let commands = read(other.into()).await;
            assert!(!commands.is_too_many(), "{other}");
            assert_eq!(commands.is_whole(), other == "0000", "{other}");
        }
    }

    #[tokio::test]
    async fn a_client_is_told_in_its_own_form() {
        let told = |capabilities: &'static str| async move {
            let commands = read(push(4, capabilities)).await;
            String::from_utf8(refusal(&commands, &commands.refused().unwrap()).to_vec()).unwrap()
        };
        assert_eq!(told("delete-refs").await, "");
        let plain = told("report-status delete-refs").await;
        assert!(plain.starts_with("000eunpack ok\n") && plain.ends_with("0000"), "{plain}");
        assert!(plain.contains("ng refs/heads/services/b3 more than 3 refs in one push"), "{plain}");
        let band = told("report-status-v2 side-band-64k").await;
        assert!(band.contains("\u{2}refused: more than 3 refs") && band.contains("\u{1}000eunpack ok\n"), "{band:?}");
    }
}
