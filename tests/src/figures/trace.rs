//! The way of one change, tier by tier.

use serde::{Deserialize, Serialize};

use crate::figures::{
    spread::Spread,
    table::{Table, amount, number},
};

/// The way of one change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The components of the datacenter.
    pub services: usize,
    /// What happened, in milliseconds from the start of the push.
    pub moments: Vec<Moment>,
    /// What each tier did for it.
    pub work: Vec<Work>,
}

/// A moment on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// What happened.
    pub what: String,
    /// Milliseconds from the start of the push.
    pub at: Spread,
}

/// What one tier did for one change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The tier.
    pub tier: String,
    /// System calls until the signal.
    pub calls: Spread,
    /// System calls after the signal, until all is quiet.
    pub calls_later: Spread,
    /// Waits for the disk until the signal.
    pub fsyncs: Spread,
    /// Waits for the disk after the signal.
    pub fsyncs_later: Spread,
    /// Programs that were started until the signal.
    pub processes: Spread,
    /// Programs that were started after the signal.
    pub processes_later: Spread,
    /// Bytes that were written to files.
    pub written: Spread,
    /// Bytes that were sent to other processes.
    pub sent: Spread,
    /// Bytes that came from other processes.
    pub received: Spread,
    /// The most frequent system calls, with their number.
    pub frequent: Vec<(String, f64)>,
}

impl Trace {
    /// The table of the moments. What a moment adds is the time since the one before it.
    pub fn moments(&self) -> Table {
        let mut table = Table::new(&["moment", "ms from the start of the push", "after the one before"]);
        let mut before = 0.0;
        for moment in &self.moments {
            table.row([moment.what.clone(), amount(&moment.at), number(moment.at.median - before)]);
            before = moment.at.median;
        }
        table
    }

    /// The table of the work of each tier. Two numbers are those until the signal, and after it.
    pub fn work(&self) -> Table {
        let head = ["tier", "system calls", "fsyncs", "processes", "bytes to files", "bytes sent", "bytes received"];
        let mut table = Table::new(&head);
        let two = |first: &Spread, later: &Spread| format!("{} + {}", number(first.median), number(later.median));
        for work in &self.work {
            let counts = [
                two(&work.calls, &work.calls_later),
                two(&work.fsyncs, &work.fsyncs_later),
                two(&work.processes, &work.processes_later),
            ];
            let bytes = [&work.written, &work.sent, &work.received].map(|spread| number(spread.median));
            table.row(std::iter::once(work.tier.clone()).chain(counts).chain(bytes));
        }
        table
    }

    /// The most frequent system calls of each tier.
    pub fn frequent(&self) -> Table {
        let mut table = Table::new(&["tier", "the most frequent system calls of one change"]);
        for work in &self.work {
            let calls: Vec<String> =
                work.frequent.iter().map(|(name, count)| format!("{name} {}", number(*count))).collect();
            table.row([work.tier.clone(), calls.join(", ")]);
        }
        table
    }
}
