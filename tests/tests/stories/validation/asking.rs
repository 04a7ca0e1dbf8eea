//! What can be asked before and after a change: what it would do, who set what, what a schema says.

use std::fmt::Write as _;

use tests::{
    git::Change,
    program::text,
    site::{CLASS, DATACENTER},
};

use super::{HOSTS, INSTANCE, WEB, inventory, json, refs, with_schema};

#[test]
fn a_plan_shows_components_hosts_and_what_would_differ_in_files_and_settings() {
    let site = with_schema();
    let plan = |arguments: &[&str]| site.master.run(&[&["plan", DATACENTER], arguments].concat());
    let feature = "services/web/feature";
    site.work.git(&["branch", feature, WEB]);
    site.work.change().file(feature, "config.yaml", "port: 8080\n").file(feature, "motd", "hello\n").land();
    let merge = format!("{WEB}={feature}");
    let shown = plan(&["--ref", &merge]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown));
    for words in [
        "us-west/v1 would change in 1 component:",
        "services/web/latest ",
        "(a-1, b-1, c-1)",
        "+++ services/web/latest/config.yaml",
        "-port: 80",
        "+port: 8080",
        "+++ services/web/latest/motd",
        "+hello",
        "+++ settings of services/web/latest on ",
        "+  \"port\": 8080",
    ] {
        assert!(text(&shown).contains(words), "it does not say {words:?}:\n{}", text(&shown));
    }
    assert!(!text(&shown).contains("settings of services/web/latest on b-1"), "b-1 has a port of its own");
    let as_json = json(&plan(&["--ref", &merge, "--json"]));
    let component = &as_json["datacenters"][0]["components"][0];
    assert_eq!(component["component"], "services/web/latest", "{as_json}");
    assert_eq!(component["after"], site.work.id(feature).as_str(), "{as_json}");
    assert_eq!(component["before"], site.work.id(WEB).as_str(), "{as_json}");

    // What could not land is refused in the same words.
    site.work.change().file(feature, "config.yaml", "port: eighty\n").land();
    let before = refs(&site);
    let bad = plan(&["--ref", &format!("{WEB}={}", site.work.id(feature))]);
    assert_eq!(bad.status.code(), Some(1), "{}", text(&bad));
    assert!(text(&bad).contains("config.yaml:1: /port: \"eighty\""), "{}", text(&bad));
    for (arguments, code, word) in [
        (&["--ref", "services/web/master=nowhere"][..], 1, "nowhere"),
        (&["--ref", "services/web/master"], 2, "REF=COMMIT"),
        (&["--ref", "nonsense=services/web/feature"], 2, "nonsense"),
        (&[], 2, "--ref"),
    ] {
        let output = plan(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}:\n{}", text(&output));
        assert!(text(&output).contains(word), "{arguments:?}:\n{}", text(&output));
    }
    assert_eq!(site.master.run(&["plan", "nowhere/v1", "--ref", &merge]).status.code(), Some(1));
    assert_eq!(refs(&site), before, "a plan changes nothing");
}

#[test]
fn a_dry_run_shows_layers_and_a_long_difference_is_cut() {
    let site = with_schema();
    let dry = |change: Change<'_>| change.option("--push-option=dry-run").push().refused(&["dry run: nothing landed"]);
    let said = dry(inventory(&site, &HOSTS.replace("9000", "9001")));
    for words in ["services/web/latest in its layers or secrets (b-1)", "-  \"port\": 9000", "+  \"port\": 9001"] {
        assert!(said.contains(words), "it does not say {words:?}:\n{said}");
    }
    let long = (0..20_000).map(|line| format!("line {line}\n")).collect::<Vec<_>>().concat();
    let said = dry(site.work.change().file(WEB, "long", long));
    assert!(said.contains("line 1\n") || said.contains("+line 1 "), "its beginning is shown");
    assert!(said.contains("the rest is left out") && said.len() < 1 << 20, "{} bytes", said.len());
    let said = dry(site.work.change().file("services/new/master", "a", "1"));
    assert!(said.contains("no datacenter would change"), "{said}");
}

