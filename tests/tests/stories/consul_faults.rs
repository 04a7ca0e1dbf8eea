//! Consul loses what it had, forgets, lies, or is away: absence is never deletion, and nothing goes back.

use std::collections::BTreeMap;

use tests::{
    Plan, Poller, Reader, Site, eventually,
    site::{DATACENTER, Pointers},
};

const FILES: [&str; 2] = ["services/web/latest/round", "services/api/latest/round"];

fn authoritative() -> String {
    format!("configurations/snapshots/{DATACENTER}")
}

/// What Consul must hold.
fn wanted(site: &Site) -> BTreeMap<String, String> {
    let status = site.master.datacenter().expect("conf-master answers");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let mut keys: BTreeMap<String, String> = status["pins"]
        .as_array()
        .expect("pins")
        .iter()
        .map(|pin| {
            let value = format!("{}/{}", text(&pin["branch"]), text(&pin["commit"]));
            (format!("configurations/{}", text(&pin["component"])), value)
        })
        .collect();
    keys.insert(authoritative(), format!("{}/{}", status["sequence"], text(&status["commit"])));
    keys.insert("configurations/projection".to_owned(), DATACENTER.to_owned());
    keys
}

/// Waits until Consul holds what it must, no more and no less.
#[track_caller]
fn wait_right(site: &Site) {
    let wanted = wanted(site);
    eventually("Consul to hold exactly what the snapshot says", || {
        let found = site.consul().values("configurations/");
        if found == wanted { Ok(()) } else { Err(format!("{found:#?}\nwanted: {wanted:#?}")) }
    });
}

#[test]
fn consul_started_again_empty_is_filled_again_and_hosts_notice_nothing() {
    let mut site = Plan { hosts: 2, ..Plan::default() }.start();
    let poller = Poller::start(&site.host().export(), &FILES);
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());
    wait_right(&site);
    for round in 1..=3 {
        site.consul_mut().kill9();
        site.consul_mut().start_again();
        wait_right(&site);
        let content = format!("{round}\n");
        let change = site.work.change().file("services/web/master", "round", &content);
        change.file("services/api/master", "round", &content).land();
        let sequence = site.master.sequence();
        assert!(reader.told().sequence >= sequence);
        site.wait_applied(sequence);
        assert!(reader.all_told().is_empty());
    }
    poller.stop_unharmed();
}

#[test]
fn a_consul_backup_three_sequences_old_takes_nobody_back() {
    let site = Plan { hosts: 2, slaves: 2, ..Plan::default() }.start();
    wait_right(&site);
    let pollers: Vec<Poller> = site.hosts.iter().map(|host| Poller::start(&host.export(), &FILES)).collect();
    let backup = site.consul().backup();
    for _ in 0..2 {
        for round in 1..=3 {
            let content = format!("{round} {}\n", rand::random::<u32>());
            let change = site.work.change().file("services/web/master", "round", &content);
            change.file("services/api/master", "round", &content).land();
        }
        let sequence = site.master.sequence();
        site.wait_applied(sequence);
        site.consul().restore(&backup);
        wait_right(&site);
        assert!(site.hosts.iter().all(|host| host.sequence() == sequence));
    }
    // And they still follow.
    site.push_and_wait("devices/router", "round", "1\n");
    pollers.into_iter().for_each(|poller| drop(poller.stop_unharmed()));
}

