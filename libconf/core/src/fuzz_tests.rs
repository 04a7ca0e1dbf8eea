//! Fuzz targets for each parser that reads a user's text. `cargo test` runs each for a moment with
//! random input; CONTRIBUTING.md tells how to run one for hours, led by coverage.

use std::time::Duration;

use bolero::check;
use git2::{ObjectType, Repository};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::{
    api::Pointer,
    consul::PinValue,
    git::{Links, Packet, PacketReader, Part, RepositoryPool, TreeLimits, complete, faults_in_tree, push_line, store},
    git_http::wanted,
    manifest::{ClassManifest, InstanceManifest, Strictness},
    settings::{self, Format, JsonPointer, Lines},
};
use libconf::name::{ComponentSelector, ComponentVersion, DatacenterName, HostName, ObjectId, RefName, Sequence};

/// Makes a text of random bytes. Bytes above ASCII stand for words of these notations: such input
/// gets further in than bytes alone.
fn text(input: &[u8]) -> String {
    const WORDS: [&str; 42] = [
        "a: ",
        "a",
        "b: 1\n",
        "\n",
        "  ",
        "- ",
        "&a ",
        "*a",
        "<<: *a",
        "|\n",
        "? ",
        "---\n",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "\"",
        "\"\"\"",
        "\\u00",
        "${a}",
        "${?b}",
        "a = ",
        "+= ",
        "include ",
        "# ",
        "//",
        "[[a]]\n",
        "1e9",
        "null",
        "true",
        "services: ",
        "{name: a, branch: m, tag: latest}",
        "conf: datacenter-configuration/c/latest\n",
        "inventories:\n",
        "roles: ",
        "hosts: ",
        "settings: {services/a: ",
        "refs/heads/",
        "services/",
        "latest",
        "ä",
    ];
    let mut text = String::new();
    for byte in input.iter().take(400) {
        match byte.checked_sub(128) {
            None => text.push(char::from(*byte)),
            Some(word) => text.push_str(WORDS[usize::from(word) % WORDS.len()]),
        }
    }
    text
}

fn settings_of(format: Format, text: &str) {
    let _ = Lines::of(format, text.as_bytes());
    let Ok(object) = settings::parse("config", format, text.as_bytes()) else { return };
    // Written in canonical form, the settings are read back to the same value.
    let bytes = settings::to_canonical(&object.clone().into());
    let again = settings::parse("config", Format::Json, &bytes);
    assert_eq!(again.as_ref(), Ok(&object));
    assert_eq!(settings::to_canonical(&again.unwrap_or_default().into()), bytes);
}

#[test]
fn settings_in_yaml() {
    check!().for_each(|input| settings_of(Format::Yaml, &text(input)));
}

#[test]
fn settings_in_json() {
    check!().for_each(|input| settings_of(Format::Json, &text(input)));
}

#[test]
fn settings_in_toml() {
    check!().for_each(|input| settings_of(Format::Toml, &text(input)));
}

#[test]
fn settings_in_hocon() {
    check!().for_each(|input| settings_of(Format::Hocon, &text(input)));
}

#[test]
fn settings_that_are_not_text() {
    check!().for_each(|input| {
        for format in [Format::Yaml, Format::Json, Format::Toml, Format::Hocon] {
            let _ = settings::parse("config", format, input);
        }
    });
}

#[test]
fn datacenter_yaml() {
    check!().for_each(|input| {
        let text = text(input);
        // Hosts can read every manifest that lands.
        if let Ok(strict) = InstanceManifest::parse(&text, Strictness::Strict) {
            assert_eq!(InstanceManifest::parse(&text, Strictness::Lenient).as_ref(), Ok(&strict));
        }
        if let Ok(strict) = ClassManifest::parse(&text, Strictness::Strict) {
            assert_eq!(ClassManifest::parse(&text, Strictness::Lenient).as_ref(), Ok(&strict));
        }
    });
}

