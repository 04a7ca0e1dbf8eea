//! Headers that carry an operation's pin: those of HTTP, of a message bus, or anything else with
//! named text values.

use std::{
    collections::{BTreeMap, HashMap},
    hash::BuildHasher,
};

/// Headers that can be read. Names compare without case.
///
/// Implemented for `http::HeaderMap` (feature `http`), and for maps and lists of text, as message
/// buses have them.
pub trait Headers {
    /// Returns every value of the header `name`, one for each of its lines, in their order.
    fn values(&self, name: &str) -> Vec<&[u8]>;
}

/// Headers that can be written.
pub trait HeadersMut: Headers {
    /// Replaces every value of the header `name` by `value`.
    ///
    /// Every byte of `value` is visible ASCII or was in these headers before.
    fn replace(&mut self, name: &'static str, value: &[u8]);
}

#[cfg(feature = "http")]
impl Headers for http::HeaderMap {
    fn values(&self, name: &str) -> Vec<&[u8]> {
        self.get_all(name).iter().map(http::HeaderValue::as_bytes).collect()
    }
}

#[cfg(feature = "http")]
impl HeadersMut for http::HeaderMap {
    fn replace(&mut self, name: &'static str, value: &[u8]) {
        // It consists of visible ASCII and of former values of headers.
        if let Ok(value) = http::HeaderValue::from_bytes(value) {
            self.insert(http::HeaderName::from_static(name), value);
        }
    }
}

impl Headers for Vec<(String, String)> {
    fn values(&self, name: &str) -> Vec<&[u8]> {
        let found = self.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_bytes()).collect()
    }
}

impl HeadersMut for Vec<(String, String)> {
    fn replace(&mut self, name: &'static str, value: &[u8]) {
        self.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.push((name.to_owned(), String::from_utf8_lossy(value).into_owned()));
    }
}

macro_rules! map_of_text {
    ($map:ident $(, $hasher:ident)?) => {
        impl$(<$hasher: BuildHasher>)? Headers for $map<String, String $(, $hasher)?> {
            fn values(&self, name: &str) -> Vec<&[u8]> {
                let found = self.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.as_bytes()).collect()
            }
        }

        impl$(<$hasher: BuildHasher>)? HeadersMut for $map<String, String $(, $hasher)?> {
            fn replace(&mut self, name: &'static str, value: &[u8]) {
                self.retain(|key, _| !key.eq_ignore_ascii_case(name));
                self.insert(name.to_owned(), String::from_utf8_lossy(value).into_owned());
            }
        }
    };
}

map_of_text!(BTreeMap);
map_of_text!(HashMap, S);
