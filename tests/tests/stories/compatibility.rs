//! Whether what lands can be read by the programs that are there: schemas and settings before and
//! after a change.

use hyper::Method;
use serde_json::{Value, json};
use tests::{
    Plan, Site,
    git::Change,
    program::text,
    site::{CLASS, DATACENTER, Pointers, class},
};

const WEB: &str = "services/web/master";
const SCHEMA: &str = "config.schema.json";
const INSTANCE: &str = "datacenters/us-west/v1";
const BREAKING: &str = "Conf-Compatibility: breaking nobody reads the port any more";

fn central() -> Site {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    site
}

/// A schema with these members over its `properties`, one a line.
fn schema(members: &str, properties: &str) -> String {
    format!("{{\n{members}\"type\": \"object\",\n\"properties\": {{\n{properties}\n}}\n}}\n")
}

fn refs(site: &Site) -> String {
    site.master.git(&["for-each-ref", "--format=%(refname) %(objectname)"])
}

/// Expects a push to be refused with all of these words, and to leave nothing behind.
#[track_caller]
fn refused(site: &Site, change: Change<'_>, words: &[&str]) -> String {
    let before = refs(site);
    let said = change.push().refused(words);
    assert_eq!(refs(site), before, "it left something behind");
    said
}

fn log(site: &Site) -> Value {
    let output = site.master.run(&["log", DATACENTER, "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
}

#[test]
fn a_schema_that_allows_more_is_refused_until_somebody_says_why() {
    let site = central();
    let with = |schema: &str| site.work.change().file(WEB, SCHEMA, schema);
    // A first schema has nothing to be held against.
    with(&schema("", "\"port\": {\"type\": \"integer\",\n\"maximum\": 65535},\n\"round\": {\"type\": \"integer\"}"))
        .land();
    let looser = schema("", "\"round\": {\"type\": [\"integer\", \"string\"]}");
    let words = [
        "services/web/master: config.schema.json:4: /round: not backward compatible: any string may stand here now",
        "services/web/master: config.schema.json:3: /port: not backward compatible: anything may stand here now",
        "programs written for the old schema may reject it",
        "`Conf-Compatibility: breaking <reason>`",
    ];
    refused(&site, with(&looser), &words);
    // Not even where it declares itself free in the same step, nor by taking the schema away.
    refused(&site, with(&schema("\"x-compatibility\": \"none\",\n", "\"round\": {}")), &["/round", "/port"]);
    refused(&site, site.work.change().without(WEB, SCHEMA), &["config.schema.json", "/port", "/round"]);
    // A reason is asked for, and the right words.
    for (line, word) in [
        ("Conf-Compatibility: breaking", "gives no reason"),
        ("Conf-Compatibility: whatever", "is not understood"),
        ("Conf-Compatibility: breaking in the middle\n\nof the message", "/port"),
    ] {
        refused(&site, with(&looser).words(line), &[word]);
    }
    // What narrows lands, and so does what only explains.
    with(&schema(
        "\"title\": \"Web\",\n",
        "\"port\": {\"type\": \"integer\", \"maximum\": 9000},\n\"round\": {\"type\": \"integer\"}",
    ))
    .land();

    let said = with(&looser).words(BREAKING).land();
    assert!(
        said.contains("services/web/master: breaks compatibility in 2 places: nobody reads the port any more"),
        "{said}"
    );
    let shown = text(&site.master.run(&["log", DATACENTER]));
    assert!(shown.contains("services/web/latest breaks compatibility: nobody reads the port any more"), "{shown}");
    let breaking = &log(&site)[0]["breaking"];
    assert_eq!(*breaking, json!([{"name": "services/web/latest", "reason": "nobody reads the port any more"}]));
    assert!(log(&site)[1].get("breaking").is_none(), "{}", log(&site)[1]);
}

#[test]
fn the_earlier_schema_says_what_is_promised() {
    let site = central();
    // Whether a datacenter runs it makes no difference.
    let branch = "services/new/master";
    let with = |promise: &str, properties: &str| {
        let promise = format!("\"x-compatibility\": {promise},\n");
        site.work.change().file(branch, SCHEMA, schema(&promise, properties))
    };
    let (narrow, wide) = ("\"a\": {\"enum\": [1]}", "\"a\": {\"enum\": [1, 2]}");
    for value in ["\"backwards\"", "true"] {
        refused(&site, with(value, wide), &["config.schema.json:2", "write backward, forward, full or none"]);
    }
    with("\"forward\"", wide).land();
    let said = refused(
        &site,
        with("\"none\"", narrow),
        &["config.schema.json:5: /a: not forward compatible: always 2 could stand here before"],
    );
    assert!(said.contains("programs written for the new schema may reject it"), "{said}");
    with("\"full\"", "\"a\": {\"enum\": [1, 2, 3]}").land();
    refused(&site, with("\"full\"", wide), &["/a: not forward compatible"]);
    refused(&site, with("\"full\"", "\"a\": {\"enum\": [1, 2, 3, 4]}"), &["/a: not backward compatible"]);
    let same = "\"a\": {\"enum\": [3, 2, 1], \"description\": \"One of three.\"}";
    with("\"none\"", same).land();
    with("\"backward\"", "\"a\": {\"type\": \"string\"}").land();
    refused(&site, with("\"backward\"", wide), &["/a: not backward compatible"]);
    // A branch that is made anew continues what was promised.
    let named = format!("--push-option=delete={branch}");
    site.work.git(&["push", "-q", &named, "origin", &format!(":refs/heads/{branch}")]);
    refused(&site, with("\"backward\"", wide), &["/a: not backward compatible"]);
    with("\"backward\"", wide).words(BREAKING).land();
}

#[test]
fn what_nobody_can_tell_is_refused_in_time() {
    let site = central();
    let with = |schema: &str| site.work.change().file(WEB, SCHEMA, schema);
    // What may hold itself is beyond what can be proven, where it differs.
    let tree = |words: &str, keys: &str| {
        let node = format!(r##""type": "object", "properties": {{"next": {{"$ref": "#/$defs/node"}}{keys}}}"##);
        format!(r##"{{"$defs": {{"node": {{{node}}}}}, {words}"properties": {{"root": {{"$ref": "#/$defs/node"}}}}}}"##)
    };
    with(&tree("", "")).land();
    with(&tree("\"title\": \"Only words.\", ", "")).land();
    with(&tree("\"required\": [\"round\"], ", "")).land();
    let differs = tree("\"required\": [\"round\"], ", r#", "value": {"type": "integer"}"#);
    refused(
        &site,
        with(&differs),
        &["/root: ", "it cannot be told whether all is well here", "`Conf-Compatibility: breaking <reason>`"],
    );
    with(&differs).words(BREAKING).land();
    with("{}").words(BREAKING).land();
    // Each choice holds two more: to compare them takes more time than there is.
    let choices = |kind: &str| {
        let two = |inner: String, _| {
            format!(r#"{{"anyOf": [{{"properties": {{"a": {inner}}}}}, {{"properties": {{"b": {inner}}}}}]}}"#)
        };
        (0..14).fold(format!(r#"{{"type": "{kind}"}}"#), two)
    };
    let fresh = |kind: &str| site.work.change().file("services/new/master", SCHEMA, choices(kind));
    fresh("integer").land();
    refused(
        &site,
        fresh("number"),
        &["services/new/master: config.schema.json", "it cannot be told whether all is well here"],
    );
    // The next one does not wait for it, and whoever knows may say so.
    with("{\"required\": [\"round\"]}").words(BREAKING).land();
    fresh("number").words(BREAKING).land();
}

#[test]
fn dry_run_plan_and_check_say_the_same_before_it_is_pushed() {
    let site = central();
    let with = |branch: &str, kind: &str| {
        let schema = schema("", &format!("\"round\": {{\"type\": {kind}}}"));
        site.work.change().file(branch, SCHEMA, schema)
    };
    with(WEB, "\"integer\"").land();
    let words = "config.schema.json:4: /round: not backward compatible: any string may stand here now";
    let (either, dry) = ("[\"integer\", \"string\"]", "--push-option=dry-run");
    let before = refs(&site);
    with(WEB, either).option(dry).push().refused(&[words]);
    let told = "services/web/master: breaks compatibility in 1 place: nobody reads the port any more";
    with(WEB, either).words(BREAKING).option(dry).push().refused(&["dry run: nothing landed", told]);
    assert_eq!(refs(&site), before, "nothing landed");

    let feature = "services/web/feature";
    site.work.git(&["branch", feature, WEB]);
    with(feature, "\"integer\"").file(feature, "motd", "hello\n").land();
    let plan = || site.master.run(&["plan", DATACENTER, "--ref", &format!("{WEB}={feature}"), "--json"]);
    assert_eq!(plan().status.code(), Some(0), "{}", text(&plan()));
    with(feature, either).words(BREAKING).land();
    assert_eq!(plan().status.code(), Some(0), "{}", text(&plan()));
    let planned: Value = serde_json::from_slice(&plan().stdout).expect("JSON");
    assert_eq!(planned["notes"], json!([told]), "{planned}");
    site.work.change().file(feature, "motd", "good evening\n").land();
    let planned = plan();
    assert_eq!(planned.status.code(), Some(1), "its tip no longer says why: {}", text(&planned));
    assert!(text(&planned).contains("/round"), "{}", text(&planned));

    let check = |arguments: &[&str]| {
        let repo = site.work.folder().to_str().expect("text");
        site.master.run(&[&["check", "--repo", repo], arguments].concat())
    };
    assert_eq!(check(&[]).status.code(), Some(0), "{}", text(&check(&[])));
    let supposed = check(&["--ref", &format!("{WEB}={feature}")]);
    assert_eq!(supposed.status.code(), Some(1), "{}", text(&supposed));
    assert!(text(&supposed).contains(words), "{}", text(&supposed));
    with(WEB, either).commit();
    assert!(text(&check(&[])).contains(words), "{}", text(&check(&[])));
    with(WEB, either).file(WEB, "motd", "why not\n").words(BREAKING).commit();
    let good = check(&[]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good));
    assert!(text(&good).contains(&format!("note: {told}")), "{}", text(&good));
}

#[test]
fn settings_without_a_schema_keep_their_keys_where_the_class_asks_for_it() {
    let site = central();
    let settings = |text: &str| site.work.change().file(WEB, "config.yaml", text);
    let pins = class(&[("services/web", "master", "latest"), ("services/api", "master", "latest")]);
    let promise = |what: &str| site.work.change().file(CLASS, "datacenter.yaml", format!("{pins}{what}"));
    // People remove keys; nobody minds unless asked to.
    settings("port: 80\nround: 0\npool: {size: 1}\n").option("--push-option=allow-shrink").land();
    settings("port: 80\npool: {size: 1}\n").land();
    for (what, word) in [
        ("compatibility: {settings: backwards}\n", "write backward, forward, full or none"),
        ("compatibility: {setings: backward}\n", "did you mean `settings`?"),
        ("compatibility: {}\n", "write {settings: backward}"),
    ] {
        refused(&site, promise(what).option("--push-option=allow-shrink"), &["datacenter.yaml:", word]);
    }
    let misplaced = "conf: datacenter-configuration/big/latest\ncompatibility: {settings: none}\n";
    let change = site.work.change().file(INSTANCE, "datacenter.yaml", misplaced);
    refused(&site, change, &["datacenter.yaml:2", "belongs in the datacenter.yaml of a class"]);
    promise("compatibility: {settings: backward}\n").option("--push-option=allow-shrink").land();

    settings("port: 81\npool: {size: 2}\nmore: true\n").land();
    let gone = "services/web/master: config.yaml: /pool/size: not backward compatible: the key is gone";
    refused(&site, settings("port: 81\npool: {}\nmore: true\n"), &[gone, "(needed by us-west/v1)"]);
    let other = "services/web/master: config.yaml:2: /port: not backward compatible: this is a string now and was a whole number before";
    refused(&site, settings("# web\nport: \"81\"\npool: {size: 2}\nmore: true\n"), &[other]);
    // By a layer as well, in whose file it is told.
    let layer = |text: &str| site.work.change().file(INSTANCE, "overrides/services/web.yaml", text);
    refused(
        &site,
        layer("pool: {size: big}\n"),
        &["datacenters/us-west/v1: overrides/services/web.yaml:1: /pool/size"],
    );
    layer("port: 90\n").land();
    // A schema that comes in the same change does not free it.
    let freed = settings("port: 81\nmore: true\n").file(WEB, "config.schema.json", "{\"x-compatibility\": \"none\"}\n");
    refused(&site, freed, &["/pool: not backward compatible: the key is gone"]);
    // The promise is the one that was given before.
    let both = promise("").file(WEB, "config.yaml", "port: 81\n").option("--push-option=allow-shrink");
    refused(&site, both, &["/more", "/pool"]);

    let said = settings("port: 81\nmore: true\n").words("Conf-Compatibility: breaking the pool is gone").land();
    assert!(said.contains("us-west/v1: services/web/latest breaks compatibility: the pool is gone"), "{said}");
    assert_eq!(log(&site)[0]["breaking"], json!([{"name": "services/web/latest", "reason": "the pool is gone"}]));
    layer("port: null\n").words("Conf-Compatibility: breaking no port here").land();
    assert_eq!(log(&site)[0]["breaking"], json!([{"name": INSTANCE, "reason": "no port here"}]));

    // The same over HTTP, where `breaking` stands in the request.
    let update = |breaking: Value| {
        let version = site.master.http().get_json("/api/v1/config/services/web").expect("an answer")["version"].clone();
        let mut body = json!({"request": {"section": "services/web", "config": {"port": 1, "name": "web"}, "schemaVersion": 1, "version": version}});
        if !breaking.is_null() {
            body["breaking"] = breaking;
        }
        site.master.http().request(Method::POST, "/api/v1/config/update", &[], body.to_string()).expect("an answer")
    };
    let answer = update(Value::Null);
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert_eq!(answer.json()["faults"][0]["pointer"], "/more", "{}", answer.text());
    for nothing in [json!(" \n"), json!(7)] {
        assert_eq!(update(nothing).status, 400);
    }
    let answer = update(json!("nobody wants\nmore"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("breaks compatibility: nobody wants more"), "{}", answer.text());
    assert_eq!(log(&site)[0]["breaking"], json!([{"name": "services/web/latest", "reason": "nobody wants more"}]));
    let by_hand = site.folder.path().join("web.json");
    std::fs::write(&by_hand, "{}").expect("the folder can be written");
    let file = by_hand.to_str().expect("text");
    let arguments = ["update", "services/web", "--file", file];
    let output = site.master.run(&arguments);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let output = site.master.run(&[&arguments[..], &["--breaking", "nothing is left"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn a_datacenter_goes_back_to_an_older_tag_without_being_asked() {
    let site = central();
    let tag = |name: &str| format!("{WEB}:refs/tags/services/web/{name}");
    let with =
        |kind: &str| site.work.change().file(WEB, SCHEMA, schema("", &format!("\"round\": {{\"type\": {kind}}}")));
    let pinned =
        |tag: &str| site.work.change().file(CLASS, "datacenter.yaml", class(&[("services/web", "master", tag)]));
    with("[\"integer\", \"string\"]").land();
    site.work.push(&[&tag("v1")]).accepted();
    with("\"integer\"").land();
    site.work.push(&[&tag("v2")]).accepted();
    pinned("v2").option("--push-option=allow-shrink").land();
    // It allows more than v2 does; but to go back is what one does when things are broken.
    pinned("v1").option("--push-option=allow-shrink").land();
    // On the branch itself a revert is a change like any other, and says why.
    refused(&site, with("[\"integer\", \"string\"]"), &["/round"]);
    with("[\"integer\", \"string\"]").words("Conf-Compatibility: breaking v2 was a mistake").land();
    site.work.push(&[&tag("v3")]).accepted();
    pinned("v3").option("--push-option=allow-shrink").land();
    let breaking = &log(&site)[0]["breaking"];
    // A tag that comes under its own name is a component that comes.
    assert!(breaking.is_null(), "{breaking}");
}

#[test]
fn a_pin_that_leaves_its_branch_keeps_the_promise() {
    let site = central();
    let with = |branch: &str, kind: &str| {
        let schema = schema("", &format!("\"round\": {{\"type\": {kind}}}"));
        site.work.change().file(branch, SCHEMA, schema)
    };
    let pinned = |branch: &str, tag: &str| {
        let class = class(&[("services/web", branch, tag)]);
        site.work.change().file(CLASS, "datacenter.yaml", class).option("--push-option=allow-shrink")
    };
    let from_master = |branch: &str| site.work.git(&["branch", branch, WEB]);
    let (feature, either) = ("services/web/feature", "[\"integer\", \"string\"]");
    with(WEB, "\"number\"").land();
    site.work.push(&[&format!("{WEB}:refs/tags/services/web/v1")]).accepted();
    with(WEB, "\"integer\"").land();
    // Nobody reads a branch that is new.
    from_master(feature);
    with(feature, either).land();
    pinned("master", "latest").land();
    let words = [
        "datacenter-configuration/big: datacenter.yaml:2: /round: services/web/latest would be services/web/feature (",
        "), and was services/web/master (",
        "not backward compatible: any string may stand here now",
        "`Conf-Compatibility: breaking <reason>`",
    ];
    refused(&site, pinned("feature", "latest"), &words);
    // A dry run and a check in a clone say the same.
    pinned("feature", "latest").option("--push-option=dry-run").push().refused(&words);
    let tip = site.work.id(CLASS);
    pinned("feature", "latest").commit();
    let repo = site.work.folder().to_str().expect("text");
    let check = site.master.run(&["check", "--repo", repo]);
    assert_eq!(check.status.code(), Some(1), "{}", text(&check));
    assert!(words.iter().all(|word| text(&check).contains(word)), "{}", text(&check));
    site.work.git(&["update-ref", &format!("refs/heads/{CLASS}"), &tip]);

    // Files that are raw have no settings.
    let raw = class(&[("services/web", "master", "latest")]).replace("tag: latest", "tag: latest, raw: true");
    let raw = site.work.change().file(CLASS, "datacenter.yaml", raw).option("--push-option=allow-shrink");
    refused(&site, raw, &["datacenter.yaml:2: /round: ", ") as raw files, and was "]);
    // A narrower one is free, and so is the way back to what programs have read before.
    from_master("services/web/narrow");
    with("services/web/narrow", "\"integer\"").file("services/web/narrow", "config.yaml", "round: 1\n").land();
    with("services/web/narrow", "\"integer\", \"minimum\": 1").land();
    pinned("narrow", "latest").land();
    pinned("master", "latest").land();
    pinned("master", "v1").land();
    // Under another version it is the same component still.
    site.work.push(&[&format!("{feature}:refs/tags/services/web/v9")]).accepted();
    let words = [
        "/round: services/web/v9 would be the tag v9 of services/web/feature (",
        "and was the tag v1 of",
        "any string",
    ];
    refused(&site, pinned("feature", "v9"), &words);
    let said = pinned("feature", "v9").words(BREAKING).land();
    let told = "us-west/v1: services/web/v9 breaks compatibility in 1 place: nobody reads the port any more";
    assert!(said.contains(told), "{said}");
}

#[test]
fn a_pin_that_leaves_its_branch_keeps_its_settings() {
    let site = central();
    let settings = |branch: &str, text: &str| site.work.change().file(branch, "config.yaml", text);
    let pinned = |branch: &str| {
        let class = class(&[("services/web", branch, "latest")]) + "compatibility: {settings: backward}\n";
        site.work.change().file(CLASS, "datacenter.yaml", class).option("--push-option=allow-shrink")
    };
    settings(WEB, "port: 80\n").land();
    site.work.git(&["branch", "services/web/next", WEB]);
    settings("services/web/next", "port: 80\nround: 1\n").land();
    settings("services/web/other", "round: 1\n").land();
    pinned("master").land();
    let gone = "/port: not backward compatible: the key is gone";
    refused(&site, pinned("other"), &[gone]);
    pinned("next").land();
    // It goes back to what its programs read before.
    pinned("master").land();
    pinned("other").words(BREAKING).land();
}
