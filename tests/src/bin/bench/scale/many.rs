//! The cost of a change with more and more datacenters of one class.

use std::time::{Duration, Instant};

use tests::{
    Plan, Site,
    figures::{Curve, Spread},
    site::{Pointers, instance},
    usage::processor_time,
};

use crate::{fleet, options::Size};

/// The components of each datacenter.
const COMPONENTS: usize = 300;

/// Measures every number of datacenters.
pub(super) fn measure(size: Size) -> Vec<Curve> {
    let names = ["all datacenters have it", "one datacenter has it", "no datacenter has it"];
    let mut latency =
        Curve::new("datacenters-latency", "a push of one change, commit included", "datacenters", "ms", &names);
    let what = "processor time of conf-master for a push";
    let mut processor = Curve::new("datacenters-processor", what, "datacenters", "ms", &names);
    let plan = Plan {
        pointers: Pointers::Embedded,
        components: (0..COMPONENTS).map(|number| format!("services/s{number}")).collect(),
        ..Plan::default()
    };
    let site = plan.start_empty();
    site.populate();
    let mut there = 1;
    for datacenters in size.all_datacenters().iter().copied() {
        eprintln!("bench: {datacenters} datacenters");
        let mut change = site.work.change();
        for number in there..datacenters {
            change = change.file(&format!("datacenters/dc-{number}/v1"), "datacenter.yaml", instance());
        }
        if there < datacenters {
            change.land();
        }
        there = datacenters;
        let x = f64::from(u32::try_from(datacenters).unwrap_or(u32::MAX));
        let all = rounds(size, &site, "services/s0/master", "config.yaml", datacenters);
        let one = rounds(size, &site, "datacenters/us-west/v1", "overrides/services/s1.yaml", datacenters);
        let none = rounds(size, &site, "services/alone/master", "config.yaml", datacenters);
        latency.point(x, &[all.0, one.0, none.0]);
        processor.point(x, &[all.1, one.1, none.1]);
    }
    fleet::end(site);
    let meaning = "A change of all datacenters signs one snapshot for each. A change of one must not cost more when there are others.";
    vec![latency.means(meaning), processor.means(meaning)]
}

/// The median time of a push in milliseconds, and conf-master's processor time for one.
fn rounds(size: Size, site: &Site, branch: &str, path: &str, salt: usize) -> (f64, f64) {
    let master = [site.master.daemon.pid()];
    let before = processor_time(&master);
    let count = size.changes_of_scale();
    let took: Vec<Duration> = (0..count)
        .map(|round| {
            let change = site.work.change().file(branch, path, format!("round: {}\n", salt * 1000 + round));
            let began = Instant::now();
            change.land();
            began.elapsed()
        })
        .collect();
    let used = processor_time(&master).saturating_sub(before).as_secs_f64() * 1e3;
    (Spread::of_times(&took).median, used / f64::from(u32::try_from(count).unwrap_or(1)))
}
