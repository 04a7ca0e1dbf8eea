//! What a day costs each tier, from what was measured of one change and of one idle minute.

use tests::figures::{Day, Hop, three};

const MINUTES: f64 = 24.0 * 60.0;
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// A fleet.
struct Fleet {
    name: &'static str,
    datacenters: f64,
    /// The hosts of each datacenter.
    hosts: f64,
    /// The changes that each datacenter has in a day.
    changes: f64,
}

/// The fleets that are computed: as the system was first described, and the extreme of it.
const FLEETS: [Fleet; 2] = [
    Fleet {
        name: "100 datacenters of 100 hosts, 30 applications, 3 changes of each a day",
        datacenters: 100.0,
        hosts: 100.0,
        changes: 90.0,
    },
    Fleet {
        name: "100 datacenters of 100 hosts, 3,000 applications, 3 changes of each a day",
        datacenters: 100.0,
        hosts: 100.0,
        changes: 9000.0,
    },
];

/// Computes the days. `measured` holds what passes to conf-master, to conf-slave and to Consul.
pub(super) fn of_fleets(measured: &[Hop]) -> Vec<Day> {
    let [to_master, to_slave, to_consul] = measured else { return Vec::new() };
    let mut days = Vec::new();
    for fleet in FLEETS {
        let rows = [
            ("conf-master, from all datacenters", to_master, fleet.datacenters),
            ("the conf-slave of a datacenter, from all hosts", to_slave, fleet.hosts),
            ("Consul of a datacenter, from all hosts", to_consul, fleet.hosts),
            ("conf-slave, from one host", to_slave, 1.0),
        ];
        for (tier, hop, askers) in rows {
            let of_day = |change: f64, minute: f64| askers * (change * fleet.changes + minute * MINUTES);
            days.push(Day {
                fleet: fleet.name.to_owned(),
                tier: tier.to_owned(),
                requests: three(of_day(hop.requests, hop.idle_requests)),
                mebibytes: three(of_day(hop.bytes, hop.idle_bytes) / MEBIBYTE),
            });
        }
    }
    days
}
