//! Ten harmful changes, each as a dry run: the answer says what would be lost, and where. With
//! `--nocapture` the story prints each answer.

use tests::{
    Plan, Site,
    git::Change,
    program::text,
    site::{CLASS, DATACENTER, Pointers, instance},
};

const OWN: &str = "datacenters/us-west/v1";
const SMALL: &str = "datacenter-configuration/small";
const WEB: &str = "services/web/master";
const SCHEMA: &str = r#"{"x-compatibility": "none", "properties": {"port": {"type": "integer"}}}"#;

const PINS: &str = "services:
  - {name: web, branch: master, tag: latest}
  - {name: api, branch: master, tag: latest}
applications:
  - {name: shop, branch: master, tag: latest}
devices: []
secrets:
  cookie: {from: cookie, readers: [services/web, services/api]}
";

const HOSTS: &str = "inventories:
  roles:
    front: {components: [services/web, services/api]}
    shop: {components: [applications/shop]}
  hosts:
    a-1: {roles: [front]}
    a-2: {roles: [front], settings: {services/web: {port: 81}}}
    b-1: {roles: [shop]}
    c-1: {}
";

/// The central server with three components on four hosts, a second class, and a tag.
fn site() -> Site {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    let first = site.work.change().file(WEB, "config.yaml", "port: 80\n").file(WEB, "motd", "hello\n");
    first.land();
    site.work.git(&["tag", "services/web/v1", WEB]);
    site.work.push(&["refs/tags/services/web/v1"]).accepted();
    let mut change = site.work.change().file(WEB, "config.yaml", "port: 80\npool: {size: 4, idle: 1}\n");
    change = change.file(WEB, "config.schema.json", SCHEMA).file(WEB, "page.html.j2", "on {{ host.name }}\n");
    for branch in ["services/api/master", "applications/shop/master"] {
        change = change.file(branch, "config.yaml", "size: 1\n");
    }
    change = change.file(CLASS, "datacenter.yaml", PINS);
    change = change.file(SMALL, "datacenter.yaml", "services:\n  - {name: web, branch: master, tag: latest}\n");
    change.file(OWN, "datacenter.yaml", format!("{}{HOSTS}", instance())).land();
    site
}

/// Tries a change, and expects these words.
#[track_caller]
fn harm(what: &str, change: Change<'_>, words: &[&str]) -> String {
    let dry = change.option("--push-option=dry-run").option("--push-option=allow-shrink");
    let said = dry.push().refused(&["dry run: nothing landed"]);
    let said: Vec<&str> = said.lines().map(|line| line.trim_start_matches("remote: ").trim_end()).collect();
    let said = said.join("\n");
    println!("== {what}\n{said}\n");
    for word in words {
        assert!(said.contains(word), "{what}: it does not say {word:?}:\n{said}");
    }
    said
}

#[test]
fn a_dry_run_and_a_plan_warn_of_what_looks_like_a_secret() {
    let site = site();
    let secret = "Tr0ub4dor&3";
    site.work.change().file(WEB, "old.ini", "password = hunter2hunter2\n").land();
    let change = || {
        let change = site.work.change().file(WEB, "db.ini", format!("user = shop\npassword = {secret}\n"));
        // What stood there before is not of this change.
        let change = change.file(WEB, "old.ini", "# a comment\npassword = hunter2hunter2\n");
        change.file(CLASS, "overrides/services/api.yaml", format!("db: {{token: {secret}}}\n"))
    };
    let said = harm(
        "a password",
        change(),
        &[
            "warning: services/web/master: db.ini:2 looks like a password",
            "warning: datacenter-configuration/big: overrides/services/api.yaml:1 looks like a token",
            "{\"$secret\": \"NAME\"}",
        ],
    );
    assert!(!said.contains(secret) && !said.contains("old.ini:"), "{said}");
    let harmless = harm("no password", site.work.change().file(WEB, "motd", "secrets are elsewhere\n"), &[]);
    assert!(!harmless.contains("looks like"), "{harmless}");
    // The same by the API, for a commit that is on another branch.
    site.work.git(&["branch", "services/web/next", WEB]);
    site.work.change().file("services/web/next", "db.ini", format!("password = {secret}\n")).land();
    let arguments = ["plan", DATACENTER, "--ref", "services/web/master=services/web/next", "--json"];
    let planned = text(&site.master.run(&arguments));
    assert!(planned.contains("db.ini:1 looks like a password"), "{planned}");
}

