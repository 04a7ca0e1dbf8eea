//! What can be raced from the start of a change to the last signal of it.

use std::{
    process::Child,
    time::{Duration, Instant},
};

use tests::{Reader, Site, figures::Kind, reader::Told};

use crate::{
    fleet::{CHANGED, settings},
    pusher::{Pusher, end},
};

/// A system that brings a change to processes of many hosts.
pub(crate) trait Racer {
    /// Returns its name, and what it is.
    fn name(&self) -> (Kind, String);

    /// Brings the number of hosts up to this.
    fn grow(&mut self, hosts: usize);

    /// Returns the processes that watch on the hosts, if this one has started them.
    fn watch_pids(&self) -> Option<Vec<u32>> {
        None
    }

    /// Makes one change, and returns the time from its start to the last signal.
    fn race(&mut self, round: usize) -> Duration;
}

/// This system.
pub(crate) struct Ours<'a> {
    site: &'a mut Site,
    pusher: Pusher,
    readers: Vec<Reader>,
}

impl<'a> Ours<'a> {
    pub(crate) fn new(site: &'a mut Site, pusher: Pusher) -> Self {
        Ours { site, pusher, readers: Vec::new() }
    }

    /// Returns the processes of each tier, and how many of them share a tier's work.
    pub(crate) fn tiers(&self) -> [(&'static str, Vec<u32>); 3] {
        let hosts = self.site.hosts.iter().map(|host| host.daemon.pid()).collect();
        let slaves = self.site.slaves.iter().map(|slave| slave.daemon.pid()).collect();
        [("conf-master", vec![self.site.master.daemon.pid()]), ("conf-slave", slaves), ("conf-local", hosts)]
    }
}

impl Racer for Ours<'_> {
    fn name(&self) -> (Kind, String) {
        (Kind::Ours, "this system".to_owned())
    }

    fn grow(&mut self, hosts: usize) {
        while self.readers.len() < hosts {
            let host = self.site.add_host();
            let reader = Reader::start(&host.export());
            host.watch(&[CHANGED], reader.pid());
            self.readers.push(reader);
        }
        self.site.wait_applied(self.site.master.sequence());
    }

    fn race(&mut self, round: usize) -> Duration {
        self.pusher.commit("config.yaml", &settings(CHANGED, round));
        last_signal(&self.readers, || {
            let (began, push) = self.pusher.start();
            (began, Some(push))
        })
    }
}

/// Starts a change, and returns the time until the last process has its signal.
pub(crate) fn last_signal(readers: &[Reader], start: impl FnOnce() -> (Instant, Option<Child>)) -> Duration {
    for reader in readers {
        reader.all_told();
    }
    let (began, push) = start();
    if let Some(push) = push {
        end(push);
    }
    let told: Vec<Told> = readers.iter().map(Reader::told).collect();
    let last = told.iter().map(|told| told.when).max().expect("there is a reader");
    last.saturating_duration_since(began)
}
