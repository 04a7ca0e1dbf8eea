//! How the cost grows.

use serde::{Deserialize, Serialize};

use crate::figures::{
    spread::three,
    table::{Table, number},
};

/// How the cost grows with hosts, components and datacenters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// The curves.
    pub curves: Vec<Curve>,
    /// What one day costs each tier.
    pub days: Vec<Day>,
    /// What the days are computed from.
    pub measured: Vec<Hop>,
}

/// Values over a number of things.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// A short name, for the file of its plot.
    pub id: String,
    /// What was measured.
    pub what: String,
    /// What the numbers below count.
    pub x: String,
    /// The unit of the values.
    pub unit: String,
    /// One line each.
    pub series: Vec<Series>,
    /// What it means for a real fleet.
    pub meaning: String,
}

/// One line of a curve.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Numbers of things, and the median value for each.
    pub points: Vec<(f64, f64)>,
}

/// What passes between two tiers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// Who asks whom.
    pub name: String,
    /// Requests for one change.
    pub requests: f64,
    /// Bytes of the answers for one change.
    pub bytes: f64,
    /// Requests in a minute without a change.
    pub idle_requests: f64,
    /// Bytes of the answers in a minute without a change.
    pub idle_bytes: f64,
}

/// What one day costs a tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Day {
    /// How many of what.
    pub fleet: String,
    /// The process that answers.
    pub tier: String,
    /// Requests in the day.
    pub requests: f64,
    /// MiB of answers in the day.
    pub mebibytes: f64,
}

impl Curve {
    /// Begins a curve with these lines.
    pub fn new(id: &str, what: &str, x: &str, unit: &str, names: &[&str]) -> Self {
        let series = names.iter().map(|&name| Series { name: name.to_owned(), points: Vec::new() }).collect();
        let [id, what, x, unit] = [id, what, x, unit].map(str::to_owned);
        Curve { id, what, x, unit, series, meaning: String::new() }
    }

    /// Adds a value to each line.
    pub fn point(&mut self, x: f64, values: &[f64]) {
        for (series, value) in self.series.iter_mut().zip(values) {
            series.points.push((x, three(*value)));
        }
    }

    /// Says what it means.
    #[must_use]
    pub fn means(mut self, meaning: &str) -> Self {
        meaning.clone_into(&mut self.meaning);
        self
    }

    /// The values as a table.
    pub fn table(&self) -> Table {
        let head: Vec<String> = self.series.iter().map(|series| format!("{}, {}", series.name, self.unit)).collect();
        let head: Vec<&str> = std::iter::once(self.x.as_str()).chain(head.iter().map(String::as_str)).collect();
        let mut table = Table::new(&head);
        let all = self.series.first().map(|series| series.points.as_slice()).unwrap_or_default();
        for (at, (x, _)) in all.iter().enumerate() {
            let values = self
                .series
                .iter()
                .map(|series| series.points.get(at).map_or(String::new(), |(_, value)| number(*value)));
            table.row(std::iter::once(number(*x)).chain(values));
        }
        table
    }
}

impl Scale {
    /// What passes between the tiers.
    pub fn hops(&self) -> Table {
        let head =
            ["who asks whom", "requests a change", "bytes a change", "requests an idle minute", "bytes an idle minute"];
        let mut table = Table::new(&head);
        for hop in &self.measured {
            let values = [hop.requests, hop.bytes, hop.idle_requests, hop.idle_bytes].map(number);
            table.row(std::iter::once(hop.name.clone()).chain(values));
        }
        table
    }

    /// What a day costs.
    pub fn days(&self) -> Table {
        let mut table = Table::new(&["fleet", "tier", "requests a day", "MiB a day"]);
        for day in &self.days {
            table.row([day.fleet.clone(), day.tier.clone(), number(day.requests), number(day.mebibytes)]);
        }
        table
    }
}