#[test]
fn explain_blames_the_line_and_not_the_last_change_of_its_file() {
    let site = with_schema();
    let commit = |who: &str, content: &str| {
        let date = "1700000000 +0200";
        let tip = site.work.id(CLASS);
        let script = format!(
            "commit refs/heads/{CLASS}\nauthor {who} <{who}@example.com> {date}\ncommitter c <c@example.com> {date}\ndata 2\nx\nfrom \
             {tip}\nM 100644 inline overrides/services/web.yaml\ndata {}\n{content}\n",
            content.len()
        );
        site.work.git_reading(&["fast-import", "--quiet"], script.as_bytes());
        site.work.push(&[&format!("refs/heads/{CLASS}")]).accepted();
        site.work.id(CLASS)
    };
    let ann = commit("Ann", "port: 81\npool: {size: 4}\n");
    let bob = commit("Bob", "# of Bob\nport: 81\npool: {size: 5}\n");
    let explained = json(&site.master.run(&["explain", DATACENTER, "services/web", "--json"]));
    let by = |key: &str| {
        let keys = explained["keys"].as_array().expect("a list");
        let one = keys.iter().find(|one| one["pointer"] == key).unwrap_or_else(|| panic!("{key}: {explained}"));
        let layers = one["set_by"].as_array().expect("a list");
        layers.iter().find(|by| by["layer"] == "class").expect("the class").clone()
    };
    for (key, who, commit) in [("/port", "Ann", ann), ("/pool/size", "Bob", bob)] {
        let by = by(key);
        assert_eq!((&by["author"], &by["commit"]), (&who.into(), &commit.into()), "{key}: {by}");
        assert_eq!(by["date"], "2023-11-15T00:13:20+02:00", "{by}");
    }
}

#[test]
fn log_says_who_pushed_and_what_was_pushed_by_whom() {
    let site = with_schema();
    let tip = site.work.id("services/web/master");
    let mut script = String::new();
    for number in 1..=7 {
        let from = if number == 1 { format!("from {tip}\n") } else { String::new() };
        let _ = write!(
            script,
            "commit refs/heads/services/web/master\nauthor Ann <ann@example.com> 1700000000 +0000\ncommitter Bob <bob@example.com> \
             1700000000 +0000\ndata <<END\nRaise the pool, part {number}\n\nIt was too small.\nEND\n{from}M 100644 inline motd\ndata 2\n{number}\n\n"
        );
    }
    site.work.git_reading(&["fast-import", "--quiet"], script.as_bytes());
    site.work.push(&["refs/heads/services/web/master"]).accepted();
    let shown = text(&site.master.run(&["log", DATACENTER, "--limit", "1"]));
    for words in ["Bob", "Raise the pool, part 7 (Ann)", "Raise the pool, part 3 (Ann)", "and 2 more commits"] {
        assert!(shown.contains(words), "{words} is not in\n{shown}");
    }
    assert!(!shown.contains("too small") && !shown.contains("part 2"), "{shown}");
    let listed = json(&site.master.run(&["log", DATACENTER, "--limit", "1", "--json"]));
    let pushed = listed[0]["pushed"].as_array().expect("a list");
    assert_eq!((pushed.len(), &listed[0]["more_pushed"]), (5, &2.into()), "{listed}");
    let newest = &pushed[0];
    assert_eq!((&newest["name"], &newest["author"]), (&"services/web/latest".into(), &"Ann".into()), "{newest}");
    assert_eq!(newest["commit"], site.work.id("services/web/master"), "{newest}");
}

