//! Daemons that end as in a power cut, at any moment, and are started again.

use std::{
    os::unix::process::CommandExt as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rand::Rng as _;
use rustix::process::{Pid, Signal, kill_process_group};
use tests::{
    Daemon, Plan, Poller, Proxy, Reader, Site, Work, eventually,
    program::{descendants, signal_pid},
};

const ROUNDS: u64 = 40;
const FEWEST_KILLS: u64 = 5;

/// Pushes one change after another to two services; a push whose end nobody knows is made again until it is accepted.
fn push_stream(work: &Work, rounds: std::ops::RangeInclusive<u64>) {
    for round in rounds {
        let content = format!("{round}\n");
        let change = work.change().file("services/web/master", "round", &content);
        change.file("services/api/master", "round", &content).commit();
        eventually(&format!("round {round} to be accepted"), || {
            let outcome = work.push(&["refs/heads/services/web/master", "refs/heads/services/api/master"]);
            if outcome.ok { Ok(()) } else { Err(outcome.text) }
        });
    }
}

/// Kills a daemon again and again, each time at some moment of its work, until told to stop; counts how often. The kills
/// come less and less often, so that pushes get through on a slow machine too.
fn storm(daemon: &mut Daemon, over: &AtomicBool, kills: &AtomicU64) {
    while !over.load(Ordering::Relaxed) {
        let so_far = kills.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(rand::rng().random_range(5..400 + 20 * so_far)));
        daemon.kill9_and_restart();
        kills.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends with all hosts on the last change, every repository whole and the ledger unbroken.
fn expect_the_last(site: &Site, before: u64, rounds: u64) {
    let last = site.master.sequence();
    assert_eq!(last, before + rounds, "every change is counted once, whatever was pushed again");
    site.wait_applied(last);
    for host in &site.hosts {
        for service in ["web", "api"] {
            assert_eq!(host.file(&format!("services/{service}/latest/round")), format!("{rounds}\n"));
        }
    }
    site.expect_whole();
}

/// A storm over one of the daemons while changes are pushed.
fn survives(plan: Plan, choose: impl for<'a> FnOnce(&'a mut Site) -> (&'a mut Daemon, &'a Work)) {
    let mut site = plan.start();
    let before = site.master.sequence();
    let files = ["services/web/latest/round", "services/api/latest/round"];
    let pollers: Vec<Poller> = site.hosts.iter().map(|host| Poller::start(&host.export(), &files)).collect();
    let (daemon, work) = choose(&mut site);
    let (over, kills) = (AtomicBool::new(false), AtomicU64::new(0));
    let rounds = thread::scope(|scope| {
        let killer = scope.spawn(|| storm(daemon, &over, &kills));
        // Also when pushing fails, the other thread must come to its end.
        let pushed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut rounds = ROUNDS;
            push_stream(work, 1..=rounds);
            // A daemon may take long to start.
            while kills.load(Ordering::Relaxed) < FEWEST_KILLS && rounds < 10 * ROUNDS && !killer.is_finished() {
                rounds += 1;
                push_stream(work, rounds..=rounds);
            }
            rounds
        }));
        over.store(true, Ordering::Relaxed);
        let killer = killer.join();
        let rounds = pushed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        killer.expect("the daemon starts again");
        rounds
    });
    let kills = kills.into_inner();
    assert!(kills >= FEWEST_KILLS, "only {kills} kills in {rounds} changes");
    expect_the_last(&site, before, rounds);
    pollers.into_iter().for_each(|poller| drop(poller.stop_unharmed()));
}

#[test]
fn conf_master_killed_at_random_moments_loses_no_accepted_change() {
    survives(Plan { hosts: 2, ..Plan::default() }, |site| (&mut site.master.daemon, &site.work));
}

#[test]
fn conf_slave_killed_at_random_moments_delivers_the_last_change() {
    survives(Plan { hosts: 2, ..Plan::default() }, |site| (&mut site.slaves[0].daemon, &site.work));
}

#[test]
fn conf_local_killed_at_random_moments_shows_whole_snapshots_only_and_ends_on_the_last() {
    survives(Plan { hosts: 2, ..Plan::default() }, |site| (&mut site.hosts[0].daemon, &site.work));
}

#[test]
fn conf_master_killed_between_two_bursts_goes_on_with_the_next_number() {
    let mut site = Site::start();
    let before = site.master.sequence();
    push_stream(&site.work, 1..=10);
    site.master.daemon.kill9_and_restart();
    assert_eq!(site.master.sequence(), before + 10);
    push_stream(&site.work, 11..=20);
    expect_the_last(&site, before, 20);
}

#[test]
fn a_host_that_restarts_while_conf_master_is_down_has_its_files_and_catches_up_later() {
    let mut site = Site::start();
    let sequence = site.push_and_wait("services/web", "round", "1\n");
    let address = site.master.address;
    site.master.daemon.kill9();
    site.hosts[0].daemon.kill9_and_restart();
    site.wait_applied(sequence);
    assert_eq!(site.host().file("services/web/latest/round"), "1\n");
    // It learns of the next change when the centre is back.
    site.master.daemon.start();
    assert_eq!(site.master.address, address);
    site.push_and_wait("services/web", "round", "2\n");
    assert_eq!(site.host().file("services/web/latest/round"), "2\n");
}

