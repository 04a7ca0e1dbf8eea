//! Numbers of changes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::name::text::BadName;

/// The number of a change, from one counter for the whole central repository. The first change is
/// 1; 0 means "no change yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Returns the number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Sequence(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Sequence {
    type Err = BadName;

    /// Parses decimal digits as they are printed: no sign, no leading zero, at most 2^63 - 1, which
    /// readers of JSON and SQL can hold.
    fn from_str(text: &str) -> Result<Self, BadName> {
        let number = text.parse::<u64>().ok().filter(|number| number.to_string() == text);
        number
            .filter(|number| i64::try_from(*number).is_ok())
            .map(Sequence)
            .ok_or_else(|| BadName::new(text, "a sequence", "it must be a whole number below 2^63"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences() {
        assert_eq!("12".parse(), Ok(Sequence(12)));
        for bad in ["", "+1", "01", "-1", "9223372036854775808", "1 "] {
            assert!(bad.parse::<Sequence>().is_err(), "{bad:?}");
        }
    }
}
