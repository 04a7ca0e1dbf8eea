//! What one run of the benchmark measured.

use serde::{Deserialize, Serialize};

use crate::figures::spread::{Spread, three};

/// Everything that one run measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The machine and the programs.
    pub machine: Machine,
    /// How much was measured: `full`, `quick` or `smoke`.
    pub size: String,
    /// The measurements.
    pub rows: Vec<Row>,
    /// Peers that were not measured, and why.
    pub missing: Vec<String>,
}

/// The machine and the programs of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The day, `YYYY-MM-DD`.
    pub day: String,
    /// The number of cores.
    pub cores: usize,
    /// The memory in GiB.
    pub memory: f64,
    /// The file system of the measured folders.
    pub disk: String,
    /// The programs with their versions.
    pub programs: Vec<String>,
    /// The load of the machine before the run: how many others wanted a core.
    pub load: f64,
}

/// One measurement of this system, beside marks of the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// A short name, for `--rows` and for plots.
    pub id: String,
    /// What was measured.
    pub what: String,
    /// The unit of all values of this row.
    pub unit: String,
    /// True if more is better.
    pub more_is_better: bool,
    /// The value of this system.
    pub ours: Spread,
    /// What others took in the same run.
    pub marks: Vec<Mark>,
    /// The value that is aimed at.
    pub goal: Option<f64>,
    /// The processor time of each tier, in milliseconds for one change.
    pub tiers: Vec<Tier>,
    /// What the figure means for a real fleet.
    pub meaning: String,
}

/// What a mark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Another system that does the same work, or less of it.
    Peer,
    /// What the machine takes for a part that nobody can leave out.
    Floor,
    /// Another value of this system.
    Ours,
}

/// What another system, or the machine itself, took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The measurement.
    pub value: Spread,
}

/// The processor time of one tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// Milliseconds for one change, of one process of the tier with its children.
    pub milliseconds: f64,
}

impl Row {
    /// Begins a row whose value is better when it is less.
    pub fn new(id: &str, what: &str, unit: &str, ours: Spread) -> Self {
        Row {
            id: id.to_owned(),
            what: what.to_owned(),
            unit: unit.to_owned(),
            more_is_better: false,
            ours,
            marks: Vec::new(),
            goal: None,
            tiers: Vec::new(),
            meaning: String::new(),
        }
    }

    /// Says that more is better.
    #[must_use]
    pub fn more_is_better(mut self) -> Self {
        self.more_is_better = true;
        self
    }

    /// Adds a mark.
    #[must_use]
    pub fn beside(mut self, kind: Kind, name: &str, value: Spread) -> Self {
        self.marks.push(Mark { name: name.to_owned(), kind, value });
        self
    }

    /// Sets the value that is aimed at.
    #[must_use]
    pub fn goal(mut self, goal: f64) -> Self {
        self.goal = Some(three(goal));
        self
    }

    /// Adds the processor time of a tier.
    #[must_use]
    pub fn tier(mut self, name: &str, milliseconds: f64) -> Self {
        self.tiers.push(Tier { name: name.to_owned(), milliseconds: three(milliseconds) });
        self
    }

    /// Says what the figure means for a real fleet.
    #[must_use]
    pub fn means(mut self, meaning: &str) -> Self {
        meaning.clone_into(&mut self.meaning);
        self
    }

    /// Tells whether the goal is reached, if there is one.
    pub fn reached(&self) -> Option<bool> {
        let goal = self.goal?;
        Some(if self.more_is_better { self.ours.median >= goal } else { self.ours.median <= goal })
    }
}

impl Mark {
    /// Returns how many times the mark the value of this system is.
    pub fn ratio(&self, row: &Row) -> f64 {
        three(row.ours.median / self.value.median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_and_ratios() {
        let row = Row::new("a", "b", "ms", Spread::one(30.0)).beside(Kind::Peer, "c", Spread::one(20.0));
        assert_eq!((row.reached(), row.marks[0].ratio(&row)), (None, 1.5));
        assert_eq!(row.clone().goal(30.0).reached(), Some(true));
        assert_eq!(row.clone().goal(29.0).reached(), Some(false));
        assert_eq!(row.more_is_better().goal(31.0).reached(), Some(false));
    }
}
