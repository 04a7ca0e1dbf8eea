//! What the process that renders is asked, and what it answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::{sandbox::Bounds, settings::SettingsFault};

/// What templates may use. Of everything hosts allow four times as much as a landing: what landed must not fail there, on a
/// slower machine, or with a secret that is longer than what stood for it.
pub(crate) const LANDING: Limits =
    Limits { fuel: 2_000_000, file_bytes: 8 << 20, component_bytes: 32 << 20, seconds: 5 };

/// What the templates of one component may use.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Instructions of each template, which is about what it takes in steps.
    pub(crate) fuel: u64,
    /// Bytes that one may come to.
    pub(crate) file_bytes: usize,
    /// Bytes that all of them may come to.
    pub(crate) component_bytes: usize,
    /// Processor time of all of them.
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
        // Others may be using the processor.
        let patience = Duration::from_secs(4 * self.seconds);
        // A byte of text is at most six in JSON.
        Bounds { seconds: self.seconds, patience, answer: 6 * self.component_bytes + (1 << 20) }
    }
}

/// A secret as templates and settings get it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Given {
    Text(Zeroizing<String>),
    Certificate {
        certificate: String,
        key: Zeroizing<String>,
    },
    /// It cannot be had, for this reason.
    Not(String),
}

/// What the templates of a component are made from.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Everything that may be read, by path.
    pub(crate) files: BTreeMap<String, String>,
    /// What they can name, besides the secrets; `{"$secret": "NAME"}` in `settings` stands for that secret.
    pub(crate) variables: Map<String, Value>,
    /// Those that the component may read.
    pub(crate) secrets: BTreeMap<String, Given>,
}

/// What a template came to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) text: String,
    /// The secrets that it read.
    pub(crate) secrets: BTreeSet<String>,
}

/// By the path of the template, `.j2` included.
pub(crate) type Results = BTreeMap<String, Result<Made, SettingsFault>>;

/// What the templates of a component came to.
#[derive(Serialize, Deserialize)]
pub(crate) struct Rendering {
    pub(crate) results: Results,
    /// The processor time of all of them.
    pub(crate) spent: Duration,
    /// One of them took all that it may: with other variables it would most likely take as much again.
    pub(crate) endless: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Question {
    Render(Job, Limits),
    Uses(BTreeMap<String, String>),
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    Render(Rendering),
    Uses(Option<BTreeSet<String>>),
}

/// What a template can name, besides `settings` and `secrets`.
pub(crate) const NAMES: [&str; 4] = ["datacenter", "platform", "host", "component"];

/// True when a template may read other files of its component.
pub(crate) fn names_others(text: &str) -> bool {
    ["include", "import", "extends"].iter().any(|word| text.contains(word))
}