#[test]
fn pointers_edited_by_hand_come_back_and_no_host_follows_them() {
    let mut site = Site::start();
    let first = site.master.snapshot();
    let sequence = site.push_and_wait("services/web", "round", "1\n");
    let snapshot = site.master.snapshot();
    let (poller, reader) = (Poller::start(&site.host().export(), &FILES[..1]), Reader::start(&site.host().export()));
    site.host().watch(&["services/web"], reader.pid());
    wait_right(&site);
    let tip = site.work.id("services/api/master");
    let unknown = "1234567890123456789012345678901234567890";
    let table = [
        ("a component's key", "configurations/services/web/latest".to_owned(), format!("master/{tip}")),
        ("a component's key, nonsense", "configurations/services/web/latest".to_owned(), "x".to_owned()),
        ("a key for what is not there", "configurations/services/nobody/latest".to_owned(), format!("master/{tip}")),
        ("an older snapshot, truly said", authoritative(), format!("{}/{first}", sequence - 1)),
        ("an older snapshot under a newer number", authoritative(), format!("{}/{first}", sequence + 1)),
        ("a huge number", authoritative(), format!("9223372036854775808/{snapshot}")),
        ("the hugest number", authoritative(), format!("18446744073709551615/{first}")),
        ("a huge number that names nothing", authoritative(), format!("18446744073709551615/{unknown}")),
        ("a number that is too large", authoritative(), format!("99999999999999999999999/{snapshot}")),
        ("the next number, naming nothing", authoritative(), format!("{}/{unknown}", sequence + 1)),
        ("a commit that is no snapshot", authoritative(), format!("{}/{tip}", sequence + 1)),
        ("nonsense", authoritative(), "hello".to_owned()),
        ("nothing", authoritative(), String::new()),
    ];
    for (what, key, value) in &table {
        site.consul().put(key, value);
        let wanted = wanted(&site);
        eventually(&format!("{what} to be put right"), || {
            let found = site.consul().values("configurations/");
            if found == wanted { Ok(()) } else { Err(format!("{found:#?}\nwanted: {wanted:#?}")) }
        });
        assert_eq!(site.host().sequence(), sequence, "{what}");
    }
    site.consul().delete("configurations/services/web/latest");
    wait_right(&site);
    site.consul().delete(&authoritative());
    wait_right(&site);
    site.consul().delete_all("configurations/");
    wait_right(&site);
    assert!(reader.all_told().is_empty(), "nobody was told of what was no change");
    // Also a slave that starts on such a value puts it right.
    site.slaves[0].daemon.stop();
    site.consul().put(&authoritative(), &format!("18446744073709551615/{unknown}"));
    site.slaves[0].daemon.start();
    wait_right(&site);
    let sequence = site.push("services/web", "round", "2\n");
    assert!(reader.told().sequence >= sequence);
    poller.stop_unharmed();
}

#[test]
fn while_consul_is_away_everyone_says_so_and_changes_arrive() {
    let plan = Plan { proxied: true, ..Plan::default() };
    let mut site = plan.start();
    let poller = Poller::start(&site.host().export(), &FILES);
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());
    site.to_consul[0].cut();
    let status =
        site.host().wait_status("say that Consul is away", |status| status["problems"].to_string().contains("onsul"));
    assert_eq!(status["sequence"], site.host().sequence());
    let sequence = site.push("services/web", "round", "0\nmore\n");
    site.slave().wait_at(sequence);
    eventually("the slave to say that it cannot publish", || {
        let status = site.slave().status()?;
        if status["problems"].to_string().contains("onsul") { Ok(()) } else { Err(status.to_string()) }
    });
    // The conf-slave itself tells its hosts.
    reader.told_of(sequence);
    assert_eq!(site.host().file(FILES[0]), "0\nmore\n");
    // A host that starts again meanwhile has its files too.
    site.hosts[0].daemon.kill9_and_restart();
    assert_eq!(site.host().file(FILES[0]), "0\nmore\n");
    site.to_consul[0].mend();
    site.host().wait_status("be well again", |status| status["problems"].as_array().is_some_and(Vec::is_empty));
    let seen = poller.stop();
    assert_eq!((seen.backwards, seen.failures.len()), (0, 0));
}

#[test]
fn a_consul_that_denies_is_said_in_words_and_nothing_is_lost() {
    let site = Plan { pointers: Pointers::DenyingConsul, ..Plan::default() }.start_empty();
    site.populate();
    let mut slave = site.make_slave(1);
    slave.daemon.start_unready();
    eventually("the slave to say that it is denied", || {
        let log = slave.daemon.log();
        let said = ["403", "ACL", "denied", "permission"].iter().any(|word| log.contains(word));
        if said { Ok(()) } else { Err(log) }
    });
    assert!(slave.daemon.is_running(), "{}", slave.daemon.log());
}

#[test]
fn another_snapshot_of_the_exported_number_is_a_problem_until_it_is_gone() {
    let mut site = Site::start();
    let first = site.master.snapshot();
    let sequence = site.push_and_wait("services/web", "round", "1\n");
    let right = format!("{sequence}/{}", site.master.snapshot());
    // Nobody puts it right meanwhile.
    site.slaves[0].daemon.kill9();
    site.consul().put(&authoritative(), &format!("{sequence}/{first}"));
    let refused = |status: &serde_json::Value| status["problems"].to_string().contains("this host has taken");
    site.host().wait_status("say that it refuses the pointer", refused);
    // A change of the status for another reason leaves the problem.
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());
    assert!(refused(&site.host().status().expect("it answers")));
    site.consul().put(&authoritative(), &format!("{}/{first}", sequence - 1));
    site.host().wait_status("say that the pointer went back", |status| {
        status["problems"].to_string().contains("no host goes back")
    });
    site.consul().put(&authoritative(), &right);
    site.slaves[0].daemon.start();
    site.host().wait_status("be well again", |status| status["problems"] == serde_json::json!([]));
    assert_eq!(site.host().sequence(), sequence);
}
