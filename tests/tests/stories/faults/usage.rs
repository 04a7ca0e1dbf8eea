//! What the daemons use, and whether it grows with the time that they run and the faults that they see.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use tests::usage::{bytes_below, own_memory};

use crate::faults::fault::Who;
use crate::faults::scene::Scene;

const MIB: u64 = 1 << 20;

/// What one kind of daemon used at one moment: the most of all of them.
#[derive(Clone, Copy, Debug, Default)]
struct Most {
    memory: u64,
    descriptors: usize,
    disk: u64,
}

/// What was used, seen at a few moments.
#[derive(Default)]
pub(super) struct Usage {
    seen: Vec<BTreeMap<&'static str, Most>>,
}

/// What a daemon has open at most: a hundred packs, before they become one, and its connections.
const DESCRIPTORS: usize = 200;

/// How often it is looked at.
const LOOKS: u32 = 8;

impl Usage {
    /// Looks, where it is time for it.
    pub(super) fn see(&mut self, scene: &Scene, after: Duration, of: Duration) {
        let due = of * u32::try_from(self.seen.len()).unwrap_or(LOOKS) / LOOKS;
        if after < due {
            return;
        }
        let mut all: BTreeMap<&'static str, Most> = BTreeMap::new();
        for who in scene.daemons() {
            let kind = match who {
                Who::Master | Who::Standby => "conf-master",
                Who::Slave(_) => "conf-slave",
                _ => "conf-local",
            };
            let (pid, most) = (scene.pid(who), all.entry(kind).or_default());
            // A git that packs at that moment is no growth.
            most.memory = most.memory.max(own_memory(pid).private);
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
            most.descriptors = most.descriptors.max(descriptors);
            most.disk = most.disk.max(bytes_below(&scene.state(who)));
        }
        for (kind, Most { memory, descriptors, disk }) in &all {
            let (memory, disk) = (memory / 1024, disk / 1024);
            let seconds = after.as_secs();
            println!(
                "{seconds:5} s {kind}: at most {memory} KiB private, {descriptors} descriptors, {disk} KiB on the disk"
            );
        }
        self.seen.push(all);
    }

    /// Expects the last look to show hardly more than the second one: the first is one of programs that
    /// have just started. The history grows on the disks of those that keep it.
    #[track_caller]
    pub(super) fn expect_flat(&self, changes: usize) {
        let [_, second, .., last] = &self.seen[..] else { panic!("only {} looks", self.seen.len()) };
        for (kind, then) in second {
            let now = last[kind];
            let history = if *kind == "conf-local" { 0 } else { changes as u64 * 32 * 1024 };
            assert!(now.memory <= then.memory * 3 / 2 + 8 * MIB, "the memory of {kind}: {then:?}, then {now:?}");
            let descriptors = (then.descriptors + 32).max(DESCRIPTORS);
            assert!(now.descriptors <= descriptors, "the descriptors of {kind}: {then:?}, then {now:?}");
            assert!(now.disk <= then.disk * 3 / 2 + 8 * MIB + history, "the disk of {kind}: {then:?}, then {now:?}");
        }
    }
}