#[test]
fn each_harmful_change_says_what_would_be_lost_and_where() {
    let site = site();
    let change = || site.work.change();
    let inventory = |from: &str, to: &str| {
        assert!(HOSTS.contains(from), "{from}");
        change().file(OWN, "datacenter.yaml", format!("{}{}", instance(), HOSTS.replace(from, to)))
    };
    harm(
        "a role emptied",
        inventory("front: {components: [services/web, services/api]}", "front: {components: []}"),
        &[
            "us-west/v1 would change on 2 of the 4 listed hosts:",
            "lost: on a-1, a-2: removes both components there (services/api/latest, services/web/latest)",
        ],
    );
    harm(
        "a host moved",
        inventory("a-2: {roles: [front]", "a-2: {roles: [shop]"),
        &[
            "lost: on a-2: removes both components there (services/api/latest, services/web/latest) and their files; adds 1 \
             (applications/shop/latest)",
        ],
    );
    harm(
        "a class switched",
        change().file(OWN, "datacenter.yaml", {
            let hosts = HOSTS.replace(", services/api]", "]").replace("[applications/shop]", "['applications/*']");
            format!("conf: {SMALL}/latest\n{hosts}")
        }),
        &[
            "lost: its class datacenter-configuration/big: datacenter-configuration/small comes in its place",
            "lost: services/api/latest, its only file, on a-1, a-2, c-1",
            "lost: the secret cookie: it would not be declared any more, and services/web, services/api could no longer read it, on a-1, a-2, c-1",
            "lost: on c-1: removes 2 of 3 components (services/api/latest, applications/shop/latest)",
            "lost: on b-1: removes the only component there (applications/shop/latest) and its files",
        ],
    );
    harm(
        "a datacenter deleted",
        change()
            .file("services/none/master", "x", "x")
            .also(&format!(":refs/heads/{OWN}"))
            .option("--push-option=delete=datacenters/us-west/v1"),
        &[
            "us-west/v1 would be deleted; its hosts would keep their files",
            "lost: all later updates of services/api (a-1, a-2, c-1), services/web (a-1, a-2, c-1), applications/shop (b-1, c-1): the files stay as they are",
        ],
    );
    harm(
        "a schema dropped",
        change().without(WEB, "config.schema.json"),
        &[
            "lost: services/web/latest: the schema config.schema.json, on a-1, a-2, c-1: nothing would check the settings any more",
        ],
    );
    harm(
        "files removed",
        change().without(WEB, "motd").without(WEB, "page.html.j2"),
        &["lost: services/web/latest: 2 of the 3 files (motd, page.html), on a-1, a-2, c-1"],
    );
    harm(
        "settings emptied",
        change().file(WEB, "config.yaml", "{}\n"),
        &[
            "lost: services/web/latest: 2 of the 3 keys of the settings (/pool/idle, /pool/size), on a-2",
            "lost: services/web/latest: all 3 keys of the settings (/pool/idle, /pool/size, /port), on a-1, c-1",
        ],
    );
    harm(
        "a host unlisted",
        inventory("    c-1: {}\n", ""),
        &[
            "us-west/v1 would change on 1 of the 4 listed hosts:",
            "lost: on c-1: all later updates of services/api, services/web, applications/shop: the inventory would no longer list this host; its files stay as they are",
        ],
    );
    harm(
        "the reader of a secret removed",
        change().file(CLASS, "datacenter.yaml", PINS.replace("services/web, services/api]", "services/web]")),
        &["lost: the secret cookie: services/api could no longer read it, on a-1, a-2, c-1"],
    );
    harm(
        "an old tag pinned",
        change().file(
            CLASS,
            "datacenter.yaml",
            PINS.replace("name: web, branch: master, tag: latest", "name: web, branch: master, tag: v1"),
        ),
        &[
            "lost: the path services/web/latest, on a-1, a-2, c-1: programs must read services/web/v1 instead",
            "lost: services/web/v1 in place of services/web/latest goes back 1 commit, from ",
            "lost: services/web/v1 in place of services/web/latest: the schema config.schema.json, on a-1, a-2, c-1",
            "lost: services/web/v1 in place of services/web/latest: 1 of the 3 files (page.html)",
            "lost: services/web/v1 in place of services/web/latest: 2 of the 3 keys of the settings (/pool/idle, /pool/size)",
            "on a-1, a-2: replaces 1 (services/web/latest); adds 1 (services/web/v1)",
        ],
    );
}

