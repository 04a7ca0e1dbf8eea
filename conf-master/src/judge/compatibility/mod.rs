//! Whether programs and configuration of two neighbouring versions can live together, judged before a change lands.
//!
//! Configuration arrives before the programs that need it, so what lands must be readable by programs written for what was there
//! before. A component with a `config.schema.json` is held against its branch's earlier one (`schemas`, whose question `worker`
//! works out in a process of its own), by the earlier one's `x-compatibility`: a change cannot first declare itself free. One
//! without a schema is held against its earlier settings (`settings`), where its class asks for that. Whoever breaks
//! compatibility knowingly says so in the commit (`declared`).

mod branch;
mod declared;
mod explain;
mod schemas;
mod settings;
#[cfg(test)]
mod tests;
mod worker;

use std::fmt;

pub use crate::judge::compatibility::branch::{Comparisons, judge as branch};
pub use crate::judge::compatibility::declared::{
    Declared, TRAILER, all as declared_between, in_commit as declared, line as declaration,
};
pub use crate::judge::compatibility::settings::judge as settings;
pub use crate::judge::compatibility::worker::{ARGUMENT as WORKER, run as run_worker};
use conf_core::settings::Compatibility;
use serde::{Deserialize, Serialize};

/// What is at stake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Whatever is allowed after the change must have been before: programs written before it read it.
    Backward,
    /// Whatever was allowed before must still be: programs written for what comes read what was there, too.
    Forward,
}

/// The directions in which compatibility is promised.
fn directions(promised: Compatibility) -> &'static [Direction] {
    match promised {
        Compatibility::Backward => &[Direction::Backward],
        Compatibility::Forward => &[Direction::Forward],
        Compatibility::Full => &[Direction::Backward, Direction::Forward],
        Compatibility::None => &[],
    }
}

/// One place where the promise would be broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lack {
    /// The place in the settings, a JSON Pointer; `*` stands for any item of a list, or any key that is not named.
    pointer: String,
    /// The line of the new file, counted from 1.
    line: Option<usize>,
    /// Which promise.
    direction: Direction,
    /// What of it.
    what: What,
}

/// What one side allows and the other does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum What {
    /// To leave the key out.
    LeftOut,
    /// That the key stands there at all.
    Key,
    /// Keys that are not named.
    OtherKeys,
    /// Values, in words.
    Values(String),
    /// Nobody can tell, for this reason.
    Unknown(String),
    /// There is more than is listed.
    More,
}

/// How to go on, for every refusal alike.
const WAY_OUT: &str = "keep to what was, or say why not in the last commit's message, in a line of its own at its end: \
                       `Conf-Compatibility: breaking <reason>`";

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let back = self.direction == Direction::Backward;
        write!(f, "not {} compatible: ", if back { "backward" } else { "forward" })?;
        match (&self.what, back) {
            (What::LeftOut, true) => f.write_str("the key may be left out now")?,
            (What::LeftOut, false) => f.write_str("the key could be left out before")?,
            (What::Key, true) => f.write_str("the key may stand here now")?,
            (What::Key, false) => f.write_str("the key could stand here before")?,
            (What::OtherKeys, true) => f.write_str("keys that are not named may stand here now")?,
            (What::OtherKeys, false) => f.write_str("keys that are not named could stand here before")?,
            (What::Values(values), true) => write!(f, "{values} may stand here now")?,
            (What::Values(values), false) => write!(f, "{values} could stand here before")?,
            (What::Unknown(why), _) => write!(f, "it cannot be told whether all is well here ({why})")?,
            (What::More, _) => f.write_str("there are more such places")?,
        }
        match (&self.what, back) {
            (What::Unknown(_) | What::More, _) => {}
            (_, true) => f.write_str(", and a program written for what was before may not take that")?,
            (_, false) => f.write_str(", and a program written for this may not take that")?,
        }
        write!(f, "; {WAY_OUT}")
    }
}
