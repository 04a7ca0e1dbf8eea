//! Configuration written through the API: under an optimistic lock, by the same landing as a push.

use std::sync::atomic::{AtomicU64, Ordering};

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
        r#"{"request": {"section": "services/web", "config": {}, "schemaVersion": 1, "version": null}}"#,
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
    assert_eq!(answer.status, 405, "{}", answer.text());
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

/// A request for several sections at once.
fn update_all(master: &Master, requests: &Value) -> Answer {
    post(master, &[], &json!({"requests": requests}))
}

#[test]
fn several_sections_land_in_one_change_or_not_at_all() {
    let site = central();
    let before = site.master.sequence();
    let datacenter = format!("datacenters/{DATACENTER}");
    let three = |api: i64| {
        json!([
            {"section": WEB, "config": {"port": 1}, "version": 0},
            {"section": "services/api", "config": {"port": 2}, "version": api},
            {"section": datacenter, "config": {"conf": format!("{CLASS}/latest"), "platform": {"a": 1}}, "version": 0},
        ])
    };
    let body = expect(&update_all(&site.master, &three(7)), 409);
    assert_eq!((&body["section"], &body["version"]), (&json!("services/api"), &json!(0)), "{body}");
    let mut faulty = three(0);
    faulty[0]["config"] = json!("{\"a\": 1, \"a\": 2}");
    faulty[1]["schemaVersion"] = json!(4);
    let body = expect(&update_all(&site.master, &faulty), 422);
    assert_eq!(body["faults"].as_array().map(Vec::len), Some(2), "all that is wrong comes at once: {body}");
    assert_eq!(site.master.sequence(), before);
    assert_eq!(file(&site, BRANCH, "config.yaml"), "component: services/web\nround: 0");

    let body = expect(&update_all(&site.master, &three(0)), 200);
    assert_eq!(body["sequence"], before + 1);
    let sections = body["sections"].as_array().expect("sections");
    assert_eq!(sections.len(), 3);
    for (section, name) in sections.iter().zip([WEB, "services/api", &datacenter]) {
        assert_eq!((&section["section"], &section["version"]), (&json!(name), &json!(1)), "{body}");
    }
    assert_eq!(site.master.sequence(), before + 1);
    let twice = json!([
        {"section": WEB, "config": {}, "version": 1},
        {"section": "services/web@master", "config": {}, "version": 1},
    ]);
    assert_eq!(update_all(&site.master, &twice).status, 422);
}

#[test]
fn a_request_with_a_key_lands_once_whatever_was_killed() {
    let mut site = central();
    let before = site.master.sequence();
    let body =
        |port: u64| json!({"request": {"section": WEB, "config": {"port": port}, "schemaVersion": 1, "version": 0}});
    let key = [("idempotency-key", "7e0c9a52-first")];
    let first = post(&site.master, &key, &body(1));
    let answer = expect(&first, 200);
    assert!(!first.headers.contains_key("idempotent-replayed"));
    for round in 0..3 {
        let again = post(&site.master, &key, &body(1));
        let mut again_body = expect(&again, 200);
        assert_eq!(again.headers["idempotent-replayed"], "true");
        // What is said of the landing itself is said once.
        let mut first_body = answer.clone();
        for body in [&mut first_body, &mut again_body] {
            body.as_object_mut().expect("an object").remove("notes");
        }
        assert_eq!(again_body, first_body);
        // Others changed it meanwhile.
        expect(&update(&site.master, WEB, json!({"port": 10 + round}), 1 + round), 200);
        site.master.daemon.kill9_and_restart();
    }
    let body = expect(&post(&site.master, &key, &body(2)), 422);
    assert!(body["error"].as_str().is_some_and(|error| error.contains("key")), "{body}");
    assert_eq!(site.master.sequence(), before + 4);
    // A refused one leaves the key free.
    let stale = json!({"request": {"section": WEB, "config": {}, "version": 0}});
    let key = [("idempotency-key", "another")];
    expect(&post(&site.master, &key, &stale), 409);
    let fresh = json!({"request": {"section": WEB, "config": {}, "version": 4}});
    expect(&post(&site.master, &key, &fresh), 200);
    for bad in ["", " ", "a b", &"x".repeat(201)] {
        assert_eq!(post(&site.master, &[("idempotency-key", bad)], &fresh).status, 400, "{bad:?}");
    }
    site.master.expect_unbroken_ledger();
}

