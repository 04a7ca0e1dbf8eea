//! The member `conf-version` of W3C baggage, in headers from strangers, beside the members of
//! others.
//!
//! Members of others are neither judged nor changed, byte for byte.
//!
//! Source: W3C "Propagation format for distributed context: Baggage".

use crate::client::operation::headers::{Headers, HeadersMut};
use crate::name::Sequence;

/// The name of the header.
pub const HEADER: &str = "baggage";

/// The name of the member with the pinned sequence.
pub const MEMBER: &str = "conf-version";

/// Bytes of baggage that every implementation passes on, by the specification. More are refused.
pub const MOST_BYTES: usize = 8192;

/// Members of baggage, as [`MOST_BYTES`].
pub const MOST_MEMBERS: usize = 64;

/// The reason why headers name no change to join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// They have no `conf-version`: the caller has no pin, and the operation begins here.
    #[error("the headers carry no `conf-version`: the caller has pinned nothing")]
    Absent,

    /// They have more baggage than the specification allows.
    #[error("the header `baggage` is longer than 8,192 bytes or has more than 64 members")]
    TooLarge,

    /// `conf-version` is there, but is no sequence.
    #[error("`conf-version` in the header `baggage` is not a sequence: {found:?}")]
    Malformed {
        /// Its value, cut to 100 bytes.
        found: String,
    },

    /// `conf-version` is there twice, with two values.
    #[error("the header `baggage` has two different members `conf-version`, {0} and {1}")]
    Ambiguous(Sequence, Sequence),
}

/// Reads the sequence from `headers`.
pub(crate) fn read(headers: &impl Headers) -> Result<Sequence, JoinError> {
    let lines = headers.values(HEADER);
    check_size(&lines)?;
    let mut found = None;
    for value in lines.iter().flat_map(|line| members(line)).filter_map(ours) {
        let sequence = sequence(value).ok_or_else(|| malformed(value))?;
        match found {
            Some(other) if other != sequence => return Err(JoinError::Ambiguous(other, sequence)),
            _ => found = Some(sequence),
        }
    }
    found.ok_or(JoinError::Absent)
}

/// Writes `sequence` into `headers`: one line, with every member of others as it was.
pub(crate) fn write(headers: &mut impl HeadersMut, sequence: Sequence) {
    let mut line = Vec::new();
    for member in headers.values(HEADER).iter().flat_map(|line| members(line)) {
        if ours(member).is_none() && !member.is_empty() {
            line.extend_from_slice(member);
            line.push(b',');
        }
    }
    line.extend_from_slice(format!("{MEMBER}={sequence}").as_bytes());
    headers.replace(HEADER, &line);
}

fn check_size(lines: &[&[u8]]) -> Result<(), JoinError> {
    let bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
    let in_bounds = bytes <= MOST_BYTES + 1 && lines.iter().flat_map(|line| members(line)).count() <= MOST_MEMBERS;
    in_bounds.then_some(()).ok_or(JoinError::TooLarge)
}

/// Splits a line at its commas, and trims the members.
fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b',').map(trim)
}

/// Returns the value of `member` if it is `conf-version`: everything behind `=`, or nothing.
fn ours(member: &[u8]) -> Option<&[u8]> {
    let end = member.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(member.len());
    let (key, rest) = member.split_at(end);
    (trim(key) == MEMBER.as_bytes()).then(|| rest.strip_prefix(b"=").unwrap_or_default())
}

/// Parses a value as a sequence, without its properties and percent-decoded. 0 means "no change
/// yet" and is no pin.
fn sequence(value: &[u8]) -> Option<Sequence> {
    let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
    let text = decoded(trim(&value[..end]))?;
    let sequence: Sequence = std::str::from_utf8(&text).ok()?.parse().ok()?;
    (sequence != Sequence(0)).then_some(sequence)
}

/// Decodes percent signs; `None` if one is not followed by two hex digits.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
        rest = &after[2..];
    }
    Some(bytes)
}

