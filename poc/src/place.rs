//! The datacenter of the demonstration, its hosts, and the programs that run.

/// The datacenter of the demonstration.
pub(crate) const DATACENTER: &str = "us-west/v1";

/// A host with its job.
#[derive(Debug)]
pub(crate) struct Place {
    /// The host's name.
    pub host: &'static str,
    /// The component that the host runs.
    pub component: &'static str,
    /// The job in two words.
    pub job: &'static str,
    /// The job at length, with the way in which it learns of a change.
    pub how: &'static str,
}

/// The hosts and their jobs.
pub(crate) const PLACES: [Place; 3] = [
    Place {
        host: "web-1",
        component: "services/web",
        job: "shell script",
        how: "a shell script that gets SIGHUP, by `conf-local watch`",
    },
    Place {
        host: "web-2",
        component: "services/shop",
        job: "Rust program",
        how: "a Rust program that links libconf and needs no signal",
    },
    Place {
        host: "db-1",
        component: "services/db",
        job: "restarted job",
        how: "a shell script, restarted by a job manager that watches its key in Consul",
    },
];

/// A program that is kept running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Unit {
    /// conf-master
    Master,
    /// conf-slave
    Slave,
    /// The conf-local of a place.
    Host(usize),
    /// The job of a place.
    Job(usize),
}

impl Unit {
    /// Returns its name in the timeline and of its log.
    pub(crate) fn name(self) -> String {
        match self {
            Unit::Master => "conf-master".to_owned(),
            Unit::Slave => "conf-slave".to_owned(),
            Unit::Host(place) => format!("conf-local-{}", PLACES[place].host),
            Unit::Job(place) => format!("job-{}", PLACES[place].host),
        }
    }
}
