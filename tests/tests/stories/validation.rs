//! What is looked at before anything lands, and what can be asked before it does.

use std::process::Output;

use serde_json::Value;
use tests::{
    Plan, Site,
    program::text,
    site::{CLASS, DATACENTER, class},
};

/// The central server alone, with content.
fn central() -> Site {
    let site = Plan { pointers: tests::site::Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    site
}

/// All refs of the central server, those that only it writes included.
fn refs(site: &Site) -> String {
    site.master.git(&["for-each-ref", "--format=%(refname) %(objectname)"])
}

#[test]
fn a_dry_run_is_judged_like_any_push_and_lands_nothing() {
    let site = central();
    let before = refs(&site);
    let web = "services/web/master";
    let good = site.work.change().file(web, "round", "1\n").option("--push-option=dry-run").push();
    let said = good.refused(&["dry run: nothing landed"]);
    assert!(!said.contains("refused refs/"), "nothing is wrong with it:\n{said}");
    let missing = "services:\n  - {name: nobody, branch: master, tag: latest}\n";
    let bad = site.work.change().file(CLASS, "datacenter.yaml", missing).option("--push-option=dry-run").push();
    let said = bad.refused(&["services/nobody", "datacenter.yaml:2"]);
    assert!(!said.contains("dry run: nothing landed"), "it is refused for what it is:\n{said}");
    assert_eq!(refs(&site), before, "nothing is left behind");
    let unknown = site.work.change().file(web, "round", "1\n").option("--push-option=sideways").land();
    assert!(unknown.contains("the push option sideways is not known"), "{unknown}");
    assert_ne!(refs(&site), before);
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("not JSON ({error}):\n{}", text(output)))
}

#[test]
fn what_was_refused_is_on_record_whatever_happens_to_the_server() {
    let mut site = central();
    let refused = |site: &Site, arguments: &[&str]| {
        let output = site.master.run(&[&["log", "--refused", "--json"], arguments].concat());
        assert!(output.status.success(), "{}", text(&output));
        json(&output)
    };
    assert_eq!(refused(&site, &[]), serde_json::json!([]));
    let missing = class(&[("services/nobody", "master", "latest")]);
    let push = |site: &Site| site.work.change().file(CLASS, "datacenter.yaml", &missing).push();
    push(&site).refused(&["services/nobody"]);
    site.master.daemon.kill9_and_restart();
    site.work.push(&[":refs/heads/services/web/master"]).refused(&["still needed"]);
    // Half of this one lands; the other half is on record all the same.
    site.work.change().file("services/web/master", "round", "1\n").commit();
    let both = ["refs/heads/services/web/master", "refs/heads/services/web/master:refs/heads/elsewhere"];
    site.work.try_git(&[&["push", "origin"][..], &both].concat()).refused(&["elsewhere"]);
    // What was only tried is nobody's failure.
    site.work.change().file("elsewhere", "a", "1").option("--push-option=dry-run").push().refused(&["elsewhere"]);

    let records = refused(&site, &[]);
    let names: Vec<&str> =
        records.as_array().expect("a list").iter().filter_map(|one| one["refused"][0]["ref"].as_str()).collect();
    let class_ref = format!("refs/heads/{CLASS}");
    assert_eq!(names, ["refs/heads/elsewhere", "refs/heads/services/web/master", &class_ref], "newest first");
    let first = &records[2];
    assert!(first["through"].as_str().is_some_and(|through| through.starts_with("http 127.")), "{first}");
    assert!(first["when"].as_str().is_some() && first["request"].as_str().is_some(), "{first}");
    let fault = &first["refused"][0]["faults"][0];
    assert_eq!(fault["datacenter"], DATACENTER, "{first}");
    assert_eq!((&fault["reference"], &fault["file"]), (&CLASS.into(), &"datacenter.yaml".into()), "{first}");
    assert_eq!(fault["line"], 2, "{first}");
    assert!(fault["reason"].as_str().is_some_and(|reason| reason.contains("services/nobody")), "{first}");
    let here = refused(&site, &[DATACENTER]);
    assert_eq!(here.as_array().map(Vec::len), Some(2), "{here}");
    assert_eq!(refused(&site, &["other/v1"]), serde_json::json!([]));
    assert_eq!(refused(&site, &["--limit", "1"]).as_array().map(Vec::len), Some(1));
    let table = site.master.run(&["log", "--refused"]);
    assert!(table.status.success() && text(&table).contains("services/nobody"), "{}", text(&table));
    assert_eq!(site.master.run(&["log"]).status.code(), Some(2), "a datacenter, or --refused");
}