/// Trims the specification's optional white space: spaces and tabs.
fn trim(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().position(|byte| !is_space(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    &text[start..end]
}

fn malformed(value: &[u8]) -> JoinError {
    JoinError::Malformed { found: String::from_utf8_lossy(&value[..value.len().min(100)]).into_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Lines = Vec<(String, String)>;

    fn lines(values: &[&str]) -> Lines {
        values.iter().map(|value| ("Baggage".to_owned(), (*value).to_owned())).collect()
    }

    fn read_from(values: &[&str]) -> Result<Sequence, JoinError> {
        read(&lines(values))
    }

    #[test]
    fn the_member_is_found_among_others() {
        for values in [
            &["conf-version=42"][..],
            &["a=1,conf-version=42,b=2"],
            &["a=1;p=2;q , \tconf-version\t=\t42 ;ttl=3, b = 2"],
            &["a=1", "conf-version=42"],
            &["conf-version=%34%32"],
            &["conf-version=42,conf-version=42"],
            &[",,conf-version=42,"],
            &["Conf-Version=7,conf-versions=8,xconf-version=9,conf-version=42"],
            // Broken members of others do not matter.
            &["broken member,=,%zz=%,conf-version=42"],
        ] {
            assert_eq!(read_from(values), Ok(Sequence(42)), "{values:?}");
        }
    }

    #[test]
    fn malformed_pins_are_told_apart_from_absent_ones() {
        for values in [&[][..], &[""], &["a=conf-version=1"], &["Conf-Version=7"]] {
            assert_eq!(read_from(values), Err(JoinError::Absent), "{values:?}");
        }
        let long = format!("conf-version={}", "9".repeat(500));
        for value in [
            "conf-version",
            "conf-version=",
            "conf-version;p",
            "conf-version=0",
            "conf-version=-1",
            "conf-version=+1",
            "conf-version=01",
            "conf-version=1 2",
            "conf-version==1",
            "conf-version=\"1\"",
            "conf-version=%3",
            "conf-version=%",
            "conf-version=%zz",
            "conf-version=%ff",
            "conf-version=9223372036854775808",
            &long,
        ] {
            assert!(matches!(read_from(&[value]), Err(JoinError::Malformed { .. })), "{value}");
        }
        let two = read_from(&["conf-version=1", "a=b,conf-version=2"]);
        assert_eq!(two, Err(JoinError::Ambiguous(Sequence(1), Sequence(2))));
    }

    #[test]
    fn the_bounds_are_those_of_the_specification() {
        let padded = |bytes: usize| format!("conf-version=42,a={}", "x".repeat(bytes - 18));
        assert_eq!(read_from(&[&padded(8192)]), Ok(Sequence(42)));
        assert_eq!(read_from(&[&padded(8193)]), Err(JoinError::TooLarge));
        assert_eq!(read_from(&[&padded(5000), &padded(5000)]), Err(JoinError::TooLarge));
        let many = |members: usize| format!("conf-version=42{}", ",a=1".repeat(members - 1));
        assert_eq!(read_from(&[&many(64)]), Ok(Sequence(42)));
        assert_eq!(read_from(&[&many(65)]), Err(JoinError::TooLarge));
    }

    #[test]
    fn other_members_pass_untouched() {
        let mut headers = lines(&["a=1;p=%20 ,conf-version=1;x, b = 2", "c=%zz"]);
        headers.push(("other".to_owned(), "stays".to_owned()));
        write(&mut headers, Sequence(7));
        let expected = [("other", "stays"), ("baggage", "a=1;p=%20,b = 2,c=%zz,conf-version=7")];
        assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let mut none = Lines::new();
        write(&mut none, Sequence(7));
        assert_eq!(none, [("baggage".to_owned(), "conf-version=7".to_owned())]);
    }

    /// Lines of strangers, close enough to baggage to reach every branch.
    fn any_lines() -> impl Strategy<Value = Lines> {
        let piece = prop_oneof![
            Just("conf-version".to_owned()),
            Just("=".to_owned()),
            Just(",".to_owned()),
            Just(";".to_owned()),
            Just("%".to_owned()),
            Just(" ".to_owned()),
            "[0-9]{1,20}",
            "[a-z%=; ]{0,8}",
            any::<char>().prop_map(String::from),
        ];
        let line = prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
        prop::collection::vec(("(?i)baggage|x", line), 0..4)
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(headers in any_lines()) {
            let _ = read(&headers);
        }

        #[test]
        fn no_bytes_make_it_panic(line in prop::collection::vec(any::<u8>(), 0..300)) {
            struct Raw(Vec<u8>);
            impl Headers for Raw {
                fn values(&self, _: &str) -> Vec<&[u8]> {
                    vec![&self.0]
                }
            }
            let _ = read(&Raw(line));
        }

        #[test]
        fn a_written_pin_is_read_and_the_rest_stays(headers in any_lines(), sequence in 1..=i64::MAX.cast_unsigned()) {
            let others = |headers: &Lines| -> Vec<Vec<u8>> {
                let lines = headers.values(HEADER);
                let all = lines.iter().flat_map(|line| members(line));
                all.filter(|member| ours(member).is_none() && !member.is_empty()).map(<[u8]>::to_vec).collect()
            };
            let mut written = headers.clone();
            write(&mut written, Sequence(sequence));
            prop_assert_eq!(others(&written), others(&headers));
            prop_assert_eq!(read(&written), Ok(Sequence(sequence)));
        }
    }
}
