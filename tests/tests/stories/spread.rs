//! Hosts that name several conf-slaves: how many ask each of them, while one dies and returns.

use std::{
    collections::VecDeque,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use tests::{Plan, Site, Slave, eventually_within, site::Pointers, stalled_since};

/// The number of hosts that listen to a conf-slave; none to one that is away.
fn listening(slave: &Slave) -> usize {
    let answer = slave.http().get("/metrics").map(|answer| answer.text()).unwrap_or_default();
    let line = answer.lines().find_map(|line| line.strip_prefix("conf_slave_streams "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or_default()
}

fn all_listening(site: &Site) -> Vec<usize> {
    site.slaves.iter().map(listening).collect()
}

/// Waits until so many hosts listen; returns how many to each.
fn wait_listening(site: &Site, hosts: usize, within: Duration) -> Vec<usize> {
    eventually_within(within, "every host to listen to one conf-slave", || {
        let all = all_listening(site);
        if all.iter().sum::<usize>() == hosts { Ok(all) } else { Err(format!("{all:?} of {hosts}")) }
    })
}

/// The requests that have passed to a conf-slave.
fn requests(slave: &Slave) -> usize {
    slave.proxy.as_ref().expect("a proxy").requests().len()
}

/// The most of what came within any second.
#[derive(Default)]
struct Peak {
    seen: VecDeque<(Instant, usize)>,
    most: usize,
}

impl Peak {
    fn see(&mut self, total: usize) {
        let now = Instant::now();
        self.seen.push_back((now, total));
        while self.seen.front().is_some_and(|(when, _)| now - *when > Duration::from_secs(1)) {
            self.seen.pop_front();
        }
        let first = self.seen.front().map_or(total, |(_, total)| *total);
        self.most = self.most.max(total.saturating_sub(first));
    }
}

/// The fewest and the most of so many hosts that choose one of `servers` by a hash: 4.5 standard
/// deviations, since the addresses differ each time; and 45 % of many at most.
fn bounds(hosts: usize, servers: usize) -> RangeInclusive<usize> {
    let (each, variance) = (hosts / servers, hosts * (servers - 1) / (servers * servers));
    let deviations = variance.isqrt() * 9 / 2;
    let most = each + deviations;
    let most = if hosts > 200 && servers == 3 { most.min(hosts * 45 / 100) } else { most };
    each.saturating_sub(deviations).max(1)..=most
}

/// Three conf-slaves with so many hosts: one dies, and returns.
fn spread(hosts: usize) {
    let mut site = Plan { slaves: 3, hosts, proxied: true, ..Plan::default() }.start();
    let before = wait_listening(&site, hosts, Duration::from_secs(60));
    println!("{hosts} hosts listen to three conf-slaves: {before:?}");
    assert!(before.iter().all(|count| bounds(hosts, 3).contains(count)), "{before:?}");

    let start = Instant::now();
    site.slaves[0].daemon.kill9();
    let without = wait_listening(&site, hosts, Duration::from_secs(60));
    let took = start.elapsed();
    println!("one dies: after {:.2} s they listen to the others: {without:?}", took.as_secs_f64());
    assert!(took < Duration::from_secs(5) + stalled_since(start), "{took:?}");
    assert!(without[1..].iter().all(|count| bounds(hosts, 2).contains(count)), "{without:?}");
    for place in 1..3 {
        assert!(without[place] > before[place], "all others take some: {before:?}, {without:?}");
    }
    site.push_and_wait("services/web", "round", "while one is away\n");

    let (proxied, own) = (requests(&site.slaves[0]), before[0]);
    site.slaves[0].daemon.start();
    let (start, mut came, mut asked) = (Instant::now(), Peak::default(), Peak::default());
    let (mut pushed, mut half) = (false, None);
    let after = eventually_within(Duration::from_secs(150), "all hosts to come back", || {
        let all = all_listening(&site);
        came.see(all[0]);
        asked.see(requests(&site.slaves[0]) - proxied);
        if all[0] >= own / 2 && half.is_none() {
            half = Some(start.elapsed());
        }
        if all[0] > 0 && !pushed {
            pushed = true;
            site.push("services/web", "round", "while it comes back\n");
        }
        if all == before { Ok(all) } else { Err(format!("{all:?}, and were {before:?}")) }
    });
    let (took, half) = (start.elapsed().as_secs_f64(), half.unwrap_or_default().as_secs_f64());
    let all_asked = requests(&site.slaves[0]) - proxied;
    println!("it returns: half of its hosts are back after {half:.1} s, all after {took:.1} s: {after:?}");
    println!("at most {} came in one second; {all_asked} requests, at most {} in one second", came.most, asked.most);
    assert!(took > 10.0, "they came back in {took} s");
    assert!(came.most <= (own / 5).max(5), "{} of {own} came in one second", came.most);
    site.wait_applied(site.master.sequence());
}

#[test]
fn sixty_hosts_spread_over_three_conf_slaves_and_come_back_to_one_without_a_herd() {
    spread(60);
}

#[test]
#[ignore = "long: 300 hosts as processes"]
fn three_hundred_hosts_spread_over_three_conf_slaves_and_come_back_to_one_without_a_herd() {
    spread(300);
}

#[test]
fn a_conf_slave_that_is_full_sends_hosts_to_another_and_is_no_failure() {
    let slave_flags = ["--most-streams", "8"].map(str::to_owned).into();
    let plan = Plan { slaves: 2, hosts: 8, pointers: Pointers::Embedded, slave_flags, ..Plan::default() };
    let site = plan.start();
    // All of them have one address, which has half of the places.
    let all = wait_listening(&site, 8, Duration::from_secs(60));
    assert_eq!(all, [4, 4]);
    let sequence = site.push_and_wait("services/web", "round", "1\n");
    for host in &site.hosts {
        let status = host.status().expect("it answers");
        assert_eq!(
            (status["state"].as_str(), status["sequence"].as_u64()),
            (Some("current"), Some(sequence)),
            "{status}"
        );
    }
}