#[test]
fn names() {
    fn shown_as_it_is_read<T: std::str::FromStr + ToString>(text: &str) {
        if let Ok(name) = text.parse::<T>() {
            assert_eq!(name.to_string(), text);
        }
    }
    check!().for_each(|input| {
        let text = text(input);
        shown_as_it_is_read::<RefName>(&text);
        shown_as_it_is_read::<DatacenterName>(&text);
        shown_as_it_is_read::<ComponentVersion>(&text);
        shown_as_it_is_read::<ComponentSelector>(&text);
        shown_as_it_is_read::<HostName>(&text);
        shown_as_it_is_read::<ObjectId>(&text);
        shown_as_it_is_read::<Sequence>(&text);
        shown_as_it_is_read::<Pointer>(&text);
        shown_as_it_is_read::<PinValue>(&text);
        let Ok(pointer) = text.parse::<JsonPointer>();
        let Ok(again) = pointer.to_string().parse::<JsonPointer>();
        assert_eq!(again, pointer);
    });
}

#[test]
fn pkt_lines() {
    fn all(parts: &[&[u8]]) -> Vec<Option<Packet>> {
        let mut reader = PacketReader::default();
        let mut packets = Vec::new();
        for part in parts {
            reader.feed(part);
            loop {
                match reader.next() {
                    Ok(Some(packet)) => packets.push(Some(packet)),
                    Ok(None) => break,
                    Err(_) => {
                        packets.push(None);
                        return packets;
                    }
                }
            }
        }
        packets
    }
    check!().for_each(|input: &[u8]| {
        // Half of the input becomes digits of a length.
        let bytes: Vec<u8> =
            input.iter().map(|byte| if *byte < 128 { *byte } else { b"0000145af"[usize::from(byte % 9)] }).collect();
        let (first, last) = bytes.split_at(bytes.len() / 2);
        assert_eq!(all(&[first, last]), all(&[&bytes]), "however it arrives");
    });
}

#[test]
fn pointers() {
    check!().for_each(|input: &[u8]| {
        // Most of the input becomes digits, in the form of a pointer.
        let digit = |byte: &u8| char::from(b"0123456789abcdef"[usize::from(byte % 16)]);
        let (first, last) = input.split_at(input.len() / 8);
        let text =
            format!("{}/{}", first.iter().map(digit).collect::<String>(), last.iter().map(digit).collect::<String>());
        if let Ok(pointer) = text.parse::<Pointer>() {
            assert_eq!(pointer.to_string(), text);
        }
    });
}

#[test]
fn wants() {
    check!().for_each(|input: &[u8]| {
        // Lines of the protocol, some of them cut or with a byte that does not belong there.
        let mut lines = String::new();
        for part in input.chunks(24) {
            let digits: Vec<String> = part.iter().map(|byte| format!("{byte:02x}")).collect();
            let id = digits.concat();
            match part[0] % 6 {
                0 => push_line(&mut lines, &format!("want {id}")),
                1 => push_line(&mut lines, &format!("want {} ofs-delta", id.to_uppercase())),
                2 => push_line(&mut lines, &format!("have {id}")),
                3 => lines.push_str("0001"),
                4 => lines.push_str("0000"),
                _ => lines.push_str(&id[..usize::from(part[0]) % id.len()]),
            }
        }
        let Ok(wanted) = wanted(lines.as_bytes()) else { return };
        let mut reader = PacketReader::default();
        reader.feed(lines.as_bytes());
        let mut count = 0;
        while let Ok(Some(packet)) = reader.next() {
            let Packet::Data(line) = packet else { continue };
            let Some(rest) = line.strip_prefix(b"want ") else { continue };
            count += 1;
            let id = String::from_utf8_lossy(&rest[..40]).to_ascii_lowercase();
            assert!(wanted.contains(&id.parse().unwrap()), "each that Git would read is found");
        }
        assert!(wanted.len() <= count);
    });
}

/// A repository in which nothing is written to the disk.
fn in_memory() -> (TempDir, Repository) {
    let folder = tempfile::tempdir().unwrap();
    let repo = Repository::init_bare(folder.path()).unwrap();
    repo.odb().unwrap().add_new_mempack_backend(1000).unwrap();
    (folder, repo)
}

/// Enough for the corpus of a target that makes a repository for each input, however slow the disk.
const LONG: Duration = Duration::from_secs(30);
/// What such a target tries besides.
const FEW: usize = 20;

