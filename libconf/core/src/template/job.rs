//! The questions to the process that renders, and its answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    sandbox::Bounds,
    settings::SettingsFault,
    template::stand_in::{Given, Passed, Shape},
};

/// The limits of a landing. Hosts allow four times as much: a template that landed must not fail on
/// a slower machine, or with a secret that is longer than the text that stood in its place.
pub(crate) const LANDING: Limits =
    Limits { fuel: 2_000_000, file_bytes: 8 << 20, component_bytes: 32 << 20, seconds: 5 };

/// The most that the templates of one component may use.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Instructions of each template, which is about the number of its steps.
    pub(crate) fuel: u64,
    /// Bytes that one template makes.
    pub(crate) file_bytes: usize,
    /// Bytes that all templates make together.
    pub(crate) component_bytes: usize,
    /// Processor time of all templates together.
    pub(crate) seconds: u64,
}

impl Limits {
    pub(crate) fn times(self, factor: u32) -> Self {
        Limits {
            fuel: self.fuel * u64::from(factor),
            file_bytes: self.file_bytes * factor as usize,
            component_bytes: self.component_bytes * factor as usize,
            seconds: self.seconds * u64::from(factor),
        }
    }

    pub(crate) fn bounds(self) -> Bounds {
        // Other programs may use the processor meanwhile.
        let patience = Duration::from_secs(4 * self.seconds);
        // A byte of text is at most six in JSON.
        Bounds { seconds: self.seconds, patience, answer: 6 * self.component_bytes + (1 << 20) }
    }
}

/// Everything that the templates of one component are made from.
pub(crate) struct Job {
    /// All files that templates may read, by path.
    pub(crate) files: BTreeMap<String, String>,
    /// The variables besides the secrets; `{"$secret": "NAME"}` in `settings` stands for that
    /// secret.
    pub(crate) variables: Map<String, Value>,
    /// The secrets that the component may read.
    pub(crate) secrets: BTreeMap<String, Given>,
}

/// What the process that renders gets of a [`Job`].
#[derive(Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) files: BTreeMap<String, String>,
    pub(crate) variables: Map<String, Value>,
    pub(crate) secrets: BTreeMap<String, Shape>,
}

/// The text that a template makes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) text: String,
    /// The secrets that the template read.
    pub(crate) secrets: BTreeSet<String>,
}

/// Results by the path of the template, `.j2` included.
pub(crate) type Results = BTreeMap<String, Result<Made, SettingsFault>>;

/// The results of all templates of a component.
#[derive(Serialize, Deserialize)]
pub(crate) struct Rendering {
    pub(crate) results: Results,
    /// The processor time of all templates together.
    pub(crate) spent: Duration,
    /// A template used all that it may: with other variables it would most likely use as much
    /// again.
    pub(crate) endless: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Question {
    Render(Task, Limits),
    Uses(BTreeMap<String, String>),
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The texts have stand-ins in the place of secrets.
    Render(Rendering, Vec<Passed>),
    Uses(Option<BTreeSet<String>>),
}

/// The variables of a template besides `settings` and `secrets`.
pub(crate) const NAMES: [&str; 4] = ["datacenter", "platform", "host", "component"];

/// True when a template may read other files of its component.
pub(crate) fn names_others(text: &str) -> bool {
    ["include", "import", "extends"].iter().any(|word| text.contains(word))
}
