//! Where an operation's pin travels: anything with named text values, headers of HTTP or of a message bus.

use std::{
    collections::{BTreeMap, HashMap},
    hash::BuildHasher,
};

/// Headers that can be read. Names compare without case.
///
/// Implemented for `http::HeaderMap` (feature `http`), and for maps and lists of text, as message buses have them.
pub trait Headers {
    /// Every value of the header `name`, one per line of it, in their order.
    fn values(&self, name: &str) -> Vec<&[u8]>;
}

/// Headers that can be written.
pub trait HeadersMut: Headers {
    /// Puts `value` in the place of every value of the header `name`.
    ///
    /// Every byte of `value` is visible ASCII or stood in these headers before.
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
        // Made of visible ASCII and of what was a header's value before.
        if let Ok(value) = http::HeaderValue::from_bytes(value) {
            self.insert(http::HeaderName::from_static(name), value);
        }
    }
}

impl Headers for Vec<(String, String)> {
    fn values(&self, name: &str) -> Vec<&[u8]> {
        let of_it = self.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        of_it.map(|(_, value)| value.as_bytes()).collect()
    }
}

impl HeadersMut for Vec<(String, String)> {
    fn replace(&mut self, name: &'static str, value: &[u8]) {
        self.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        self.push((name.to_owned(), String::from_utf8_lossy(value).into_owned()));
    }
}

macro_rules! map_of_text {
    ($map:ident $(, $hasher:ident)?) => {
        impl$(<$hasher: BuildHasher>)? Headers for $map<String, String $(, $hasher)?> {
            fn values(&self, name: &str) -> Vec<&[u8]> {
                let of_it = self.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
                of_it.map(|(_, value)| value.as_bytes()).collect()
            }
        }

        impl$(<$hasher: BuildHasher>)? HeadersMut for $map<String, String $(, $hasher)?> {
            fn replace(&mut self, name: &'static str, value: &[u8]) {
                self.retain(|found, _| !found.eq_ignore_ascii_case(name));
                self.insert(name.to_owned(), String::from_utf8_lossy(value).into_owned());
            }
        }
    };
}

map_of_text!(BTreeMap);
map_of_text!(HashMap, S);
