//! Configuration written through the API: under an optimistic lock, by the same landing as a push.

use hyper::Method;
use serde_json::{Value, json};
use tests::{
    Master, Plan, Site,
    http::Answer,
    site::{CLASS, DATACENTER, Pointers},
};

const WEB: &str = "services/web";
const BRANCH: &str = "services/web/master";

fn central() -> Site {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    site
}

/// Sends a body; headers besides.
fn post(master: &Master, headers: &[(&str, &str)], body: &Value) -> Answer {
    post_to(master, "/api/v1/config/update", headers, body)
}

fn post_to(master: &Master, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    master.http().request(Method::POST, path, headers, body.to_string()).expect("an answer")
}

/// Replaces one section, expected at a version.
fn update(master: &Master, section: &str, config: impl Into<Value>, version: i64) -> Answer {
    let request = json!({"section": section, "config": config.into(), "schemaVersion": 1, "version": version});
    post(master, &[], &json!({"request": request}))
}

/// Expects a status; hands back the body.
#[track_caller]
fn expect(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    answer.json()
}

/// A file on the central server, at a branch or commit.
fn file(site: &Site, branch: &str, path: &str) -> String {
    site.master.git(&["show", &format!("{branch}:{path}")])
}

#[test]
fn an_update_lands_like_a_push_and_the_next_must_name_its_version() {
    let mut site = Site::start();
    let before = site.master.sequence();
    let body = expect(&update(&site.master, WEB, json!({"port": 8080, "name": "web"}), 0), 200);
    assert_eq!(body["config"], json!({"port": 8080, "name": "web"}));
    assert_eq!((&body["schemaVersion"], &body["version"]), (&json!(1), &json!(1)));
    assert_eq!(body["sequence"], before + 1);
    assert_eq!(site.master.sequence(), before + 1);
    assert_eq!(body["commit"], site.master.git(&["rev-parse", &format!("refs/heads/{BRANCH}")]));
    // In the notation that the file had, in the order that was sent.
    assert_eq!(file(&site, BRANCH, "config.yaml"), "port: 8080\nname: web");
    site.wait_applied(before + 1);
    let settings: Value = serde_json::from_str(&site.host().file("services/web/latest.json")).expect("JSON");
    assert_eq!(settings, json!({"port": 8080, "name": "web"}));

    // The same version again is of the past.
    let answer = update(&site.master, WEB, json!({"port": 1}), 0);
    let body = expect(&answer, 409);
    assert_eq!(body["version"], 1, "{body}");
    assert!(body["error"].as_str().is_some_and(|error| error.contains("version 1")), "{body}");
    assert_eq!(site.master.sequence(), before + 1);
    // A push counts as well, one however many commits it has.
    site.work.git(&["fetch", "-q", "origin", &format!("+refs/heads/{BRANCH}:refs/heads/{BRANCH}")]);
    for round in 0..3 {
        site.work.change().file(BRANCH, "round", format!("{round}\n")).commit();
    }
    site.work.push(&[&format!("refs/heads/{BRANCH}")]).accepted();
    assert_eq!(expect(&update(&site.master, WEB, json!({"port": 1}), 1), 409)["version"], 2);
    assert_eq!(expect(&update(&site.master, WEB, json!({"port": 1}), 2), 200)["version"], 3);
    site.wait_applied(before + 3);
    // The numbers outlive the server.
    site.master.daemon.kill9_and_restart();
    assert_eq!(expect(&update(&site.master, WEB, json!({"port": 2}), 0), 409)["version"], 3);
    site.expect_whole();
}

#[test]
fn a_section_that_is_not_there_is_made_by_minus_one_alone() {
    let site = central();
    let new = "services/fresh";
    for version in [0, 3] {
        let body = expect(&update(&site.master, new, json!({"a": 1}), version), 409);
        assert_eq!(body["version"], -1);
    }
    assert_eq!(expect(&update(&site.master, WEB, json!({"a": 1}), -1), 409)["version"], 0);
    assert_eq!(expect(&update(&site.master, new, json!({"b": 1, "a": 2}), -1), 200)["version"], 0);
    assert_eq!(file(&site, "services/fresh/master", "config.json"), "{\n  \"b\": 1,\n  \"a\": 2\n}");
    assert_eq!(expect(&update(&site.master, new, json!({"a": 1}), -1), 409)["version"], 0);
}