#[test]
fn raw_trees() {
    check!().with_test_time(LONG).with_iterations(FEW).for_each(|input: &[u8]| {
        const NAMES: [&[u8]; 8] = [b".git", b"..", b"a/b", b".", b"a", b"con\n", b"\xc3\x28", b""];
        let (_folder, repo) = in_memory();
        let blob = repo.blob(b"x").unwrap();
        let mut tree = Vec::new();
        for part in input.chunks(4) {
            let mode: &[u8] =
                [&b"100644"[..], b"120000", b"40000", b"160000", b"0", b"777777777777"][usize::from(part[0] % 6)];
            tree.extend(mode);
            tree.push(b' ');
            match part {
                [_, name, ..] if *name < 128 => tree.extend(NAMES[usize::from(name % 8)]),
                [_, rest @ ..] => tree.extend(rest),
                [] => {}
            }
            tree.push(0);
            tree.extend(blob.as_bytes());
        }
        // Its end is cut off now and then.
        tree.truncate(tree.len() - tree.len().min(usize::from(input.first().copied().unwrap_or_default() / 128)));
        let Ok(id) = repo.odb().unwrap().write(ObjectType::Tree, &tree) else { return };
        for links in [Links::Inside, Links::Anywhere] {
            let Ok(faults) = faults_in_tree(&repo, id.into(), &TreeLimits::most(), links) else { continue };
            if faults.is_empty() {
                for entry in &repo.find_tree(id).unwrap() {
                    let name = entry.name_bytes();
                    let is_bad = matches!(name, b"" | b"." | b".." | b".git") || name.contains(&b'/');
                    assert!(!is_bad, "{:?}", String::from_utf8_lossy(name));
                }
            }
        }
    });
}

/// A pack of one commit, and the commit.
fn good_pack() -> (Vec<u8>, git2::Oid) {
    let folder = tempfile::tempdir().unwrap();
    let repo = Repository::init_bare(folder.path()).unwrap();
    let who = git2::Signature::new("a", "a@b", &git2::Time::new(0, 0)).unwrap();
    let mut tree = repo.treebuilder(None).unwrap();
    for number in 0..4 {
        let blob = repo.blob(format!("{number} {}", "x".repeat(100)).as_bytes()).unwrap();
        tree.insert(format!("file-{number}"), blob, 0o100_644).unwrap();
    }
    let tree = repo.find_tree(tree.write().unwrap()).unwrap();
    let commit = repo.commit(None, &who, &who, "a commit", &tree, &[]).unwrap();
    let mut builder = repo.packbuilder().unwrap();
    builder.insert_commit(commit).unwrap();
    let mut bytes = git2::Buf::new();
    builder.write_buf(&mut bytes).unwrap();
    (bytes.to_vec(), commit)
}

#[test]
fn packs() {
    let (good, commit) = good_pack();
    check!().with_test_time(LONG).with_iterations(FEW).for_each(|input: &[u8]| {
        let mut pack = good.clone();
        // Each three bytes of the input change one byte, or cut the pack.
        for part in input.chunks_exact(3).take(16) {
            let place = usize::from(u16::from_be_bytes([part[0], part[1]])) % pack.len().max(1);
            match part[2] {
                0 => pack.truncate(place),
                change => pack.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= change),
            }
        }
        let folder = tempfile::tempdir().unwrap();
        Repository::init_bare(folder.path()).unwrap();
        let pool = RepositoryPool::from(folder.path().to_owned());
        let (parts, received) = mpsc::channel(4);
        for half in [&pack[..pack.len() / 2], &pack[pack.len() / 2..]] {
            parts.try_send(Part::Pack(half.to_vec().into())).unwrap();
        }
        parts.try_send(Part::End).unwrap();
        let stored = store(&pool, received, (commit.into(), false), |repo| complete(repo, None, commit.into()));
        // What is damaged is refused: the pack's checksum is over all of it.
        assert_eq!(stored.is_ok(), pack == good);
        let left = std::fs::read_dir(folder.path().join("objects")).unwrap().flatten();
        assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("tmp_")));
    });
}
