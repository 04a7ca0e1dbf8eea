//! Any body and any name of a section.

use crate::http::update::body::read;
use crate::landing::SectionName;

/// Makes text from bytes. A byte above ASCII becomes a word of such bodies and names, so that
/// random input gets further.
fn text(input: &[u8]) -> String {
    const WORDS: [&str; 16] = [
        "{\"request\": {\"section\": \"",
        "{\"requests\": [{\"section\": \"",
        "\", \"config\": {\"a\": 1",
        "}, \"schemaVersion\": 1, \"version\": -1}",
        "}, \"ifMatch\": \"*\"}",
        ", \"dryRun\": true",
        "]}",
        "}",
        "services/web",
        "datacenters/us-west/v1",
        "datacenter-configuration/small",
        ":applications/shop",
        "@hotfix",
        "/",
        "@",
        ":",
    ];
    let word = |byte: &u8| match byte.checked_sub(128) {
        None => char::from(*byte).to_string(),
        Some(word) => WORDS[usize::from(word) % WORDS.len()].to_owned(),
    };
    input.iter().take(200).map(word).collect()
}

#[test]
fn any_body_is_read_or_refused() {
    bolero::check!().for_each(|input| {
        let Ok(read) = read(text(input).as_bytes(), None, None) else { return };
        assert_eq!(read.texts.len(), read.update.changes.len());
    });
}

#[test]
fn a_section_prints_the_name_that_it_was_parsed_from() {
    bolero::check!().for_each(|input| {
        let text = text(input);
        let Ok(section) = text.parse::<SectionName>() else { return };
        assert_eq!(section.to_string().parse(), Ok(section.clone()), "{text}");
        // Every section names a branch that may be written.
        assert!(!section.reference().is_reserved(), "{text}");
    });
}