#[test]
fn a_host_starts_with_nothing_reachable_and_serves_what_it_had() {
    let mut site = Site::start();
    let sequence = site.push_and_wait("services/web", "round", "1\n");
    site.hosts[0].daemon.stop();
    site.master.daemon.kill9();
    site.slaves[0].daemon.kill9();
    site.consul_mut().kill9();
    site.hosts[0].daemon.start();
    site.host().wait_status("serve what it had", |status| status["sequence"] == sequence);
    assert_eq!(site.host().file("services/web/latest/round"), "1\n");
    site.host().wait_status("say what it cannot reach", |status| status["problems"].to_string().contains("onsul"));
    let got = site.host().http().get_json("/v1/config/services/web").expect("the local service answers");
    assert_eq!(got["component"], "services/web");
}

#[test]
fn a_duty_to_tell_survives_the_agent_that_had_it() {
    let mut site = Site::start();
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());
    for round in 1..=10 {
        let sequence = site.push("services/web", "round", &format!("{round}\n"));
        thread::sleep(Duration::from_millis(rand::rng().random_range(0..60)));
        site.hosts[0].daemon.kill9_and_restart();
        site.wait_applied(sequence);
        // It may be told twice by an agent that died before it could note that it had told; never not at all.
        reader.told_of(sequence);
    }
}

/// Pushes much, and kills the program that reads it. Returns how long the client waited then; `None` if the push was over
/// before.
fn killed_while_it_reads(site: &Site) -> Option<Duration> {
    let work = &site.work;
    // Git is started when the whole push is there, and is at work on so much for a while.
    let mut noise = vec![0; 30 << 20];
    rand::rng().fill(&mut noise[..]);
    let change = work.change().file("services/web/master", "noise", &noise);
    noise.reverse();
    change.file("services/web/master", "more-noise", &noise).commit();
    let mut push = work.command();
    push.args(["push", "-q", "origin", "refs/heads/services/web/master"]);
    push.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut push = tests::program::spawn(push).expect("git can be run");
    let receiving = eventually("receive-pack to read the pack, or the push to end", || {
        let found = descendants(site.master.daemon.pid());
        let all = format!("{found:?}");
        // Not those of the requests before, which list the refs and try whether a push is allowed: they read no pack.
        let reads_a_pack = found.iter().any(|one| one.1.contains("index-pack"));
        let receives = |command: &str| reads_a_pack && command.contains("receive-pack --stateless-rpc /");
        let found = found.into_iter().find(|one| receives(&one.1));
        let is_over = push.try_wait().expect("it is ours").is_some();
        if found.is_some() || is_over { Ok(found) } else { Err(all) }
    })?;
    signal_pid(receiving.0, rustix::process::Signal::KILL);
    let killed = Instant::now();
    let status = push.wait().expect("it is ours");
    assert!(!status.success(), "a push whose receiver was killed says that it succeeded");
    Some(killed.elapsed())
}

#[test]
fn a_push_whose_receive_pack_is_killed_ends_within_two_seconds_and_lands_when_made_again() {
    let site = Plan { hosts: 0, slaves: 0, pointers: tests::site::Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    // What git needs here and now to ask the same server something: two seconds are promised beside that.
    let asked = Instant::now();
    site.work.git(&["ls-remote", "--quiet", "origin"]);
    let limit = Duration::from_secs(2) + asked.elapsed() * 10;
    // A machine that is busy at that moment is no fault; a server that does not notice is slow each time.
    let mut waited: Vec<Duration> = Vec::new();
    for _ in 0..5 {
        waited.extend(killed_while_it_reads(&site));
        if waited.last().is_some_and(|took| *took < limit) {
            break;
        }
    }
    assert!(waited.last().is_some_and(|took| *took < limit), "the client waited {waited:?}, and may {limit:?}");

    let before = site.master.sequence();
    site.work.push(&["refs/heads/services/web/master"]).accepted();
    assert_eq!(site.master.sequence(), before + 1);
    tests::site::fsck(&site.master.repo);
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_a_push_leaves_nothing_behind() {
    let site = Plan { hosts: 0, slaves: 0, pointers: tests::site::Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    let proxy = Proxy::start(site.master.address);
    let work = &site.work;
    work.git(&["remote", "set-url", "origin", &format!("{}/conf.git", proxy.url())]);
    let mut noise = vec![0; 4 << 20];
    rand::rng().fill(&mut noise[..]);
    work.change().file("services/web/master", "noise", &noise).commit();
    let before = site.master.sequence();
    for kept in [4 << 10, 1 << 20, 2 << 20] {
        proxy.hold_after(kept);
        let mut push = work.command();
        push.args(["push", "-q", "origin", "refs/heads/services/web/master"]);
        push.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        // Git starts others that speak for it; all of them go away.
        push.process_group(0);
        let mut push = tests::program::spawn(push).expect("git can be run");
        eventually("the pack to be on its way", || {
            let asked = proxy.requests();
            let sends = |request: &tests::proxy::Request| request.line.starts_with("POST /conf.git/git-receive-pack");
            if asked.iter().any(sends) { Ok(()) } else { Err(format!("{asked:?}")) }
        });
        let group = i32::try_from(push.id()).ok().and_then(Pid::from_raw).expect("a process id is positive");
        kill_process_group(group, Signal::KILL).expect("it is ours");
        push.wait().expect("it is ours");
        proxy.cut();
        proxy.mend();
        proxy.reset();
    }
    eventually("the server's own git processes to end", || {
        let left = descendants(site.master.daemon.pid());
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    assert_eq!(site.master.sequence(), before);
    work.push(&["refs/heads/services/web/master"]).accepted();
    let left = site.master.git(&["count-objects", "-v"]);
    assert!(left.contains("garbage: 0"), "{left}");
}
