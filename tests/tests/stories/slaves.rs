//! Caches of a datacenter: emptied, cloned anew, lagging, several at once.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use tests::{
    Plan, Poller, Reader, Site, eventually,
    site::{CLASS, DATACENTER, class},
    wire,
};

const FILES: [&str; 2] = ["services/web/latest/round", "services/api/latest/round"];

#[test]
fn an_emptied_slave_serves_again_by_itself() {
    let mut site = Plan { hosts: 2, ..Plan::default() }.start();
    let pollers: Vec<Poller> = site.hosts.iter().map(|host| Poller::start(&host.export(), &FILES)).collect();
    for round in 1..=3 {
        site.slaves[0].empty_and_restart();
        let content = format!("{round}\n");
        let change = site.work.change().file("services/web/master", "round", &content);
        change.file("services/api/master", "round", &content).land();
        site.wait_applied(site.master.sequence());
        assert_eq!(site.hosts[1].file(FILES[0]), content);
    }
    site.expect_whole();
    pollers.into_iter().for_each(|poller| drop(poller.stop_unharmed()));
}

#[test]
fn a_slave_without_a_state_folder_keeps_everything_in_a_temporary_one() {
    let mut site = Site::start();
    let arguments = site.slaves[0].daemon.arguments();
    let at = arguments.iter().position(|argument| argument == "--state").expect("the flag is there");
    arguments.drain(at..at + 2);
    site.slaves[0].daemon.restart();
    site.push_and_wait("services/web", "round", "1\n");
    site.slaves[0].daemon.kill9_and_restart();
    site.push_and_wait("services/web", "round", "2\n");
}

#[test]
fn a_slave_cloned_anew_under_its_hosts_still_gives_them_small_steps() {
    let mut site = Plan { hosts: 2, proxied: true, ..Plan::default() }.start();
    // Something large, which no step may carry again.
    let noise: Vec<u8> = (0..1 << 20).map(|_| rand::random()).collect();
    site.work.change().file("services/web/master", "noise", &noise).land();
    site.wait_applied(site.master.sequence());
    site.slaves[0].empty_and_restart();
    site.slaves[0].wait_at(site.master.sequence());
    let proxy = site.slaves[0].proxy.as_ref().expect("a proxy");
    proxy.reset();
    site.push_and_wait("services/api", "round", "1\n");
    let requests = proxy.git_requests();
    let received: u64 = requests.iter().map(|request| request.received).sum();
    assert!(!requests.is_empty(), "the hosts asked the slave");
    assert!(received < 64 << 10, "hosts fetched {received} bytes for a small change: {requests:?}");
}

#[test]
fn hosts_go_to_another_slave_or_to_the_centre_when_theirs_is_away() {
    let mut site = Plan { slaves: 2, hosts: 2, proxied: true, ..Plan::default() }.start();
    site.slaves[0].daemon.kill9();
    site.push_and_wait("services/web", "round", "1\n");
    // The other still publishes, but no host reaches it.
    site.slaves[1].proxy.as_ref().expect("a proxy").cut();
    site.master.proxy.as_ref().expect("a proxy").reset();
    site.push_and_wait("services/web", "round", "2\n");
    assert!(!site.master.proxy.as_ref().expect("a proxy").git_requests().is_empty(), "the centre was asked");
    site.slaves[1].proxy.as_ref().expect("a proxy").mend();
    site.slaves[0].daemon.start();
    site.push_and_wait("services/web", "round", "3\n");
}

