//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::agents::Agents;

/// Measures conf-master, conf-slave and conf-local as real processes, beside Consul, etcd and plain
/// Git in the same run. Writes tables, JSON and plots.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub(crate) struct Options {
    /// What to do; without it all rows are measured.
    #[command(subcommand)]
    pub(crate) command: Option<What>,
    /// How much.
    #[command(flatten)]
    pub(crate) size: Size,
    /// Measure only these rows.
    #[arg(long, value_name = "ROW", value_delimiter = ',', global = true)]
    pub(crate) rows: Vec<String>,
    /// The folder for tables, JSON and plots.
    #[arg(long, value_name = "DIR", default_value = "target/bench", global = true)]
    pub(crate) out: PathBuf,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum What {
    /// The way of one change: when each tier has it, and the system calls, fsyncs, processes and bytes
    /// of each.
    Trace,
    /// How the cost grows with hosts, components and datacenters; rows: hosts, components,
    /// datacenters.
    Scale,
    /// Write docs/performance.md and its plots from what the other commands have written. Run it in the
    /// workspace.
    Docs,
    /// Run many agents in this process. The benchmark itself starts this.
    #[command(hide = true)]
    Agents(Agents),
    /// Serve repositories by plain `git http-backend`. The benchmark itself starts this.
    #[command(hide = true)]
    PlainGit {
        /// The folder of the repositories.
        folder: PathBuf,
        /// Where to listen.
        address: SocketAddr,
    },
}

/// How much to measure.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Size {
    /// A few minutes: at most 50 hosts, and fewer runs.
    #[arg(long, global = true)]
    quick: bool,
    /// A few seconds: few services, one run. Shows that the benchmark works; its figures mean
    /// nothing.
    #[arg(long, global = true, conflicts_with = "quick")]
    smoke: bool,
    /// Race a change to this number of hosts alone.
    #[arg(long, value_name = "NUMBER", global = true)]
    hosts: Option<usize>,
}

impl Size {
    /// Chooses one of three by size.
    fn choose<T>(self, smoke: T, quick: T, full: T) -> T {
        match self {
            Size { smoke: true, .. } => smoke,
            Size { quick: true, .. } => quick,
            Size { .. } => full,
        }
    }

    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        self.choose("smoke", "quick", "full")
    }

    /// The components of the datacenter.
    pub(crate) fn services(self) -> usize {
        self.choose(40, 3000, 3000)
    }

    /// How often each latency is measured.
    pub(crate) fn rounds(self) -> usize {
        self.choose(1, 11, 31)
    }

    /// The numbers of hosts.
    pub(crate) fn hosts(self) -> Vec<usize> {
        let usual: &[usize] = self.choose(&[1, 2], &[1, 50], &[1, 50, 200]);
        self.hosts.map_or_else(|| usual.to_vec(), |hosts| vec![hosts])
    }

    /// The largest number of hosts.
    pub(crate) fn most_hosts(self) -> usize {
        self.hosts().into_iter().max().unwrap_or(1)
    }

    /// The numbers of clients of the API.
    pub(crate) fn clients(self) -> &'static [usize] {
        self.choose(&[1, 4], &[1, 16, 64], &[1, 16, 64])
    }

    /// How often a rate is measured.
    pub(crate) fn slices(self) -> usize {
        self.choose(1, 3, 7)
    }

    /// How long each slice of a rate lasts.
    pub(crate) fn lasting(self) -> Duration {
        self.choose(Duration::from_millis(50), Duration::from_millis(1500), Duration::from_secs(3))
    }

    /// The changes before the size of an export is measured.
    pub(crate) fn changes(self) -> usize {
        self.choose(5, 300, 1000)
    }

    /// The datacenters of one class.
    pub(crate) fn datacenters(self) -> usize {
        self.choose(3, 20, 100)
    }

    /// The conf-slaves, each of a datacenter of its own.
    pub(crate) fn slaves(self) -> usize {
        self.choose(2, 10, 50)
    }

    /// The numbers of agents in one process.
    pub(crate) fn agents(self) -> &'static [usize] {
        self.choose(&[2, 4], &[10, 100], &[10, 100, 1000])
    }

    /// The numbers of components.
    pub(crate) fn components(self) -> &'static [usize] {
        self.choose(&[10, 40], &[10, 100, 1000, 3000], &[10, 100, 1000, 3000, 10_000, 30_000])
    }

    /// The numbers of datacenters of one class.
    pub(crate) fn all_datacenters(self) -> &'static [usize] {
        self.choose(&[1, 3], &[1, 10, 30], &[1, 10, 30, 100])
    }

    /// The changes of which the cost at one size is measured.
    pub(crate) fn changes_of_scale(self) -> usize {
        self.choose(1, 5, 9)
    }

    /// The time for which nothing changes.
    pub(crate) fn idle(self) -> Duration {
        self.choose(Duration::from_millis(100), Duration::from_secs(30), Duration::from_secs(60))
    }

    /// The time between two changes of which the processor time is counted. A conf-slave's branches
    /// and tags follow after a second without a change.
    pub(crate) fn pause(self) -> Duration {
        self.choose(Duration::ZERO, Duration::from_millis(1300), Duration::from_millis(1300))
    }
}
