//! A fuzz target for headers of strangers. `cargo test` runs it for a moment with random input.

use bolero::check;

use crate::client::operation::baggage::{JoinError, read, write};
use crate::name::Sequence;

/// Makes a line of baggage of random bytes.
fn line(input: &[u8]) -> String {
    const WORDS: [&str; 12] =
        ["conf-version", "=", ",", ";", " ", "\t", "1", "18446744073709551616", "user=1", "%31", "conf-version=7", "="];
    let word = |byte: &u8| match byte.checked_sub(128) {
        None => char::from(*byte).to_string(),
        Some(word) => WORDS[usize::from(word) % WORDS.len()].to_owned(),
    };
    input.iter().take(400).map(word).collect()
}

#[test]
fn baggage() {
    check!().for_each(|input: &[u8]| {
        let (first, last) = input.split_at(input.len() / 2);
        let named = |line: String| ("baggage".to_owned(), line);
        let mut headers = vec![named(line(first)), ("other".to_owned(), line(last)), named(line(last))];
        let before = read(&headers);
        if let Err(JoinError::Malformed { found }) = &before {
            assert!(found.len() <= 400, "{found}");
        }
        write(&mut headers, Sequence(42));
        match read(&headers) {
            Ok(sequence) => assert_eq!(sequence, Sequence(42)),
            Err(error) => assert_eq!(error, JoinError::TooLarge),
        }
        assert!(headers.iter().any(|(name, value)| name == "other" && *value == line(last)), "others are as they were");
    });
}