#[test]
fn what_is_no_request_is_400_and_what_is_no_configuration_422() {
    let site = central();
    let before = site.master.sequence();
    let send = |body: &str| {
        site.master.http().request(Method::POST, "/api/v1/config/update", &[], body.to_owned()).expect("an answer")
    };
    for body in [
        "",
        "[]",
        "{}",
        "{\"request\": {}}",
        "{\"request\": 1}",
        r#"{"request": {"section": "services/web", "config": {}, "schemaVersion": 1}}"#,
        r#"{"request": {"section": "services/web", "config": 7, "schemaVersion": 1, "version": 0}}"#,
        r#"{"request": {"section": "services/web", "config": [], "schemaVersion": 1, "version": 0}}"#,
        r#"{"request": {"section": "services/web", "config": {}, "schemaVersion": 1, "version": "0"}}"#,
        r#"{"request": {"section": "services/web", "config": {}, "schemaVersion": 1, "version": 0, "x": 1}}"#,
        r#"{"request": {"section": "services/web", "config": {}, "version": 0}, "requests": []}"#,
        r#"{"requests": []}"#,
        r#"{"request": {"section": "services/../web", "config": {}, "schemaVersion": 1, "version": 0}}"#,
        r#"{"request": {"section": "secrets/us-west", "config": {}, "schemaVersion": 1, "version": 0}}"#,
        r#"{"request": {"section": "refs/conf/ledger", "config": {}, "schemaVersion": 1, "version": 0}}"#,
    ] {
        let answer = send(body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(answer.json()["error"].is_string(), "{body}: {}", answer.text());
    }
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    for (config, words) in [
        ("{\"a\": 1, \"a\": 2}", "stands twice"),
        ("{\"a\": [1}", ""),
        ("{\"a\": [1, 2", ""),
        ("[1]", "object"),
        ("", "empty"),
        (&deep, "nested deeper"),
    ] {
        let body = expect(&update(&site.master, WEB, config, 0), 422);
        let fault = &body["faults"][0];
        assert!(fault["reason"].as_str().is_some_and(|reason| reason.contains(words)), "{config:.30}: {body}");
        assert_eq!(fault["reference"], BRANCH, "{body}");
    }
    let twice = r#"{"request": {"section": "services/web", "config": {"a": 1, "a": 2}, "version": 0}}"#;
    assert_eq!(send(twice).status, 422);
    // What does not resolve: by the very code that judges pushes.
    let class = json!({"services": [{"name": "nobody", "branch": "master", "tag": "latest"}]});
    let body = expect(&update(&site.master, CLASS, class, 0), 422);
    assert!(body.to_string().contains("services/nobody") && body["faults"][0]["datacenter"] == DATACENTER, "{body}");
    let body = expect(&update(&site.master, CLASS, json!({"servces": []}), 0), 422);
    assert!(body["faults"][0]["file"] == "datacenter.yaml" && body.to_string().contains("servces"), "{body}");
    // 17 MiB.
    let large = "x".repeat(17 << 20);
    let answer = update(&site.master, WEB, json!({"a": large}), 0);
    assert_eq!(answer.status, 413, "{}", answer.text());
    let answer = site.master.http().get("/api/v1/config/update").expect("an answer");
    assert!(answer.status.is_client_error(), "{}", answer.text());
    assert_eq!(site.master.sequence(), before);
    assert_eq!(file(&site, BRANCH, "config.yaml"), "component: services/web\nround: 0");
    // Nothing of what was refused is kept.
    assert_eq!(site.master.git(&["fsck", "--unreachable", "--no-reflogs"]), "");
}

#[test]
fn manifests_are_sections_too() {
    let site = central();
    let class = json!({
        "services": [{"name": "web", "branch": "master", "tag": "latest"}],
        "applications": [{"name": "shop", "branch": "master", "tag": "latest"}],
    });
    let body = expect(&update(&site.master, CLASS, class, 0), 200);
    assert!(body["notes"].to_string().contains(DATACENTER), "{body}");
    let pins = site.master.datacenter().expect("an answer")["pins"].as_array().map(Vec::len);
    assert_eq!(pins, Some(2));
    let datacenter = format!("datacenters/{DATACENTER}");
    let instance = json!({"conf": format!("{CLASS}/latest"), "platform": {"region": "west"}});
    assert_eq!(expect(&update(&site.master, &datacenter, instance, 0), 200)["version"], 1);
    assert!(file(&site, &datacenter, "datacenter.yaml").contains("region: west"));
}
