//! The way of a change: a push, and what processes on hosts see of it.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, time::Duration};

use tests::{
    Plan, Poller, Reader, Site,
    site::{CLASS, DATACENTER, Pointers, class, instance},
};

#[test]
fn a_push_reaches_the_host_and_wakes_its_reader() {
    let site = Site::start();
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());

    let before = site.master.sequence();
    let said = site.work.change().file("services/web/master", "config.yaml", "port: 8080\nname: web\n").land();
    let sequence = site.master.sequence();
    assert_eq!(sequence, before + 1);
    assert!(said.contains(&format!("{DATACENTER} #{sequence}")), "the pusher is told what landed:\n{said}");

    assert!(reader.told().sequence >= sequence, "the files are in place before the signal");
    let host = site.host();
    assert_eq!(host.file("services/web/latest/config.yaml"), "port: 8080\nname: web\n");
    let settings: serde_json::Value = serde_json::from_str(&host.file("services/web/latest.json")).expect("JSON");
    assert_eq!(settings, serde_json::json!({"name": "web", "port": 8080}));

    // What Consul holds is what the central server says, in the two forms that others read.
    let (tip, snapshot) = (site.work.id("services/web/master"), site.master.snapshot());
    tests::eventually("the component's key", || {
        let value = site.consul().get("configurations/services/web/latest").map(|entry| entry.value);
        if value == Some(format!("master/{tip}")) { Ok(()) } else { Err(format!("{value:?}")) }
    });
    let pointer = site.consul().get(&format!("configurations/snapshots/{DATACENTER}")).expect("the authoritative key");
    assert_eq!(pointer.value, format!("{sequence}/{snapshot}"));
    assert_eq!(pointer.flags, sequence, "flags hold the sequence, for people");
    assert_eq!(site.consul().get("configurations/projection").expect("whose keys these are").value, DATACENTER);
    assert!(reader.all_told().is_empty(), "one change, one signal");
}

#[test]
fn an_application_and_a_device_are_pinned_exported_and_told_like_a_service() {
    let site = Site::start();
    for component in ["applications/shop", "devices/router"] {
        let reader = Reader::start(&site.host().export());
        site.host().watch(&[component], reader.pid());
        let sequence = site.push(component, "config.yaml", &format!("of: {component}\n"));
        assert!(reader.told().sequence >= sequence);
        let settings = site.host().file(&format!("{component}/latest.json"));
        assert!(settings.contains(component), "{settings}");
        let tip = site.work.id(&format!("{component}/master"));
        tests::eventually("the component's key", || {
            let value = site.consul().get(&format!("configurations/{component}/latest")).map(|entry| entry.value);
            if value == Some(format!("master/{tip}")) { Ok(()) } else { Err(format!("{value:?}")) }
        });
    }
}

#[test]
fn two_services_changed_in_one_push_switch_together() {
    let site = Site::start();
    let poller = Poller::start(&site.host().export(), &["services/web/latest/round", "services/api/latest/round"]);
    for round in 1..=60 {
        let content = format!("{round}\n");
        let change = site.work.change().file("services/web/master", "round", &content);
        change.file("services/api/master", "round", &content).land();
        // Some changes overtake each other on their way, as they would in a burst.
        if round % 5 == 0 {
            site.wait_applied(site.master.sequence());
            poller.wait_rounds(2);
        }
    }
    let seen = poller.stop_unharmed();
    assert!(seen.contents.len() >= 12, "only {} states were seen", seen.contents.len());
}

#[test]
fn a_component_in_no_datacenter_lands_without_touching_any() {
    let site = Site::start();
    let (sequence, snapshot) = (site.master.sequence(), site.master.snapshot());
    site.wait_published(sequence);
    let pointer = site.consul().get(&format!("configurations/snapshots/{DATACENTER}"));
    site.work.change().file("services/lonely/master", "config.yaml", "a: 1\n").land();
    assert_eq!((site.master.sequence(), site.master.snapshot()), (sequence, snapshot));
    // The next change that does touch it is two numbers on: the lonely one was counted.
    assert_eq!(site.push_and_wait("services/web", "round", "1\n"), sequence + 2);
    site.wait_published(sequence + 2);
    let after = site.consul().get(&format!("configurations/snapshots/{DATACENTER}")).expect("the authoritative key");
    assert!(after.modified > pointer.expect("the authoritative key").modified);
    assert_eq!(site.consul().get("configurations/services/lonely/latest"), None);
}

