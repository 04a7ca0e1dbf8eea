//! Fuzz targets for each parser that reads a user's text. `cargo test` runs each for a moment with
//! random input; CONTRIBUTING.md tells how to run one for hours, led by coverage.

use bolero::check;

use crate::{
    git::{Packet, PacketReader},
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
