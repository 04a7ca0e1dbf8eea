//! Layers of one branch have versions of their own.

use hyper::Method;
use serde_json::{Value, json};
use tests::{
    Master, Plan, Site,
    http::Answer,
    site::{CLASS, DATACENTER, Pointers},
};

fn central() -> Site {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    site
}

fn layer(component: &str) -> String {
    format!("datacenters/{DATACENTER}:services/{component}")
}

fn update(master: &Master, section: &str, config: &Value, version: i64) -> Answer {
    let request = json!({"request": {"section": section, "config": config, "schemaVersion": 1, "version": version}});
    let path = "/api/v1/config/update";
    master.http().request(Method::POST, path, &[], request.to_string()).expect("an answer")
}

/// Expects an update to land with a version.
#[track_caller]
fn lands(site: &Site, section: &str, config: &Value, version: i64, then: i64) -> Value {
    let answer = update(&site.master, section, config, version);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["version"], then, "{}", answer.text());
    answer.json()
}

/// Expects an update to be refused, because the section is at another version.
#[track_caller]
fn conflicts(site: &Site, section: &str, version: i64, now: i64) {
    let answer = update(&site.master, section, &json!({"pool": 99}), version);
    assert_eq!(answer.status, 409, "{}", answer.text());
    assert_eq!(answer.json()["version"], now, "{}", answer.text());
}

#[track_caller]
fn read(site: &Site, section: &str, query: &str) -> Value {
    site.master.http().get_json(&format!("/api/v1/config/{section}{query}")).expect("an answer")
}

#[test]
fn a_layer_begins_with_minus_one_and_counts_its_own_changes() {
    let site = central();
    let (web, api) = (layer("web"), layer("api"));
    assert_eq!(read(&site, &web, "")["version"], -1, "it is not there");
    lands(&site, &web, &json!({"pool": 1}), -1, 0);
    // The other layer is not there yet, whatever was changed beside it.
    conflicts(&site, &api, 7, -1);
    lands(&site, &api, &json!({"pool": 1}), -1, 0);
    lands(&site, &web, &json!({"pool": 2}), 0, 1);
    conflicts(&site, &web, 0, 1);
    lands(&site, &api, &json!({"pool": 2}), 0, 1);
    assert_eq!(
        (read(&site, &web, "")["version"].clone(), read(&site, &api, "")["version"].clone()),
        (json!(1), json!(1))
    );
    // A push counts as well, and one of another file does not.
    let own = format!("datacenters/{DATACENTER}");
    site.work.git(&["fetch", "-q", "origin", &format!("+refs/heads/{own}:refs/heads/{own}")]);
    site.work.change().file(&own, "overrides/services/web.yaml", "pool: 3\n").land();
    site.work.change().file(&own, "README.md", "x\n").land();
    assert_eq!(
        (read(&site, &web, "")["version"].clone(), read(&site, &api, "")["version"].clone()),
        (json!(2), json!(1))
    );
    // What it was at each of its versions.
    for (version, pool) in [(0, 1), (1, 2), (2, 3)] {
        let then = read(&site, &web, &format!("?version={version}"));
        assert_eq!((&then["config"]["pool"], &then["version"]), (&json!(pool), &json!(version)), "{then}");
    }
    // Gone and made anew: no number comes twice.
    site.work.change().without(&own, "overrides/services/web.yaml").land();
    assert_eq!(read(&site, &web, "")["version"], -1);
    conflicts(&site, &web, 2, -1);
    lands(&site, &web, &json!({"pool": 5}), -1, 4);
    // The class has layers of its own.
    let of_class = format!("{CLASS}:services/web");
    lands(&site, &of_class, &json!({"pool": 1}), -1, 0);
    lands(&site, &of_class, &json!({"pool": 2}), 0, 1);
    site.master.expect_unbroken_ledger();
}

#[test]
fn versions_of_layers_are_the_same_after_a_restart_and_in_a_repeated_answer() {
    let mut site = central();
    let (web, api) = (layer("web"), layer("api"));
    let send = |site: &Site, section: &str, config: Value, version: i64, key: &str| {
        let request =
            json!({"request": {"section": section, "config": config, "schemaVersion": 1, "version": version}});
        let headers = [("idempotency-key", key)];
        let path = "/api/v1/config/update";
        let answer = site.master.http().request(Method::POST, path, &headers, request.to_string()).expect("an answer");
        let mut answer = answer.json();
        // What was noted of a landing is not kept.
        answer.as_object_mut().expect("an object").remove("notes");
        answer
    };
    let first = send(&site, &web, json!({"pool": 1}), -1, "one");
    send(&site, &api, json!({"pool": 1}), -1, "two");
    let third = send(&site, &web, json!({"pool": 2}), 0, "three");
    assert_eq!((&first["version"], &third["version"]), (&json!(0), &json!(1)), "{first} {third}");
    for _ in 0..2 {
        assert_eq!(send(&site, &web, json!({"pool": 1}), -1, "one"), first, "the first answer again");
        assert_eq!(send(&site, &web, json!({"pool": 2}), 0, "three"), third);
        assert_eq!(
            (read(&site, &web, "")["version"].clone(), read(&site, &api, "")["version"].clone()),
            (json!(1), json!(0))
        );
        site.master.daemon.kill9_and_restart();
    }
    lands(&site, &api, &json!({"pool": 2}), 0, 1);
}

#[test]
fn clients_of_before_make_a_layer_by_the_version_of_its_branch() {
    let site = central();
    let own = format!("datacenters/{DATACENTER}");
    let branch = read(&site, &own, "");
    let version = branch["version"].as_i64().expect("a number");
    lands(&site, &layer("web"), &json!({"pool": 1}), version, 0);
    // One that is there has its own version alone.
    conflicts(&site, &layer("web"), version + 1, 0);
    // A commit is exact: any change of the branch is another.
    let commit = branch["commit"].as_str().expect("a commit");
    let request = json!({"request": {"section": layer("api"), "config": {"pool": 1}, "schemaVersion": 1}});
    let post = |tag: &str| {
        let headers = [("if-match", tag)];
        site.master
            .http()
            .request(Method::POST, "/api/v1/config/update", &headers, request.to_string())
            .expect("an answer")
    };
    assert_eq!(post(&format!("\"{commit}\"")).status, 409);
    let now = read(&site, &own, "")["commit"].as_str().expect("a commit").to_owned();
    let answer = post(&format!("\"{now}\""));
    assert_eq!((answer.status.as_u16(), &answer.json()["version"]), (200, &json!(0)), "{}", answer.text());
}
