//! Keys and parameters of a request.

use std::{collections::HashMap, time::Duration};

use conf_core::http::{self as web, Response};
use http::StatusCode;

/// Bytes of a key.
const LONGEST_KEY: usize = 512;

/// The parameters behind `?`.
pub(crate) struct Query<'q>(HashMap<&'q str, &'q str>);

impl<'q> Query<'q> {
    pub(crate) fn of(text: &'q str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Query(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Response> {
        let number = |text: &&str| text.parse().map_err(|_| bad_request(&format!("{name} must be a number")));
        self.0.get(name).map(number).transpose()
    }

    pub(crate) fn duration(&self, name: &str) -> Result<Option<Duration>, Response> {
        let duration = |text: &&str| duration(text).ok_or_else(|| bad_request(&format!("{name} is not a duration")));
        self.0.get(name).map(duration).transpose()
    }

    /// Refuses parameters that would change the meaning of the request.
    pub(crate) fn refuse(&self, names: &[&str]) -> Result<(), Response> {
        match names.iter().find(|name| self.has(name)) {
            Some(name) => Err(bad_request(&format!("the embedded server does not know {name}"))),
            None => Ok(()),
        }
    }
}

pub(crate) fn bad_request(words: &str) -> Response {
    web::error(StatusCode::BAD_REQUEST, words)
}

/// Checks a key, or the beginning of keys, which may be empty.
pub(crate) fn check_key(key: &str, prefix: bool) -> Result<(), Response> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b',' | b'.' | b'_' | b'/' | b'-');
    match key {
        "" if !prefix => Err(bad_request("a key cannot be empty")),
        key if key.len() <= LONGEST_KEY && key.bytes().all(allowed) => Ok(()),
        _ => Err(bad_request("a key is at most 512 letters, digits and ',._/-'")),
    }
}

/// Parses Go's form of a duration: `90s`, `1m30s`, `250ms`. In Go a plain number means nanoseconds;
/// here it is refused.
fn duration(text: &str) -> Option<Duration> {
    let mut whole = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit())?;
        let number = rest[..digits].parse::<u64>().ok()?;
        let unit = &rest[digits..];
        let length = unit.find(|character: char| character.is_ascii_digit()).unwrap_or(unit.len());
        let part = match &unit[..length] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        whole = whole.checked_add(part)?;
        rest = &unit[length..];
    }
    (!text.is_empty()).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "5", "s", "5x", "-1s", "99999999999999999999s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