#[test]
fn only_watchers_of_changed_components_are_told_and_once() {
    let site = Site::start();
    let export = site.host().export();
    let (web, api, both) = (Reader::start(&export), Reader::start(&export), Reader::start(&export));
    site.host().watch(&["services/web"], web.pid());
    site.host().watch(&["services/api/latest"], api.pid());
    site.host().watch(&["services/web", "services/api"], both.pid());
    for round in 1..=3 {
        let sequence = site.push("services/web", "round", &format!("{round}\n"));
        for reader in [&web, &both] {
            assert!(reader.told().sequence >= sequence);
        }
        site.wait_applied(sequence);
    }
    let content = "9\n";
    let change = site.work.change().file("services/web/master", "round", content);
    change.file("services/api/master", "round", content).land();
    for reader in [&web, &api, &both] {
        reader.told();
    }
    // A later change that concerns nobody passes through the same rooms; what was told twice would
    // be here by then.
    site.push_and_wait("devices/router", "round", "1\n");
    for (name, reader) in [("web", &web), ("api", &api), ("both", &both)] {
        assert!(reader.all_told().is_empty(), "the watcher of {name} was told too often");
    }
}

#[test]
fn the_same_content_pushed_anew_wakes_nobody_but_moves_the_pin() {
    let site = Site::start();
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());
    // A new commit with the tree of the one before.
    let sequence = site.push_and_wait("services/web", "round", "0\n");
    let tip = site.work.id("services/web/master");
    tests::eventually("the component's key", || {
        let value = site.consul().get("configurations/services/web/latest").map(|entry| entry.value);
        if value == Some(format!("master/{tip}")) { Ok(()) } else { Err(format!("{value:?}")) }
    });
    let next = site.push("services/web", "round", "1\n");
    assert!(reader.told().sequence >= next && next > sequence);
    assert!(reader.all_told().is_empty());
}

#[test]
fn a_process_without_a_handler_is_not_killed_and_is_told_when_it_has_one() {
    let site = Site::start();
    let mut reader = Reader::start_late(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());
    let sequence = site.push_and_wait("services/web", "round", "1\n");
    // A watcher with a handler is told of the next change in the same pass: by then ours would be
    // dead.
    let other = Reader::start(&site.host().export());
    site.host().watch(&["services/api"], other.pid());
    site.push("services/api", "round", "1\n");
    other.told();
    assert!(reader.is_running(), "a process without a handler was killed by the signal");
    let status = site.host().status().expect("the agent answers").to_string();
    assert!(status.contains("handler"), "status says why it was not told: {status}");
    reader.handle();
    assert!(reader.told().sequence >= sequence);
}

#[test]
fn a_host_started_before_the_first_push_gets_it() {
    let mut site = Plan::default().start_empty();
    let mut slave = site.make_slave(1);
    slave.daemon.start_unready();
    site.slaves.push(slave);
    let mut host = site.make_host(1);
    host.daemon.start_unready();
    site.hosts.push(host);
    site.populate();
    site.slaves[0].daemon.await_ready();
    site.hosts[0].daemon.await_ready();
    site.wait_applied(site.master.sequence());
    assert_eq!(site.host().file("services/web/latest/round"), "0\n");
}

#[test]
fn two_versions_of_one_component_run_side_by_side() {
    let site = Site::start();
    site.work.git(&["tag", "services/web/v1.0", "services/web/master"]);
    site.work.push(&["refs/tags/services/web/v1.0"]).accepted();
    let pins = [("services/web", "master", "latest"), ("services/web", "master", "v1.0")];
    site.work.change().file(CLASS, "datacenter.yaml", class(&pins)).option("--push-option=allow-shrink").land();
    let sequence = site.push_and_wait("services/web", "round", "1\n");
    assert_eq!(site.host().file("services/web/latest/round"), "1\n");
    assert_eq!(site.host().file("services/web/v1.0/round"), "0\n");
    tests::eventually("the keys", || {
        let keys: BTreeSet<String> = site.consul().values("configurations/services").into_keys().collect();
        let wanted = ["latest", "v1.0"].map(|version| format!("configurations/services/web/{version}"));
        // What the datacenter does not run any more is gone from Consul too.
        if keys == BTreeSet::from(wanted) { Ok(()) } else { Err(format!("{keys:?}")) }
    });
    assert!(site.host().read("services/api/latest/round").is_err(), "what is not listed is not exported");
    assert!(sequence > 2);
}

#[test]
fn a_removed_components_watchers_are_told_once() {
    let site = Site::start();
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/api"], reader.pid());
    let pins = [("services/web", "master", "latest"), ("devices/router", "master", "latest")];
    site.work.change().file(CLASS, "datacenter.yaml", class(&pins)).land();
    let sequence = site.master.sequence();
    assert!(reader.told().sequence >= sequence);
    site.push_and_wait("services/web", "round", "1\n");
    assert!(reader.all_told().is_empty());
    assert!(site.host().read("services/api/latest/round").is_err());
}