#[test]
fn what_the_shrink_guard_refuses_is_shown_all_the_same() {
    let site = site();
    let emptied = HOSTS.replace("front: {components: [services/web, services/api]}", "front: {components: []}");
    let change = site.work.change().file(OWN, "datacenter.yaml", format!("{}{emptied}", instance()));
    let said = change.option("--push-option=dry-run").push().refused(&[
        "remove 2 of the 2 components on a-1, a-2 (services/api, services/web)",
        "-o allow-shrink",
        "on a-1, a-2: removes both components there (services/api/latest, services/web/latest)",
    ]);
    assert!(!said.contains("nothing landed") && !said.contains("no datacenter would change"), "{said}");
    let deleted = site.work.try_git(&["push", "-o", "dry-run", "origin", &format!(":refs/heads/{OWN}")]);
    deleted.refused(&[
        "-o delete=datacenters/us-west/v1",
        "lost: all later updates of services/api (a-1, a-2, c-1), services/web",
    ]);
}

#[test]
fn plan_says_the_same_as_a_dry_run_and_has_it_as_json() {
    let site = site();
    let next = "datacenter-configuration/next";
    site.work.git(&["branch", next, CLASS]);
    let less = PINS.replace("  - {name: api, branch: master, tag: latest}\n", "").replace(", services/api]", "]");
    site.work.change().file(next, "datacenter.yaml", &less).land();
    site.work
        .change()
        .file(OWN, "datacenter.yaml", {
            format!("{}{}", instance(), HOSTS.replace("services/web, services/api", "services/*"))
        })
        .land();
    let supposed = format!("{CLASS}={next}");
    let plan = site.master.run(&["plan", DATACENTER, "--ref", &supposed]);
    let words = "on a-1, a-2: removes 1 of 2 components (services/api/latest)";
    assert!(plan.status.success() && text(&plan).contains(words), "{}", text(&plan));
    let said = harm("less in a class", site.work.change().file(CLASS, "datacenter.yaml", &less), &[words]);
    let told = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(told.lines().all(|line| said.contains(line.trim_end())), "{told}\n--\n{said}");
    let plan = site.master.run(&["plan", DATACENTER, "--ref", &supposed, "--json"]);
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).expect("JSON");
    let hosts = &plan["datacenters"][0]["hosts"];
    assert_eq!(hosts[0]["hosts"], serde_json::json!(["a-1", "a-2"]), "{plan}");
    assert_eq!(hosts[0]["removed"], serde_json::json!(["services/api/latest"]), "{plan}");
    assert_eq!((&hosts[0]["runs"], &hosts[0]["lost"]), (&2.into(), &1.into()), "{plan}");
    assert_eq!(hosts[1]["hosts"], serde_json::json!(["c-1"]), "{plan}");
    let losses = plan["datacenters"][0]["losses"].as_array().expect("a list");
    assert!(
        losses.iter().any(|one| one.as_str().is_some_and(|one| one.starts_with("services/api/latest, its only file"))),
        "{plan}"
    );
}

#[test]
fn many_hosts_are_grouped_and_counted() {
    let site = site();
    let hosts: Vec<String> = (0..300).map(|number| format!("    h-{number:03}: {{roles: [front]}}\n")).collect();
    let hosts = hosts.concat();
    let many = |role: &str| format!("{}{}{hosts}", instance(), HOSTS.replace("[services/web, services/api]", role));
    let all = many("[services/web, services/api]");
    site.work.change().file(OWN, "datacenter.yaml", all).land();
    let less = site.work.change().file(OWN, "datacenter.yaml", many("[services/web]"));
    let said = harm(
        "a role of many hosts",
        less,
        &[
            "lost: on 302 of the 304 listed hosts (a-1, a-2, h-000, h-001, h-002, 297 more): removes 1 of 2 components (services/api/latest) and its files",
        ],
    );
    assert_eq!(said.matches(": removes ").count(), 1, "{said}");
    let landed = site.work.change().file(OWN, "datacenter.yaml", many("[services/web]")).land();
    assert!(landed.contains(": 1 component, 302 hosts"), "{landed}");
}
