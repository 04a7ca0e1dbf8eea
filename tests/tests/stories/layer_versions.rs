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

/// Returns the version of a section.
#[track_caller]
fn version(site: &Site, section: &str) -> i64 {
    read(site, section, "")["version"].as_i64().expect("a number")
}

#[test]
fn a_layer_begins_with_minus_one_and_has_the_version_of_its_last_change() {
    let site = central();
    let (web, api) = (layer("web"), layer("api"));
    let own = format!("datacenters/{DATACENTER}");
    let first = version(&site, &own);
    assert_eq!(version(&site, &web), -1, "it is not there");
    lands(&site, &web, &json!({"pool": 1}), -1, first + 1);
    // The other layer is not there yet, whatever was changed beside it.
    conflicts(&site, &api, 7, -1);
    lands(&site, &api, &json!({"pool": 1}), -1, first + 2);
    // They are changed side by side.
    lands(&site, &web, &json!({"pool": 2}), first + 1, first + 3);
    conflicts(&site, &web, first + 1, first + 3);
    lands(&site, &api, &json!({"pool": 2}), first + 2, first + 4);
    assert_eq!((version(&site, &web), version(&site, &api)), (first + 3, first + 4));
    // A push counts as well, and one of another file does not.
    site.work.git(&["fetch", "-q", "origin", &format!("+refs/heads/{own}:refs/heads/{own}")]);
    site.work.change().file(&own, "overrides/services/web.yaml", "pool: 3\n").land();
    site.work.change().file(&own, "README.md", "x\n").land();
    assert_eq!((version(&site, &web), version(&site, &api)), (first + 5, first + 4));
    // What it was at each version of its branch.
    for (version, pool) in [(first + 1, 1), (first + 2, 1), (first + 3, 2), (first + 5, 3), (first + 6, 3)] {
        let then = read(&site, &web, &format!("?version={version}"));
        assert_eq!((&then["config"]["pool"], &then["version"]), (&json!(pool), &json!(version)), "{then}");
    }
    let before = site.master.http().get(&format!("/api/v1/config/{web}?version={first}")).expect("an answer");
    assert_eq!(before.status, 404, "{}", before.text());
    // Gone and made anew: no number comes twice.
    site.work.change().without(&own, "overrides/services/web.yaml").land();
    assert_eq!(version(&site, &web), -1);
    conflicts(&site, &web, first + 5, -1);
    lands(&site, &web, &json!({"pool": 5}), -1, first + 8);
    // The class has layers of its own.
    let of_class = format!("{CLASS}:services/web");
    let class = version(&site, CLASS);
    lands(&site, &of_class, &json!({"pool": 1}), -1, class + 1);
    lands(&site, &of_class, &json!({"pool": 2}), class + 1, class + 2);
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
    let made = first["version"].as_i64().expect("a number");
    let third = send(&site, &web, json!({"pool": 2}), made, "three");
    assert_eq!(third["version"], made + 2, "{first} {third}");
    for _ in 0..2 {
        assert_eq!(send(&site, &web, json!({"pool": 1}), -1, "one"), first, "the first answer again");
        assert_eq!(send(&site, &web, json!({"pool": 2}), made, "three"), third);
        assert_eq!((version(&site, &web), version(&site, &api)), (made + 2, made + 1));
        site.master.daemon.kill9_and_restart();
    }
    lands(&site, &api, &json!({"pool": 2}), made + 1, made + 3);
}

#[test]
fn clients_of_before_know_a_layer_by_the_version_of_its_branch() {
    let site = central();
    let own = format!("datacenters/{DATACENTER}");
    let branch = read(&site, &own, "");
    let now = branch["version"].as_i64().expect("a number");
    lands(&site, &layer("web"), &json!({"pool": 1}), now, now + 1);
    lands(&site, &layer("api"), &json!({"pool": 1}), now + 1, now + 2);
    // They read it when the branch was at a later version than the layer, and nothing has changed
    // it since.
    lands(&site, &layer("web"), &json!({"pool": 2}), now + 2, now + 3);
    lands(&site, &layer("api"), &json!({"pool": 2}), now + 3, now + 4);
    conflicts(&site, &layer("web"), now + 2, now + 3);
    conflicts(&site, &layer("web"), now + 5, now + 3);
    conflicts(&site, &layer("db"), now, -1);
    // A commit is exact: any change of the branch is another.
    let commit = |section: &str| read(&site, section, "")["commit"].as_str().expect("a commit").to_owned();
    let (old, class) = (commit(CLASS), version(&site, CLASS));
    lands(&site, &format!("{CLASS}:services/api"), &json!({"pool": 1}), class, class + 1);
    let section = format!("{CLASS}:services/web");
    let request = json!({"request": {"section": section, "config": {"pool": 1}, "schemaVersion": 1}});
    let post = |commit: &str| {
        let tag = format!("\"{commit}\"");
        let headers = [("if-match", tag.as_str())];
        site.master
            .http()
            .request(Method::POST, "/api/v1/config/update", &headers, request.to_string())
            .expect("an answer")
    };
    assert_eq!(post(&old).status, 409);
    let answer = post(&commit(CLASS));
    assert_eq!((answer.status.as_u16(), &answer.json()["version"]), (200, &json!(class + 2)), "{}", answer.text());
}