#[test]
fn a_section_is_read_now_and_as_it_was() {
    let mut site = central();
    let http = site.master.http();
    let get = |path: &str| http.get(&format!("/api/v1/config/{path}")).expect("an answer");
    let first = expect(&get(WEB), 200);
    assert_eq!(first["config"], json!({"component": WEB, "round": 0}));
    assert_eq!(
        (&first["version"], &first["schemaVersion"], &first["file"]),
        (&json!(0), &json!(1), &json!("config.yaml"))
    );
    let landed = expect(&update(&site.master, WEB, json!({"round": 1}), 0), 200);
    let now = get(WEB);
    let etag = now.headers["etag"].to_str().expect("text").to_owned();
    assert_eq!(etag, format!("\"{}\"", landed["commit"].as_str().expect("a commit")));
    assert_eq!(expect(&now, 200)["config"], json!({"round": 1}));
    // Who has it already is told so, and nothing more.
    let known = |tag: &str| {
        let headers = [("if-none-match", tag)];
        http.request(Method::GET, "/api/v1/config/services/web", &headers, "").expect("an answer")
    };
    assert_eq!((known(&etag).status.as_u16(), known(&etag).body.len()), (304, 0));
    assert_eq!(known("\"0000000000000000000000000000000000000000\"").status, 200);

    let sequence = landed["sequence"].as_u64().expect("a number");
    expect(&update(&site.master, WEB, json!({"round": 2}), 1), 200);
    for (query, config) in [
        ("version=0", &first["config"]),
        ("version=1", &json!({"round": 1})),
        ("version=2", &json!({"round": 2})),
        (&format!("sequence={}", sequence - 1), &first["config"]),
        (&format!("sequence={sequence}"), &json!({"round": 1})),
        (&format!("sequence={}", sequence + 1), &json!({"round": 2})),
    ] {
        assert_eq!(expect(&get(&format!("{WEB}?{query}")), 200)["config"], *config, "{query}");
    }
    let text = expect(&get(&format!("{WEB}?version=0&config=text")), 200);
    assert_eq!(text["config"], "component: services/web\nround: 0\n");
    let layer = expect(&get(&format!("datacenters/{DATACENTER}:services/web")), 200);
    assert_eq!((&layer["config"], &layer["file"]), (&json!({}), &Value::Null));
    assert_eq!(get("datacenters/us-west%2Fv1%3Aservices/web").status, 200);
    for (path, status) in [
        ("services/nobody", 404),
        ("services/web@nobody", 404),
        ("services/web?version=3", 404),
        ("services/web?version=-1", 404),
        ("services/web?sequence=0", 404),
        ("services/web?sequence=99999", 404),
        ("services/web?version=x", 400),
        ("services/web?version=2&sequence=1", 404),
        ("services/web/", 400),
        ("nonsense", 400),
        ("", 400),
        ("%ff", 400),
    ] {
        let answer = get(path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(answer.json()["error"].is_string(), "{path}: {}", answer.text());
    }

    // An exact lock: the commit itself.
    let body = json!({"request": {"section": WEB, "config": {"round": 3}}});
    let answer = expect(&post(&site.master, &[("if-match", &etag)], &body), 409);
    assert_eq!(answer["version"], 2);
    let tag = get(WEB).headers["etag"].to_str().expect("text").to_owned();
    assert_eq!(expect(&post(&site.master, &[("if-match", &tag)], &body), 200)["version"], 3);
    assert_eq!(post(&site.master, &[("if-match", "*")], &body).status, 200);
    assert_eq!(post(&site.master, &[("if-match", "nonsense")], &body).status, 409);
    let several = format!("\"{}\", {tag}", "0".repeat(40));
    assert_eq!(post(&site.master, &[("if-match", &several)], &body).status, 409, "it is the tag of before");
    let tag = get(WEB).headers["etag"].to_str().expect("text").to_owned();
    let several = format!("\"{}\", {tag}", "0".repeat(40));
    assert_eq!(post(&site.master, &[("if-match", &several)], &body).status, 200);

    // Deleted, then made anew: no number comes twice, and none leads to what it does not mean.
    site.work.git(&["fetch", "-q", "origin", &format!("+refs/heads/{BRANCH}:refs/heads/{BRANCH}")]);
    let class = json!({"services": [], "applications": [], "devices": []});
    let emptied = json!({"request": {"section": CLASS, "config": class, "version": 0}, "allowShrink": true});
    expect(&post(&site.master, &[], &emptied), 200);
    let named = format!("--push-option=delete={BRANCH}");
    site.work.git(&["push", "-q", &named, "origin", &format!(":refs/heads/{BRANCH}")]);
    assert_eq!(expect(&get(WEB), 404)["version"], -1);
    assert_eq!(expect(&update(&site.master, WEB, json!({"new": true}), 5), 409)["version"], -1);
    assert_eq!(expect(&update(&site.master, WEB, json!({"new": true}), -1), 200)["version"], 7);
    assert_eq!(get(&format!("{WEB}?version=6")).status, 404, "it was not there then");
    assert_eq!(expect(&get(&format!("{WEB}?version=4")), 200)["config"], json!({"round": 3}));
    site.master.daemon.kill9_and_restart();
    assert_eq!(expect(&get(WEB), 200)["version"], 7);
}

#[test]
fn a_merge_pushed_with_its_parents_swapped_brings_no_old_version_back() {
    let site = central();
    for round in 1..=3 {
        expect(&update(&site.master, WEB, json!({"round": round}), round - 1), 200);
    }
    let work = &site.work;
    // Another line of work from the first commit, merged as if that had been the trunk: two first
    // parents in all.
    work.git(&["fetch", "-q", "origin", &format!("+refs/heads/{BRANCH}:refs/heads/theirs")]);
    work.change().file(BRANCH, "round", "side\n").commit();
    let tree = work.git(&["rev-parse", &format!("{BRANCH}^{{tree}}")]);
    let merge = work.git(&["commit-tree", &tree, "-p", BRANCH, "-p", "theirs", "-m", "the other way round"]);
    work.push(&[&format!("{merge}:refs/heads/{BRANCH}")]).accepted();
    let along_first_parents = work.git(&["rev-list", "--count", "--first-parent", &merge]);
    assert_eq!(along_first_parents, "3", "counting commits would go back");
    assert_eq!(expect(&update(&site.master, WEB, json!({}), 2), 409)["version"], 4);
    assert_eq!(expect(&update(&site.master, WEB, json!({}), 4), 200)["version"], 5);
}

#[test]
fn a_section_keeps_its_notation_and_says_which_comments_go() {
    let site = central();
    let toml = "# what it listens on\nport = 1 # one\n\n[pool]\nsize = 2\n";
    let yaml = "# what it listens on\nport: 1\n";
    let change = site.work.change().file("services/t/master", "config.toml", toml);
    let change = change.file("services/y/master", "config.yaml", yaml);
    change.file("services/j/master", "config.json", "{}\n").land();
    let config = json!({"zone": "b", "port": 2, "pool": {"size": 2}});
    let body = expect(&update(&site.master, "services/t", config.clone(), 0), 200);
    assert_eq!(
        file(&site, "services/t/master", "config.toml"),
        "# what it listens on\nport = 2 # one\nzone = \"b\"\n\n[pool]\nsize = 2"
    );
    assert!(!body["notes"].to_string().contains("comment"), "{body}");
    let body = expect(&update(&site.master, "services/y", config, 0), 200);
    assert_eq!(file(&site, "services/y/master", "config.yaml"), "zone: b\nport: 2\npool:\n  size: 2");
    assert!(body["notes"].to_string().contains("config.yaml: a comment of it is gone"), "{body}");
    // Text stays the text that was sent, and is answered as such where that is asked for.
    let text = "{\"b\":1,\n   \"a\":2}\n";
    let request = json!({"request": {"section": "services/j", "config": text, "version": 0}});
    let answer = post_to(&site.master, "/api/v1/config/update?config=text", &[], &request);
    assert_eq!(expect(&answer, 200)["config"], text);
    assert_eq!(file(&site, "services/j/master", "config.json"), text.trim());
    let fault = expect(&update(&site.master, "services/t", json!({"a": null}), 1), 422);
    assert!(fault["faults"][0]["file"] == "config.toml" && fault.to_string().contains("null"), "{fault}");
}

#[test]
fn the_schema_version_must_be_that_of_the_branch() {
    let site = central();
    site.work.change().file(BRANCH, "config.schema.json", "{\"x-schema-version\": 3}").land();
    let send = |schema: Option<i64>| {
        let mut request = json!({"section": WEB, "config": {"a": 1}, "version": 1});
        schema.into_iter().for_each(|schema| request["schemaVersion"] = json!(schema));
        post(&site.master, &[], &json!({"request": request}))
    };
    for wrong in [None, Some(1), Some(4)] {
        let body = expect(&send(wrong), 422);
        assert!(body["faults"][0]["file"] == "config.schema.json" && body.to_string().contains("version 3"), "{body}");
    }
    assert_eq!(expect(&send(Some(3)), 200)["schemaVersion"], 3);
}

#[test]
fn an_answer_waits_for_the_hosts_and_names_those_that_do_not_follow() {
    let mut site = Plan { hosts: 2, ..Plan::default() }.start();
    // No host is listed here, and both are heard of before anything is asked.
    for argument in ["--hosts-within", "0"] {
        site.master.daemon.argument(argument);
    }
    site.master.daemon.restart();
    let send = |site: &Site, version: i64, query: &str| {
        let request = json!({"section": WEB, "config": {"round": version + 1}, "version": version});
        let path = format!("/api/v1/config/update{query}");
        post_to(&site.master, &path, &[], &json!({"request": request}))
    };
    tests::eventually("both hosts to have reported", || {
        let hosts = site.master.http().get_json(&format!("/api/v1/datacenters/{DATACENTER}/hosts"))?;
        if hosts["hosts"].as_array().map(Vec::len) == Some(2) { Ok(()) } else { Err(hosts.to_string()) }
    });
    let body = expect(&send(&site, 0, "?wait=delivered&timeout=60"), 200);
    assert_eq!(body["delivery"]["complete"], true, "{body}");
    assert_eq!(body["delivery"]["datacenters"][0]["delivered"], 2, "{body}");
    for host in &site.hosts {
        assert_eq!(host.sequence(), body["sequence"].as_u64().expect("a number"));
    }
    site.hosts[1].daemon.stop();
    let body = expect(&send(&site, 1, "?wait=delivered&timeout=1"), 200);
    assert_eq!(body["delivery"]["complete"], false, "{body}");
    let late = body["delivery"]["datacenters"][0]["late"].as_array().cloned().unwrap_or_default();
    assert!(late.iter().any(|one| one["host"] == "web-2"), "{body}");
    // Whom nobody waits for is not named.
    assert_eq!(expect(&send(&site, 2, ""), 200).get("delivery"), None);
    for bad in ["?wait=forever", "?wait=delivered&timeout=x", "?config=nonsense"] {
        assert_eq!(send(&site, 3, bad).status, 400, "{bad}");
    }
    // The same from a shell.
    let path = site.folder.path().join("web.conf");
    std::fs::write(&path, "round = 9\n").expect("a file");
    let wait = |site: &Site, seconds: &str| {
        let path = path.to_str().expect("text");
        let output = site.master.run(&["update", WEB, "--file", path, "--wait", seconds]);
        (output.status.code(), tests::program::text(&output))
    };
    let (code, said) = wait(&site, "1");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("web-2 is at #"), "{said}");
    site.hosts[1].daemon.start();
    let (code, said) = wait(&site, "60");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 of 2 hosts run #"), "{said}");
}