#[test]
fn a_lagging_slave_takes_nothing_back() {
    let site = Plan { slaves: 2, hosts: 2, proxied: true, ..Plan::default() }.start();
    let pollers: Vec<Poller> = site.hosts.iter().map(|host| Poller::start(&host.export(), &FILES)).collect();
    let lagging = site.slaves[1].to_central.as_ref().expect("a proxy");
    for round in 1..=5 {
        lagging.cut();
        for part in ["a", "b", "c"] {
            let content = format!("{round}{part}\n");
            let change = site.work.change().file("services/web/master", "round", &content);
            change.file("services/api/master", "round", &content).land();
        }
        let sequence = site.master.sequence();
        site.wait_applied(sequence);
        lagging.mend();
        site.slaves[1].wait_at(sequence);
        let wanted = format!("{sequence}/{}", site.master.snapshot());
        eventually("Consul to name it", || {
            let found = site.consul().get(&format!("configurations/snapshots/{DATACENTER}")).map(|one| one.value);
            if found.as_deref() == Some(&*wanted) { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }
    pollers.into_iter().for_each(|poller| drop(poller.stop_unharmed()));
}

/// A change of more keys than one transaction holds, while one slave lags and the one that leads is killed.
#[test]
fn a_change_of_85_keys_with_a_lagging_slave_ends_with_every_key_right() {
    let names: Vec<String> = (0..85).map(|number| format!("services/s{number:02}")).collect();
    let mut components = names.clone();
    components.extend(["services/web".to_owned(), "services/api".to_owned()]);
    let mut site = Plan { slaves: 2, proxied: true, components, ..Plan::default() }.start();
    let wanted = |site: &Site| -> BTreeMap<String, String> {
        let status = site.master.datacenter().expect("conf-master answers");
        let pins = status["pins"].as_array().expect("pins").iter();
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        pins.map(|pin| {
            let value = format!("{}/{}", text(&pin["branch"]), text(&pin["commit"]));
            (format!("configurations/{}", text(&pin["component"])), value)
        })
        .collect()
    };
    // Somebody who follows the keys, the authoritative one too: what they say of their change never falls, for any of them.
    let over = AtomicBool::new(false);
    let consul_watch = |consul: &tests::Consul| {
        let mut highest: BTreeMap<String, u64> = BTreeMap::new();
        let mut fallen = Vec::new();
        while !over.load(Ordering::Relaxed) {
            for (key, entry) in consul.list("configurations/s") {
                let before = highest.entry(key.clone()).or_default();
                if entry.flags < *before {
                    fallen.push(format!("{key}: {before} -> {}", entry.flags));
                }
                *before = entry.flags.max(*before);
            }
        }
        fallen
    };
    let Site { consuls, slaves, work, .. } = &mut site;
    let consul = &consuls[0];
    let fallen = thread::scope(|scope| {
        let follower = scope.spawn(|| consul_watch(consul));
        let (leading, lagging) = slaves.split_at_mut(1);
        let cut = lagging[0].to_central.as_ref().expect("a proxy");
        for round in 1..=6 {
            cut.cut();
            let mut change = work.change();
            for name in &names {
                change = change.file(&format!("{name}/master"), "round", format!("{round}\n"));
            }
            change.land();
            if round % 2 == 0 {
                leading[0].daemon.kill9_and_restart();
            }
            cut.mend();
        }
        over.store(true, Ordering::Relaxed);
        follower.join().expect("the follower does not fail")
    });
    assert!(fallen.is_empty(), "keys went back: {fallen:?}");
    let sequence = site.master.sequence();
    site.wait_applied(sequence);
    let wanted = wanted(&site);
    assert_eq!(wanted.len(), 87);
    eventually("every key to be right", || {
        let mut found = site.consul().values("configurations/");
        found.retain(|key, _| !key.starts_with("configurations/snapshots/") && key != "configurations/projection");
        if found == wanted { Ok(()) } else { Err(format!("{found:#?}\nwanted: {wanted:#?}")) }
    });

    // Fewer components than before, by more than one transaction holds: the keys of the rest go, each by its name.
    site.work
        .change()
        .file(CLASS, "datacenter.yaml", class(&[("services/web", "master", "latest")]))
        .option("--push-option=allow-shrink")
        .land();
    site.wait_applied(site.master.sequence());
    site.consul().put("configurations/services-of-mine", "not theirs");
    eventually("the keys of what is not run any more to go", || {
        let found: Vec<String> = site.consul().values("configurations/services").into_keys().collect();
        let rest = ["configurations/services-of-mine", "configurations/services/web/latest"];
        if found == rest { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn two_slaves_and_the_centre_answer_a_step_with_the_same_bytes() {
    let site = Plan { slaves: 2, hosts: 0, ..Plan::default() }.start();
    let have = site.master.snapshot();
    let sequence = site.push("services/web", "round", "1\n");
    let want = site.master.snapshot();
    site.slaves.iter().for_each(|slave| slave.wait_at(sequence));
    let request = wire::step(&want, &have);
    let servers = [site.master.http(), site.slaves[0].http(), site.slaves[1].http()];
    let answers = servers.map(|server| wire::fetch(&server, &request).expect("an answer"));
    for answer in &answers {
        assert_eq!(answer.status, 200);
        assert!(answer.body.windows(4).any(|bytes| bytes == b"PACK"), "{}", answer.text());
        assert!(answer.body.len() < 4096, "{} bytes for one line", answer.body.len());
    }
    let lengths: Vec<usize> = answers.iter().map(|answer| answer.body.len()).collect();
    assert!(answers.iter().all(|answer| answer.body == answers[0].body), "the answers have {lengths:?} bytes");
    // Asked again, each says what it said.
    for server in std::iter::once(site.master.http()).chain(site.slaves.iter().map(tests::Slave::http)) {
        assert_eq!(wire::fetch(&server, &request).expect("an answer").body, answers[0].body, "{server:?}");
    }
}

#[test]
fn slaves_show_their_hosts_and_the_centre_shows_them_all() {
    let mut site = Plan { slaves: 1, hosts: 2, ..Plan::default() }.start();
    let sequence = site.push_and_wait("services/web", "round", "1\n");
    let all_current = |answer: &serde_json::Value| {
        let hosts = answer.as_array().or_else(|| answer["hosts"].as_array()).cloned().unwrap_or_default();
        hosts.len() == 2 && hosts.iter().all(|host| host["sequence"] == sequence && host["state"] == "current")
    };
    eventually("the slave to show both hosts", || {
        let answer = site.slave().http().get_json("/api/v1/hosts")?;
        if all_current(&answer) { Ok(()) } else { Err(answer.to_string()) }
    });
    eventually("the centre to show both hosts", || {
        let answer = site.master.http().get_json(&format!("/api/v1/datacenters/{DATACENTER}/hosts"))?;
        if all_current(&answer) { Ok(()) } else { Err(answer.to_string()) }
    });
    // A host that stays behind is shown as what it last was.
    site.hosts[1].daemon.kill9();
    let next = site.push("services/web", "round", "2\n");
    site.hosts[0].wait_applied(next);
    eventually("the centre to show who is late", || {
        let answer = site.master.http().get_json(&format!("/api/v1/datacenters/{DATACENTER}/hosts"))?;
        let hosts = answer.as_array().or_else(|| answer["hosts"].as_array()).cloned().unwrap_or_default();
        let at = |name: &str| hosts.iter().find(|host| host["host"] == name).map(|host| host["sequence"].clone());
        let right = at("web-1") == Some(next.into()) && at("web-2") == Some(sequence.into());
        if right { Ok(()) } else { Err(answer.to_string()) }
    });
}

#[test]
fn a_slave_told_by_its_reader_of_every_change_in_order() {
    let site = Site::start();
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());
    let mut told = Vec::new();
    for round in 1..=20 {
        let sequence = site.push("services/web", "round", &format!("{round}\n"));
        told.push(reader.told().sequence);
        assert!(told.last() >= Some(&sequence));
    }
    assert!(told.is_sorted(), "{told:?}");
}

#[test]
fn a_slave_that_refuses_the_central_history_is_not_ready_and_its_hosts_say_so() {
    let mut site = Site::start();
    site.push_and_wait("services/web", "round", "1\n");
    let ready = |site: &Site, status: u16, words: &str| {
        eventually(&format!("conf-slave to answer {status} with {words:?}"), || {
            let answer = site.slave().http().get("/readyz")?;
            let right = answer.status == status && answer.text().contains(words);
            if right { Ok(()) } else { Err(format!("{} {}", answer.status, answer.text())) }
        });
    };
    let (repo, older, newer) =
        (site.master.repo.clone(), site.folder.path().join("older"), site.folder.path().join("newer"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let mut copy = tests::program::command("cp", site.folder.path());
        copy.arg("-a").arg(from).arg(to);
        assert!(tests::program::run(copy).status.success());
    };
    site.master.daemon.stop();
    copy(&repo, &older);
    site.master.daemon.start();
    let sequence = site.push_and_wait("services/web", "round", "2\n");
    ready(&site, 200, "ready");
    // The central repository is put back to an older state.
    site.master.daemon.stop();
    std::fs::rename(&repo, &newer).expect("a folder can be renamed");
    std::fs::rename(&older, &repo).expect("a folder can be renamed");
    site.master.daemon.start();
    ready(&site, 503, "put back to an older state");
    let status = site.host().wait_status("say that the history is refused", |status| {
        status["problems"].to_string().contains("central history")
    });
    assert_eq!(status["sequence"], sequence);
    // It goes on from there: another snapshot has the number that the slave serves.
    site.push("services/web", "round", "3\n");
    assert_eq!(site.master.sequence(), sequence);
    ready(&site, 503, "does not follow");
    site.host().wait_status("say that it does not follow", |status| {
        status["problems"].to_string().contains("does not follow")
    });
    // And back.
    site.master.daemon.stop();
    std::fs::rename(&repo, site.folder.path().join("other")).expect("a folder can be renamed");
    std::fs::rename(&newer, &repo).expect("a folder can be renamed");
    site.master.daemon.start();
    ready(&site, 200, "ready");
    site.host().wait_status("be well again", |status| status["problems"] == serde_json::json!([]));
}