#[test]
fn a_check_of_a_clone_of_one_branch_says_what_it_lacks_and_how_to_bring_it() {
    let site = with_schema();
    let folder = site.folder.path().join("a narrow one");
    let shown = folder.to_str().expect("text");
    let clone = |arguments: &[&str]| {
        let _ = std::fs::remove_dir_all(&folder);
        site.work.git(&[&["clone", "-q"], arguments, &[&site.master.git_url(), shown]].concat());
    };
    let check = |arguments: &[&str]| {
        let checked = site.master.run(&[&["check", "--repo", shown], arguments].concat());
        (checked.status.code(), text(&checked))
    };
    let supposed = ["--ref", "services/web/next=mine"];
    for (what, arguments) in [
        ("is a clone of one branch", &["--single-branch", "--branch", WEB][..]),
        ("is a clone of one branch", &["--single-branch", "--branch", INSTANCE]),
        ("is a clone of one branch", &["--single-branch", "--branch", CLASS, "--depth", "1"]),
        ("has a part of the history only", &["--no-single-branch", "--branch", CLASS, "--depth", "1"]),
    ] {
        clone(arguments);
        // A fault that no other branch mends.
        let git = |arguments: &[&str]| site.work.git(&[&["-C", shown], arguments].concat());
        git(&["switch", "-q", "--orphan", "mine"]);
        for name in ["name", "Name"] {
            std::fs::write(folder.join(name), "1").expect("it can be written");
        }
        git(&["add", "name", "Name"]);
        git(&["commit", "-q", "-m", "two names that differ in case"]);
        let (code, words) = check(&supposed);
        assert_eq!(code, Some(2), "{arguments:?}: {words}");
        assert!(words.contains("services/web/next: refused") && words.contains(what), "{arguments:?}: {words}");
        let advice = words.lines().last().expect("a line").trim().to_owned();
        assert!(advice.starts_with("git -C"), "{words}");
        // What it says can be pasted, and then it is not said again.
        let mut shell = tests::program::command("sh", site.folder.path());
        shell.args(["-c", &advice]);
        let brought = tests::program::run(shell);
        assert!(brought.status.success(), "{advice}: {}", text(&brought));
        let (code, words) = check(&[]);
        assert_eq!(code, Some(0), "{words}");
        assert!(words.contains("us-west/v1: ok"), "{words}");
        let (code, words) = check(&supposed);
        assert_eq!(code, Some(1), "the fault is told: {words}");
        assert!(words.contains("services/web/next: refused") && !words.contains(what), "{words}");
    }
    // Something else altogether.
    site.work.git(&["init", "-q", site.folder.path().join("empty").to_str().expect("text")]);
    let empty = site.master.run(&["check", "--repo", site.folder.path().join("empty").to_str().expect("text")]);
    assert_eq!(empty.status.code(), Some(2), "{}", text(&empty));
    assert!(text(&empty).contains("there is nothing to check"), "{}", text(&empty));
}

