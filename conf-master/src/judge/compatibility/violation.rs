//! One place where a promise of compatibility would be broken.

use std::fmt;

use conf_core::settings::Compatibility;
use serde::{Deserialize, Serialize};

/// A direction of compatibility.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    /// Everything that is allowed after the change was allowed before: programs written before it
    /// read it.
    Backward,
    /// Everything that was allowed before still is: programs written for the new schema read older
    /// settings too.
    Forward,
}

impl Direction {
    /// The word for it in messages.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Direction::Backward => "backward",
            Direction::Forward => "forward",
        }
    }
}

/// Returns the directions in which compatibility is promised.
pub(crate) fn directions(promised: Compatibility) -> &'static [Direction] {
    match promised {
        Compatibility::Backward => &[Direction::Backward],
        Compatibility::Forward => &[Direction::Forward],
        Compatibility::Full => &[Direction::Backward, Direction::Forward],
        Compatibility::None => &[],
    }
}

/// One place where the promise would be broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Violation {
    /// The place in the settings, a JSON Pointer; `*` is any item of a list, or any key that is not
    /// named.
    pub(crate) pointer: String,
    /// The line of the new file, counted from 1.
    pub(crate) line: Option<usize>,
    /// The direction whose promise it breaks.
    pub(crate) direction: Direction,
    /// The difference.
    pub(crate) what: Allowance,
}

/// Something that one schema allows and the other does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Allowance {
    /// The key may be absent.
    LeftOut,
    /// The key may be present.
    Key,
    /// Keys that are not named may be present.
    OtherKeys,
    /// These values, in words.
    Values(String),
    /// The two cannot be compared, for this reason.
    Unknown(String),
    /// There are more differences than are listed.
    More,
}

/// The advice at the end of every such refusal.
pub(crate) const WAY_OUT: &str = "keep to what was, or say why not in the last commit's message, in a line of its own at its end: \
                       `Conf-Compatibility: breaking <reason>`";

/// The other way to let a key in.
const IGNORING: &str = "; or, where the programs ignore keys that they do not know, land `\"x-unknown-keys\": \"ignored\"` in the \
                        schema first, in a change of its own";

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let back = self.direction == Direction::Backward;
        write!(f, "not {} compatible: ", self.direction.word())?;
        let allowed = match &self.what {
            Allowance::LeftOut if back => "the key may be left out now",
            Allowance::LeftOut => "the key could be left out before",
            Allowance::Key => "the key",
            Allowance::OtherKeys => "keys that are not named",
            Allowance::Values(values) => values,
            Allowance::Unknown(why) => {
                return write!(f, "it cannot be told whether all is well here ({why}); {WAY_OUT}");
            }
            Allowance::More => return write!(f, "there are more such places; {WAY_OUT}"),
        };
        let (stands, reader) = if back { (" may stand here now", "old") } else { (" could stand here before", "new") };
        let stands = if self.what == Allowance::LeftOut { "" } else { stands };
        write!(f, "{allowed}{stands}, and programs written for the {reader} schema may reject it; {WAY_OUT}")?;
        if back && matches!(self.what, Allowance::Key | Allowance::OtherKeys) {
            f.write_str(IGNORING)?;
        }
        Ok(())
    }
}
