//! What is looked at before anything lands, and what can be asked before it does.

use tests::{Plan, Site, site::CLASS};

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