#[test]
fn explain_names_every_layer_that_set_a_key_with_who_and_when() {
    let site = with_schema();
    let layer = "# the class\nport: 81\npool: {size: 4}\n";
    let landed = site.work.change().file(CLASS, "overrides/services/web.yaml", layer).land();
    assert!(landed.contains("us-west/v1 #3: 1 component, 3 hosts"), "a layer changes its component:\n{landed}");
    let class_commit = site.work.id(CLASS);
    site.work.change().file(CLASS, "note", "another change, of another file").land();
    site.work.change().file(INSTANCE, "overrides/services/web.yaml", "pool: ~\n").land();
    let explain = |arguments: &[&str]| site.master.run(&[&["explain", DATACENTER, "services/web"], arguments].concat());
    let explained = json(&explain(&["--host", "b-1", "--json"]));
    let set_by = |key: &str| {
        let keys = explained["keys"].as_array().expect("a list");
        let one = keys.iter().find(|one| one["pointer"] == key).unwrap_or_else(|| panic!("{key}: {explained}"));
        (one["value"].clone(), one["set_by"].as_array().expect("a list").clone())
    };
    let (port, by) = set_by("/port");
    let layers: Vec<&str> = by.iter().filter_map(|one| one["layer"].as_str()).collect();
    assert_eq!((port, layers), (9000.into(), vec!["component", "class", "host"]), "{explained}");
    let class = &by[1];
    assert_eq!((&class["file"], &class["line"]), (&"overrides/services/web.yaml".into(), &2.into()), "{class}");
    assert_eq!((&class["reference"], &class["commit"]), (&CLASS.into(), &class_commit.into()), "{class}");
    assert_eq!((&class["author"], &class["winner"]), (&"Erin Engineer".into(), &false.into()), "{class}");
    assert!(class["date"].as_str().is_some_and(|date| date.starts_with("2023-11-14T")), "{class}");
    assert_eq!(
        (&by[2]["file"], &by[2]["line"], &by[2]["winner"]),
        (&"datacenter.yaml".into(), &7.into(), &true.into())
    );
    let (size, by) = set_by("/pool/size");
    let layers: Vec<&str> = by.iter().filter_map(|one| one["layer"].as_str()).collect();
    assert_eq!((size, layers), (8.into(), vec!["class", "datacenter", "role"]), "{explained}");

    let shown = explain(&["port", "--host", "b-1"]);
    for words in
        ["/port = 9000", "host b-1", "datacenters/us-west/v1@", "datacenter.yaml:7", "Erin Engineer", "2023-11-14"]
    {
        assert!(text(&shown).contains(words), "it does not say {words:?}:\n{}", text(&shown));
    }
    assert!(!text(&shown).contains("/pool"), "{}", text(&shown));
    // A host that nobody lists has what all have in common.
    assert_eq!(json(&explain(&["/port", "--json"]))["keys"][0]["value"], 81);
    for (arguments, code, word) in [
        (&["explain", DATACENTER, "services/nobody"][..], 1, "no services/nobody"),
        (&["explain", DATACENTER, "services/web", "nothing"], 1, "no layer"),
        (&["explain", "nowhere/v1", "services/web"], 1, "nowhere/v1"),
        (&["explain", DATACENTER, "devices/router", "--host", "a-1"], 1, "a-1 does not run devices/router"),
        (&["explain", DATACENTER, "web"], 2, "web"),
        (&["explain", DATACENTER], 2, "COMPONENT"),
    ] {
        let output = site.master.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}:\n{}", text(&output));
        assert!(text(&output).contains(word), "{arguments:?}:\n{}", text(&output));
    }
}

#[test]
fn doc_prints_what_a_schema_says_as_markdown() {
    let site = with_schema();
    let doc = site.master.run(&["doc", "services/web"]);
    assert_eq!(doc.status.code(), Some(0), "{}", text(&doc));
    for line in [
        "# services/web",
        "| `port` | integer |  | at most 65535 | **Required.** |",
        "| `pool.size` | integer |  |  |  |",
    ] {
        assert!(text(&doc).lines().any(|one| one == line), "{line:?} is not in:\n{}", text(&doc));
    }
    let as_json = json(&site.master.run(&["doc", "services/web", "--json"]));
    assert_eq!(as_json["commit"], site.work.id(WEB).as_str(), "{as_json}");
    site.work
        .change()
        .file("services/web/other", "config.schema.json", r#"{"properties": {"new": {"default": 1}}}"#)
        .land();
    let other = site.master.run(&["doc", "services/web", "--branch", "other"]);
    assert!(text(&other).contains("| `new` |  | `1` |"), "{}", text(&other));
    for (arguments, code, word) in [
        (&["doc", "services/api"][..], 1, "nothing describes its settings"),
        (&["doc", "services/web", "--branch", "nowhere"], 1, "services/web/nowhere"),
        (&["doc", "web"], 2, "web"),
    ] {
        let output = site.master.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}:\n{}", text(&output));
        assert!(text(&output).contains(word), "{arguments:?}:\n{}", text(&output));
    }
}