#[test]
fn updates_and_sections_from_a_shell() {
    let site = central();
    let text = |output: &std::process::Output| tests::program::text(output);
    let path = site.folder.path().join("web.json");
    std::fs::write(&path, "{\"port\": 1}\n").expect("a file");
    let path = path.to_str().expect("text");
    let output = site.master.run(&["update", WEB, "--file", path, "--version", "0"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("services/web: version 1, #"), "{}", text(&output));
    let output = site.master.run(&["update", WEB, "--file", path, "--version", "0"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("is at version 1"), "{}", text(&output));
    // The same key: it landed already.
    for _ in 0..2 {
        let output =
            site.master.run(&["update", WEB, "--file", path, "--idempotency-key", "k", "--version", "1", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(answer["version"], 2);
    }
    // Without a version: whatever is newest; what is not there is made.
    let output = site.master.run(&["update", WEB, "--file", path]);
    assert!(text(&output).contains("version 3"), "{}", text(&output));
    let output = site.master.run(&["update", "services/fresh", "--file", path]);
    assert!(text(&output).contains("services/fresh: version 0"), "{}", text(&output));
    let output = site.master.run(&["update", WEB, "--file", path, "--dry-run"]);
    assert!(output.status.success() && text(&output).contains("nothing did"), "{}", text(&output));

    // From standard input, for a schema of which there is another version.
    site.work.change().file("services/typed/master", "config.schema.json", "{\"x-schema-version\": 7}").land();
    let from_input = |schema: &[&str]| {
        let arguments = [&["update", "services/typed", "--file", "-", "--version", "0"], schema].concat();
        let input = std::fs::File::open(path).expect("the file");
        tests::program::run_reading(site.master.client(&arguments), input)
    };
    let output = from_input(&[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("the branch has version 7"), "{}", text(&output));
    let output = from_input(&["--schema-version", "7"]);
    assert!(text(&output).contains("services/typed: version 1"), "{}", text(&output));

    let output = site.master.run(&["show", WEB]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "port: 1\n", "{}", text(&output));
    let output = site.master.run(&["show", WEB, "--version", "0", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&answer["config"]["round"], &answer["version"]), (&json!(0), &json!(0)));
    let landed = site.master.sequence();
    let output = site.master.run(&["show", WEB, "--sequence", &landed.to_string(), "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&answer["config"]["port"], &answer["version"]), (&json!(1), &json!(3)));
    for (arguments, code) in [
        (&["show", "services/nobody"][..], 1),
        (&["show", WEB, "--sequence", "99999"], 1),
        (&["show", WEB, "--version", "9"], 1),
        (&["show", "nonsense"], 2),
        (&["update", WEB], 2),
        (&["update", WEB, "--file", "/nowhere"], 1),
        (&["update", "services/web/x", "--file", path], 2),
    ] {
        let output = site.master.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
    }
}

#[test]
fn hocon_is_taken_as_text_and_kept_where_the_file_is_hocon() {
    let site = central();
    let conf = "# the pool\npool { size = 2 }\n";
    site.work.change().file("services/h/master", "config.conf", conf).land();
    let text = "// the base\nbase = 8\npool { size = ${base}, name = web }\n";
    let body = expect(&update(&site.master, "services/h", text, 0), 200);
    assert_eq!(body["config"], json!({"base": 8, "pool": {"size": 8, "name": "web"}}));
    assert!(body["notes"].to_string().contains("config.conf: a comment of it is gone"), "{body}");
    assert_eq!(file(&site, "services/h/master", "config.conf"), text.trim());
    let read = site.master.http().get("/api/v1/config/services/h").expect("an answer");
    assert_eq!(expect(&read, 200)["config"], body["config"]);
    // An object has no text of its own; JSON is HOCON.
    expect(&update(&site.master, "services/h", json!({"a": "${base}"}), 1), 200);
    assert_eq!(file(&site, "services/h/master", "config.conf"), "{\n  \"a\": \"${base}\"\n}");
    // A new section, and one in another notation, hold what the text comes to.
    let body = expect(&update(&site.master, "services/fresh", text, -1), 200);
    assert!(body["notes"].to_string().contains("config.json: the comments that were sent have no place"), "{body}");
    let written: Value = serde_json::from_str(&file(&site, "services/fresh/master", "config.json")).expect("JSON");
    assert_eq!(written, json!({"base": 8, "pool": {"size": 8, "name": "web"}}));
    expect(&update(&site.master, WEB, text, 0), 200);
    assert!(file(&site, BRANCH, "config.yaml").contains("size: 8"));
    let before = site.master.sequence();
    let exploding: String = (1..30).fold("a0 = [x, x]\n".to_owned(), |text, level| {
        let below = level - 1;
        format!("{text}a{level} = ${{a{below}}} ${{a{below}}}\n")
    });
    for bad in ["a = [1, 2", "a = {b = 1", "a = ${nowhere}", "a = [1}", "include \"/etc/passwd\"", &exploding] {
        let body = expect(&update(&site.master, WEB, bad, 1), 422);
        assert_eq!(body["faults"][0]["file"], "config", "{bad:.30}: {body}");
    }
    assert_eq!(site.master.sequence(), before);
}

#[test]
fn a_layer_is_a_section_and_reaches_the_hosts_merged() {
    let site = Site::start();
    let layer = format!("datacenters/{DATACENTER}:services/web");
    let class_layer = format!("{CLASS}:services/web");
    let requests = json!([
        {"section": class_layer, "config": {"round": 5, "pool": {"size": 1, "name": "a"}}, "version": 0},
        {"section": layer, "config": {"pool": {"size": 2}, "component": null}, "version": 0},
    ]);
    let body = expect(&update_all(&site.master, &requests), 200);
    assert_eq!(
        file(&site, &format!("datacenters/{DATACENTER}"), "overrides/services/web.yaml"),
        "pool:\n  size: 2\ncomponent: null"
    );
    site.wait_applied(body["sequence"].as_u64().expect("a number"));
    let settings: Value = serde_json::from_str(&site.host().file("services/web/latest.json")).expect("JSON");
    assert_eq!(settings, json!({"round": 5, "pool": {"size": 2, "name": "a"}}));
    let nobody = format!("datacenters/{DATACENTER}:services/nobody");
    let body = expect(&update(&site.master, &nobody, json!({"a": 1}), 1), 422);
    assert_eq!(body["faults"][0]["file"], "overrides/services/nobody.yaml", "{body}");
    // A layer of what is not there would be a datacenter without a manifest.
    let body = expect(&update(&site.master, "datacenters/nowhere/v1:services/web", json!({"a": 1}), -1), 422);
    assert!(body.to_string().contains("datacenter.yaml"), "{body}");
}

#[test]
fn an_update_is_validated_on_every_host_that_it_touches() {
    let site = central();
    let instance = format!(
        "conf: {CLASS}/latest\ninventories:\n  hosts:\n    web-1: {{settings: {{services/web: {{port: high}}}}}}\n    web-2: {{}}\n"
    );
    let schema = r#"{"properties": {"port": {"type": ["integer", "string"]}}}"#;
    let change = site.work.change().file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", instance);
    change.file(BRANCH, "config.schema.json", schema).land();
    let before = site.master.sequence();
    let schema = r#"{"properties": {"port": {"type": "integer"}}}"#;
    site.work.change().file(BRANCH, "config.schema.json", schema).push().refused(&["web-1"]);
    let body = expect(&update(&site.master, WEB, json!({"port": [1]}), 1), 422);
    let fault = &body["faults"][0];
    assert_eq!((&fault["datacenter"], &fault["pointer"]), (&json!(DATACENTER), &json!("/port")), "{body}");
    assert_eq!((&fault["reference"], &fault["file"]), (&json!(BRANCH), &json!("config.yaml")), "{body}");
    // What would remove most of it must say that it is meant.
    let many: Value = (0..20).map(|key| (format!("key{key}"), json!(key))).collect::<serde_json::Map<_, _>>().into();
    expect(&update(&site.master, WEB, many, 1), 200);
    let request = |options: Value| {
        let mut body = json!({"request": {"section": WEB, "config": {"port": 1}, "version": 2}});
        body.as_object_mut().expect("an object").extend(options.as_object().expect("an object").clone());
        post(&site.master, &[], &body)
    };
    let body = expect(&request(json!({})), 422);
    assert!(body["error"].as_str().is_some_and(|error| error.contains("allowShrink")), "{body}");
    let tried = expect(&request(json!({"allowShrink": true, "dryRun": true})), 200);
    let component = &tried["plan"]["datacenters"][0]["components"][0];
    assert_eq!((&tried["dryRun"], &component["component"]), (&json!(true), &json!("services/web/latest")), "{tried}");
    assert!(component["diff"].as_str().is_some_and(|diff| diff.contains("-  \"key3\": 3")), "{tried}");
    assert_eq!(site.master.sequence(), before + 1);
    expect(&request(json!({"allowShrink": true})), 200);
    assert_eq!(site.master.sequence(), before + 2);
    // What was refused is on record, with the branch that it was about.
    let refused = site.master.http().get_json("/api/v1/refused").expect("the records");
    assert!(refused.as_array().is_some_and(|records| records.len() >= 3), "{refused}");
    assert_eq!(refused[0]["refused"][0]["ref"], format!("refs/heads/{BRANCH}"), "{refused}");
}

#[test]
fn who_comes_while_too_many_wait_is_told_to_come_again() {
    let site = central();
    let changes = || -> u64 {
        let count = site.master.git(&["rev-list", "--count", "--first-parent", "refs/conf/ledger"]);
        count.trim().parse().expect("a number")
    };
    let before = changes();
    let (landed, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let master = site.master.http();
    // More at once than have a place and may wait for one, again and again until somebody is turned away.
    std::thread::scope(|scope| {
        for client in 0..800 {
            let (master, landed, refused) = (&master, &landed, &refused);
            scope.spawn(move || {
                let mut rounds = 0..50;
                while let Some(round) = rounds.next().filter(|_| refused.load(Ordering::Relaxed) == 0) {
                    let section = format!("services/new-{round}-{client}");
                    let request = json!({"section": section, "config": {}, "version": -1});
                    let body = json!({"request": request}).to_string();
                    let answer = master.request(Method::POST, "/api/v1/config/update", &[], body).expect("an answer");
                    match answer.status.as_u16() {
                        200 => landed.fetch_add(1, Ordering::Relaxed),
                        503 => {
                            assert_eq!(answer.headers["retry-after"], "1");
                            assert!(answer.text().contains("busy"), "{}", answer.text());
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        _ => panic!("{}", answer.text()),
                    };
                }
            });
        }
    });
    assert!(refused.into_inner() > 0, "nobody was turned away, so nothing was tried");
    // Who was turned away left nothing, and who was not was not forgotten.
    assert_eq!(changes(), before + landed.into_inner());
    site.master.expect_unbroken_ledger();
}

#[test]
fn a_word_that_nobody_knows_in_a_query_or_a_body_changes_nothing() {
    let site = central();
    let before = site.master.sequence();
    let request = json!({"section": WEB, "config": {"port": 1}, "schemaVersion": 1, "version": 0});
    let update = json!({"request": request});
    for (path, words) in [
        ("/api/v1/config/update?dryRun=true", "`dryRun` is not known"),
        ("/api/v1/config/update?config=text&dry-run", "`dry-run` is not known"),
    ] {
        let answer = expect(&post_to(&site.master, path, &[], &update), 400);
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(words)), "{path}: {answer}");
    }
    for member in ["dry_run", "dryrun", "dry-run", "allow_shrink", "delete"] {
        let mut body = update.clone();
        body[member] = json!(true);
        expect(&post(&site.master, &[], &body), 400);
        let mut body = update.clone();
        body["request"][member] = json!(true);
        expect(&post(&site.master, &[], &body), 400);
    }
    let secret = format!("/api/v1/datacenters/{DATACENTER}/secrets/cookie");
    let ask = |method: Method, path: &str, body: &str| {
        site.master.http().request(method, path, &[], body.to_owned()).expect("an answer")
    };
    let (rotate, plan) = (format!("{secret}/rotate"), format!("/api/v1/datacenters/{DATACENTER}/plan"));
    for (method, path, body) in [
        (Method::POST, &format!("{rotate}?dryRun=true"), ""),
        (Method::POST, &rotate, "{\"dryRun\": true}"),
        (Method::DELETE, &format!("{secret}?dryRun=true"), ""),
        (Method::DELETE, &secret, "{\"dryRun\": true}"),
        (Method::PUT, &format!("{secret}?dryRun=true"), "{\"value\": \"v\"}"),
        (Method::PUT, &secret, "{\"value\": \"v\", \"dryRun\": true}"),
        (Method::POST, &format!("{plan}?refs=x"), "{}"),
        (Method::POST, &plan, "{\"ref\": {}}"),
        (Method::GET, &format!("/api/v1/config/{WEB}?verison=0"), ""),
    ] {
        let answer = ask(method.clone(), path, body);
        assert_eq!(answer.status, 400, "{method} {path} {body}: {}", answer.text());
    }
    assert_eq!(site.master.sequence(), before);
}
