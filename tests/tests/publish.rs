//! What conf-slave writes into a real Consul, whatever else is written there.

use std::collections::BTreeMap;

use tests::{
    Site, eventually,
    site::{DATACENTER, Plan},
};

const PROJECTION: &str = "configurations/projection";

fn authoritative() -> String {
    format!("configurations/snapshots/{DATACENTER}")
}

/// A datacenter of so many services, without hosts.
fn site_of(services: usize, slaves: usize) -> Site {
    let components = (0..services).map(|number| format!("services/s{number:03}")).collect();
    Plan { slaves, hosts: 0, components, ..Plan::default() }.start()
}

/// All keys as they should be, by what conf-master says.
fn expected(site: &Site) -> BTreeMap<String, String> {
    let landed = site.master.datacenter().expect("conf-master answers");
    let text = |value: &serde_json::Value| value.as_str().expect("it is text").to_owned();
    let pins = landed["pins"].as_array().expect("pins are a list").iter();
    let mut keys: BTreeMap<String, String> = pins
        .map(|pin| {
            let value = format!("{}/{}", text(&pin["branch"]), text(&pin["commit"]));
            (format!("configurations/{}", text(&pin["component"])), value)
        })
        .collect();
    keys.insert(authoritative(), format!("{}/{}", landed["sequence"], text(&landed["commit"])));
    keys.insert(PROJECTION.to_owned(), DATACENTER.to_owned());
    keys
}

#[track_caller]
fn wait_published(site: &Site) {
    let expected = expected(site);
    eventually("Consul to say what was landed", || {
        let there = site.consul().values("configurations/");
        if there == expected {
            return Ok(());
        }
        let differs = |from: &BTreeMap<String, String>, to: &BTreeMap<String, String>| -> Vec<String> {
            from.iter()
                .filter(|(key, value)| to.get(*key) != Some(value))
                .map(|(key, value)| format!("{key}={value}"))
                .take(3)
                .collect()
        };
        let status = site.slave().status().map_or_else(|error| error, |status| status.to_string());
        Err(format!("there {:?}, missing {:?}; {status}", differs(&there, &expected), differs(&expected, &there)))
    });
}

/// Writes the authoritative key as it is: slaves hear of it, and compare everything.
fn poke(site: &Site) {
    let value = site.consul().get(&authoritative()).expect("it is published").value;
    site.consul().put(&authoritative(), &value);
}

#[test]
fn every_component_has_its_key_and_only_what_changed_is_written() {
    let site = site_of(100, 1);
    wait_published(&site);
    let before = site.consul().list("configurations/");
    let mut change = site.work.change();
    for number in 0..85 {
        change = change.file(&format!("services/s{number:03}/master"), "round", "1\n");
    }
    change.land();
    wait_published(&site);
    let sequence = site.master.sequence();
    for (key, entry) in site.consul().list("configurations/") {
        let changed = entry.modified != before[&key].modified;
        let should =
            key == authoritative() || key.as_str() < "configurations/services/s085" && key.contains("/services/");
        assert_eq!(changed, should, "{key}");
        assert_eq!(entry.flags == sequence, should, "{key}: flags {}", entry.flags);
    }
    let status = site.slave().status().unwrap();
    assert_eq!(status["problems"], serde_json::json!([]), "{status}");
}

#[test]
fn what_was_edited_by_hand_comes_back() {
    let site = site_of(3, 1);
    wait_published(&site);
    let old = site.consul().get(&authoritative()).unwrap().value;
    site.push("services/s000", "round", "1\n");
    wait_published(&site);
    let commit = "0123456789012345678901234567890123456789";
    // An old snapshot; damage with a huge number; a real snapshot under a wrong number; no pointer at all.
    let wrong_number = format!("9000000000000000000/{}", old.split_once('/').unwrap().1);
    for value in [old.as_str(), &format!("9000000000000000000/{commit}"), &wrong_number, "gone", ""] {
        site.consul().put(&authoritative(), value);
        wait_published(&site);
    }
    site.consul().delete(&authoritative());
    wait_published(&site);
    site.consul().delete_all("configurations/");
    wait_published(&site);

    site.consul().put("configurations/services/s000/latest", "mine");
    site.consul().put("configurations/services/s000/latest/deeper", "stray");
    site.consul().put("configurations/devices/stray/v1", &format!("master/{commit}"));
    site.consul().delete("configurations/services/s001/latest");
    site.consul().put(PROJECTION, "not a datacenter");
    site.consul().put("configurations-of-others/services/web/latest", "is nobody's business");
    poke(&site);
    wait_published(&site);
    assert!(site.consul().get("configurations-of-others/services/web/latest").is_some());
}

#[test]
fn two_slaves_need_no_election() {
    let site = site_of(85, 2);
    for round in 0..8 {
        let mut change = site.work.change();
        for number in 0..85 {
            change = change.file(&format!("services/s{number:03}/master"), "round", format!("{round}\n"));
        }
        change.land();
        if round % 4 == 3 {
            wait_published(&site);
        }
    }
    for slave in &site.slaves {
        slave.wait_at(site.master.sequence());
        eventually("each slave to see its snapshot published", || {
            let status = slave.status()?;
            let same = status["published"]["commit"] == status["commit"];
            if same { Ok(()) } else { Err(status.to_string()) }
        });
    }
    wait_published(&site);
}

#[test]
fn component_keys_of_another_instance_are_left_alone() {
    let mut site = Plan { slaves: 1, hosts: 0, ..Plan::default() }.start_empty();
    site.consul().put(PROJECTION, "us-west/v0");
    site.consul().put("configurations/services/other/latest", "theirs");
    site.populate();
    site.add_slave();
    let all = expected(&site);
    eventually("the snapshot to be published", || {
        let there = site.consul().get(&authoritative()).map(|entry| entry.value);
        if there.as_ref() == Some(&all[&authoritative()]) { Ok(()) } else { Err(format!("{there:?}")) }
    });
    let there = site.consul().values("configurations/");
    assert_eq!(there.len(), 3, "{there:?}");
    eventually("the slave to say so", || {
        let status = site.slave().status()?;
        if status["problems"].to_string().contains("us-west/v0") { Ok(()) } else { Err(status.to_string()) }
    });
    // The other one is gone for good.
    site.consul().delete(PROJECTION);
    poke(&site);
    wait_published(&site);
}