#[test]
fn a_rollback_is_a_new_sequence_with_the_older_content() {
    let site = Site::start();
    for version in ["v1", "v2"] {
        site.push("services/web", "round", &format!("{version}\n"));
        site.work.git(&["tag", &format!("services/web/{version}"), "services/web/master"]);
        site.work.push(&[&format!("refs/tags/services/web/{version}")]).accepted();
    }
    let mut last = 0;
    for version in ["v1", "v2", "v1"] {
        site.work
            .change()
            .file(CLASS, "datacenter.yaml", class(&[("services/web", "master", version)]))
            .option("--push-option=allow-shrink")
            .land();
        let sequence = site.master.sequence();
        assert!(sequence > last);
        last = sequence;
        site.wait_applied(sequence);
        assert_eq!(site.host().file(&format!("services/web/{version}/round")), format!("{version}\n"));
    }
}

#[test]
fn a_class_pinned_by_tag_changes_only_when_the_instance_says_so() {
    let site = Site::start();
    site.work.git(&["tag", &format!("{CLASS}/v1"), CLASS]);
    site.work.push(&[&format!("refs/tags/{CLASS}/v1")]).accepted();
    let branch = format!("datacenters/{DATACENTER}");
    site.work.change().file(&branch, "datacenter.yaml", format!("conf: {CLASS}/v1\n")).land();
    let pinned = site.master.sequence();
    // The class's branch moves on without this datacenter.
    site.work.change().file(CLASS, "datacenter.yaml", class(&[("services/web", "master", "latest")])).land();
    assert_eq!(site.master.sequence(), pinned);
    site.push_and_wait("services/api", "round", "1\n");
    assert_eq!(site.host().file("services/api/latest/round"), "1\n");
    site.work.change().file(&branch, "datacenter.yaml", instance()).option("--push-option=allow-shrink").land();
    site.wait_applied(site.master.sequence());
    assert!(site.host().read("services/api/latest/round").is_err());
}

#[test]
fn an_instance_adds_to_its_class_and_replaces_entries_of_it() {
    let site = Site::start();
    site.work
        .change()
        .file("services/web/stable", "round", "stable\n")
        .file("services/extra/master", "round", "x\n")
        .land();
    let text = format!(
        "{}services:\n  - {{name: web, branch: stable, tag: latest}}\n  - {{name: extra, branch: master, tag: latest}}\n",
        instance()
    );
    site.work.change().file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", text).land();
    site.wait_applied(site.master.sequence());
    assert_eq!(site.host().file("services/web/latest/round"), "stable\n");
    assert_eq!(site.host().file("services/extra/latest/round"), "x\n");
    assert_eq!(site.host().file("services/api/latest/round"), "0\n");
}

#[test]
fn a_listed_host_gets_the_components_of_its_roles_and_no_others() {
    let mut site = Site::start();
    let text = format!(
        "{}inventories:\n  roles:\n    core: {{components: [services/web]}}\n  hosts:\n    \
         web-1: {{roles: [core], components: [devices/*]}}\n  closed: false\n",
        instance()
    );
    site.work.change().file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", text).land();
    site.add_host();
    site.wait_applied(site.master.sequence());
    let has = |host: usize| {
        let components = ["services/web", "services/api", "applications/shop", "devices/router"];
        components.map(|name| site.hosts[host].read(&format!("{name}/latest/round")).is_ok())
    };
    assert_eq!(has(0), [true, false, false, true]);
    assert_eq!(has(1), [true; 4], "a host that is not listed runs everything, where the inventory is not closed");
    let listed = [0, 1].map(|host| site.hosts[host].status().expect("the agent answers")["listed"].clone());
    assert_eq!(listed, [true, false], "and is shown as such");
}

