//! How often a request was passed on: conf-slaves that name each other would pass it on and on.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// 4 conf-slaves between conf-master and a host, which is more than any site has.
pub const MOST_TIERS: u32 = 4;

/// The header with the number.
const HEADER: HeaderName = HeaderName::from_static("x-conf-hops");

/// How many conf-slaves have passed a request on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hops(u32);

impl Hops {
    /// Reads it from a request. What is no number counts as too many.
    pub fn of(headers: &HeaderMap) -> Self {
        let read = |value: &HeaderValue| value.to_str().ok()?.parse().ok();
        headers.get(HEADER).map_or(Hops::default(), |value| Hops(read(value).unwrap_or(MOST_TIERS)))
    }

    /// One more; `None` where it was passed on too often already.
    pub fn one_more(self) -> Option<Self> {
        (self.0 < MOST_TIERS).then_some(Hops(self.0 + 1))
    }

    /// The header for the request that is passed on.
    pub fn header(self) -> (HeaderName, HeaderValue) {
        (HEADER, self.0.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_passed_on_so_often_and_no_more() {
        let mut headers = HeaderMap::new();
        for hop in 1..=MOST_TIERS {
            let (name, value) = Hops::of(&headers).one_more().unwrap().header();
            assert_eq!(value, hop.to_string());
            headers.insert(name, value);
        }
        assert_eq!(Hops::of(&headers).one_more(), None);
        for bad in ["", "-1", "one", "99999999999"] {
            let headers = HeaderMap::from_iter([(HEADER, HeaderValue::from_static(bad))]);
            assert_eq!(Hops::of(&headers).one_more(), None, "{bad}");
        }
    }
}
