//! The cost of a change of one component, with more and more components beside it.

use std::{thread, time::Duration};

use tests::{
    figures::{Curve, Spread},
    usage::processor_time,
};

use crate::{
    fleet::{self, BRANCH, CHANGED, settings},
    options::Size,
    pusher::Pusher,
    race::{Ours, Racer as _},
};

/// Measures every number of components.
pub(super) fn measure(size: Size) -> Vec<Curve> {
    let tiers = ["conf-master", "conf-slave", "conf-local"];
    let names = ["`git push` ends", "the process has its signal"];
    let mut latency = Curve::new("components-latency", "a change of one component", "components", "ms", &names);
    let what = "processor time of each tier for a change of one component";
    let mut processor = Curve::new("components-processor", what, "components", "ms", &tiers);
    let names = ["from conf-master to conf-slave"];
    let mut bytes = Curve::new("components-bytes", "bytes of answers for a change", "components", "bytes", &names);
    for components in size.components().iter().copied() {
        eprintln!("bench: {components} components");
        let mut site = fleet::start_counted(components, 1);
        let pusher = Pusher::clone_of(&site.master.git_url(), BRANCH, &site.folder.path().join("clone"));
        let passed = |site: &tests::Site| {
            let requests = site.slave().to_central.as_ref().map(tests::Proxy::requests).unwrap_or_default();
            requests.iter().map(|request| request.received).sum::<u64>()
        };
        fleet::settle(size, &[site.slave().daemon.pid()]);
        let before = passed(&site);
        let mut pushes = Vec::new();
        for round in 0..size.changes_of_scale() {
            pusher.commit("config.yaml", &settings(CHANGED, 50_000 + round));
            pushes.push(pusher.push());
            thread::sleep(size.pause());
        }
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
        let of_one = (passed(&site) - before) as f64 / count(size);
        let mut ours = Ours::new(&mut site, pusher);
        ours.grow(1);
        ours.race(60_000);
        let pids = ours.tiers().map(|(_, pids)| pids);
        let times = || pids.each_ref().map(|pids| processor_time(pids));
        let began = times();
        let mut signals: Vec<Duration> = Vec::new();
        for round in 1..=size.changes_of_scale() {
            signals.push(ours.race(60_000 + round));
            thread::sleep(size.pause());
        }
        let used = times();
        let x = f64::from(u32::try_from(components).unwrap_or(u32::MAX));
        let of_tier = |tier: usize| used[tier].saturating_sub(began[tier]).as_secs_f64() * 1e3 / count(size);
        latency.point(x, &[Spread::of_times(&pushes).median, Spread::of_times(&signals).median]);
        processor.point(x, &[of_tier(0), of_tier(1), of_tier(2)]);
        bytes.point(x, &[of_one]);
        drop(ours);
        fleet::end(site);
    }
    let meaning = "What follows the number of components is work for what did not change. Flat is best.";
    vec![
        latency.means(meaning),
        processor.means(meaning),
        bytes.means("A step holds what changed, and the trees above it."),
    ]
}

fn count(size: Size) -> f64 {
    f64::from(u32::try_from(size.changes_of_scale()).unwrap_or(1))
}