#[test]
fn files_are_exported_byte_for_byte_read_only_and_links_inside_are_kept() {
    let site = Site::start();
    let binary: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let web = "services/web/master";
    let change = site.work.change().file(web, "data/binary", &binary).executable(web, "bin/run", "#!/bin/sh\nexit 0\n");
    let change =
        change.file(web, "empty", "").file(web, ".gitignore", "*\n").file(web, ".gitattributes", "* text eol=crlf\n");
    let change = change.file(web, ".gitmodules", "[submodule \"a\"]\n\tpath = a\n\turl = b\n");
    let change = change.link(web, "bin/data", "../data/binary").file(web, "a name with spaces é", "x\n");
    change.file(web, "lines", "a\r\nb\n$Id$\n").land();
    site.wait_applied(site.master.sequence());
    let root = site.host().export().join("current/services/web/latest");
    assert_eq!(fs::read(root.join("data/binary")).expect("it is there"), binary);
    assert_eq!(fs::read(root.join("bin/data")).expect("the link leads there"), binary);
    assert_eq!(fs::read_link(root.join("bin/data")).expect("it is a link"), std::path::Path::new("../data/binary"));
    assert_eq!(fs::read(root.join("empty")).expect("it is there"), b"");
    assert_eq!(fs::read(root.join(".gitignore")).expect("it is there"), b"*\n");
    assert_eq!(fs::read(root.join("lines")).expect("it is there"), b"a\r\nb\n$Id$\n");
    assert_eq!(fs::read(root.join("a name with spaces é")).expect("it is there"), b"x\n");
    let mode = |name: &str| fs::metadata(root.join(name)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("empty"), mode("bin/run")), (0o444, 0o555));
    // One name changes its nature: a file becomes a folder, a folder a file.
    site.work
        .change()
        .without(web, "empty")
        .file(web, "empty/inside", "1")
        .without(web, "data")
        .file(web, "data", "2")
        .land();
    site.wait_applied(site.master.sequence());
    assert_eq!(site.host().file("services/web/latest/empty/inside"), "1");
    assert_eq!(site.host().file("services/web/latest/data"), "2");
}

#[test]
fn a_raw_component_has_its_files_and_nothing_is_made_of_them() {
    let site = Site::start();
    let raw = "services/raw/master";
    site.work.change().file(raw, "config.yaml", "a: 1\na: 2\n").file(raw, "x.j2", "{{ y }}").land();
    let text = format!("{}services:\n  - {{name: raw, branch: master, tag: latest, raw: true}}\n", instance());
    site.work.change().file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", text).land();
    site.wait_applied(site.master.sequence());
    assert_eq!(site.host().file("services/raw/latest/config.yaml"), "a: 1\na: 2\n");
    assert_eq!(site.host().file("services/raw/latest/x.j2"), "{{ y }}");
}

#[test]
fn settings_are_read_from_yaml_json_and_toml() {
    let site = Site::start();
    let change = site.work.change().without("services/web/master", "config.yaml");
    let change = change.file("services/web/master", "config.toml", "port = 1\n[pool]\nsize = 8\n");
    let change = change.without("services/api/master", "config.yaml");
    change.file("services/api/master", "config.json", "{\"port\": 2, \"tags\": [\"a\"]}").land();
    site.wait_applied(site.master.sequence());
    let read =
        |name: &str| -> serde_json::Value { serde_json::from_str(&site.host().file(name)).expect("settings are JSON") };
    assert_eq!(read("services/web/latest.json"), serde_json::json!({"pool": {"size": 8}, "port": 1}));
    assert_eq!(read("services/api/latest.json"), serde_json::json!({"port": 2, "tags": ["a"]}));
    assert_eq!(read("devices/router/latest.json")["component"], "devices/router");
}

#[test]
fn with_consul_embedded_hosts_cannot_tell_the_difference() {
    let plan = Plan { pointers: Pointers::Embedded, hosts: 2, ..Plan::default() };
    let mut site = plan.start();
    let readers: Vec<Reader> = site.hosts.iter().map(|host| Reader::start(&host.export())).collect();
    for (host, reader) in site.hosts.iter().zip(&readers) {
        host.watch(&["services/web"], reader.pid());
    }
    let sequence = site.push("services/web", "round", "1\n");
    readers.iter().for_each(|reader| assert!(reader.told().sequence >= sequence));
    // What it holds in memory is made again from Git at its next start.
    site.slaves[0].daemon.kill9_and_restart();
    let sequence = site.push("services/web", "round", "2\n");
    readers.iter().for_each(|reader| assert!(reader.told().sequence >= sequence));
}

#[test]
fn many_changes_in_a_burst_end_with_the_last_and_every_reader_knows_it() {
    let site = Plan { hosts: 3, ..Plan::default() }.start();
    let readers: Vec<Reader> = site.hosts.iter().map(|host| Reader::start(&host.export())).collect();
    for (host, reader) in site.hosts.iter().zip(&readers) {
        host.watch(&["services/web"], reader.pid());
    }
    let mut last = 0;
    for round in 1..=50 {
        last = site.push("services/web", "round", &format!("{round}\n"));
    }
    for (host, reader) in site.hosts.iter().zip(&readers) {
        let times = reader.told_of(last);
        assert!((1..=50).contains(&times), "{times}");
        assert_eq!(host.file("services/web/latest/round"), "50\n");
        assert!(reader.told_within(Duration::ZERO).is_none());
    }
}
