//! What must be named before it is taken away: a datacenter, a class, the last branch of a
//! component; and push options that nobody knows.

use tests::{
    Outcome, Plan, Site, Work, eventually,
    site::{CLASS, DATACENTER, Pointers, class, instance},
};

const WEB: &str = "services/web/master";

/// The central server alone, with content.
fn central() -> Site {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    site
}

/// All refs of the central server, those that only it writes included.
fn refs(site: &Site) -> String {
    site.master.git(&["for-each-ref", "--format=%(refname) %(objectname)"])
}

/// Pushes refspecs with push options.
fn push(work: &Work, options: &[&str], refspecs: &[&str]) -> Outcome {
    let mut arguments = vec!["push".to_owned(), "-q".to_owned()];
    arguments.extend(options.iter().map(|option| format!("--push-option={option}")));
    arguments.push("origin".to_owned());
    arguments.extend(refspecs.iter().map(|one| (*one).to_owned()));
    work.try_git(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Expects a push to be refused with all of these words, and to change nothing.
#[track_caller]
fn refused(site: &Site, options: &[&str], refspecs: &[&str], words: &[&str]) -> String {
    let before = refs(site);
    let said = push(&site.work, options, refspecs).refused(words);
    assert_eq!(refs(site), before, "something of {refspecs:?} landed");
    said
}

#[test]
fn a_datacenter_is_deleted_only_by_its_name_and_the_refusal_says_what_would_be_lost() {
    let site = central();
    let hosts = "inventories:\n  hosts:\n    web-1: {}\n    web-2: {}\n";
    let lab = format!("{}{hosts}", instance());
    site.work.change().file("datacenters/lab/v1", "datacenter.yaml", lab).land();
    let gone = ":refs/heads/datacenters/lab/v1";
    let lost = ["the datacenter lab/v1", "2 hosts (web-1, web-2)", "`-o delete=datacenters/lab/v1`"];
    refused(&site, &[], &[gone], &lost);
    let dry = refused(&site, &["dry-run"], &[gone], &lost);
    assert!(!dry.contains("dry run: nothing landed"), "a dry run says that it is refused:\n{dry}");
    refused(&site, &["delete=datacenters/lab/v2"], &[gone], &["did you mean `datacenters/lab/v1`?"]);
    refused(&site, &[&format!("delete=datacenters/{DATACENTER}")], &[gone], &["names no ref that this push deletes"]);
    let would = refused(&site, &["delete=datacenters/lab/v1", "dry-run"], &[gone], &["dry run: nothing landed"]);
    assert!(would.contains("lab/v1 would be deleted"), "{would}");
    push(&site.work, &["delete=datacenters/lab/v1"], &[gone]).accepted();
    assert!(!refs(&site).contains("refs/heads/datacenters/lab"));
    // The full name does as well.
    site.work.git(&["branch", "-f", "back", "datacenters/lab/v1"]);
    push(&site.work, &[], &["back:refs/heads/datacenters/lab/v1"]).accepted();
    push(&site.work, &["delete=refs/heads/datacenters/lab/v1"], &[gone]).accepted();
}

#[test]
fn a_class_and_the_last_branch_of_a_component_need_their_names_and_other_branches_do_not() {
    let site = central();
    let other = "datacenter-configuration/other";
    let pins = class(&[("services/web", "master", "latest")]);
    site.work
        .change()
        .file(other, "datacenter.yaml", &pins)
        .file("services/old/a", "f", "1")
        .file("services/old/b", "f", "1")
        .land();
    refused(
        &site,
        &[],
        &[&format!(":refs/heads/{other}")],
        &["the class other, which no datacenter runs", &format!("`-o delete={other}`")],
    );
    push(&site.work, &[], &[":refs/heads/services/old/a"]).accepted();
    refused(
        &site,
        &[],
        &[":refs/heads/services/old/b"],
        &["the last branch of services/old", "`-o delete=services/old/b`"],
    );
    // The name alone does not take away what is in use.
    let named = [&format!("delete={CLASS}"), "delete=services/web/master"];
    let gone = [&format!(":refs/heads/{CLASS}"), ":refs/heads/services/web/master"];
    refused(&site, &named, &gone, &["is still needed here"]);
    // A branch that takes its place is enough.
    push(&site.work, &[], &[":refs/heads/services/old/b", "services/old/b:refs/heads/services/old/c"]).accepted();
    push(
        &site.work,
        &["delete=services/old/c", &format!("delete={other}")],
        &[":refs/heads/services/old/c", &format!(":refs/heads/{other}")],
    )
    .accepted();
}

#[test]
fn a_class_stays_while_a_datacenter_runs_one_of_its_tags() {
    let site = central();
    site.work.git(&["tag", &format!("{CLASS}/v1"), CLASS]);
    let pinned = format!("conf: {CLASS}/v1\n");
    site.work
        .change()
        .file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", pinned)
        .also(&format!("refs/tags/{CLASS}/v1"))
        .land();
    refused(
        &site,
        &[&format!("delete={CLASS}")],
        &[&format!(":refs/heads/{CLASS}")],
        &[CLASS, "is still needed here", DATACENTER],
    );
    // The class goes on all the same.
    site.work.change().file(CLASS, "README", "more").land();
}

#[test]
fn push_mirror_from_a_fresh_clone_takes_nothing_away() {
    let site = central();
    site.work.change().file("services/web/side", "f", "1").file("services/spare/master", "f", "1").land();
    let before = refs(&site);
    let clone = site.folder.path().join("clone");
    let said = site.work.try_git(&["clone", "-q", &site.master.git_url(), clone.to_str().expect("a path")]);
    said.accepted();
    let mirror = || {
        let mut git = site.work.command();
        git.current_dir(&clone).args(["push", "--mirror", "origin"]);
        tests::program::text(&tests::program::run(git))
    };
    let said = mirror();
    let flat: String = said.replace("remote:", " ").split_whitespace().collect::<Vec<_>>().join(" ");
    for option in [&format!("datacenters/{DATACENTER}"), CLASS, WEB, "services/spare/master"] {
        assert!(flat.contains(&format!("`-o delete={option}`")), "{option} is not named:\n{said}");
    }
    assert_eq!(refs(&site), before, "push --mirror took something away:\n{said}");
}

#[test]
fn a_deleted_tag_comes_back_only_where_it_was() {
    let mut site = central();
    let work = &site.work;
    let tag = "refs/tags/services/web/v1";
    work.git(&["tag", "-a", "-m", "one", "services/web/v1", WEB]);
    work.push(&[tag]).accepted();
    site.push("services/web", "round", "1\n");
    push(work, &[], &[&format!(":{tag}")]).accepted();
    let moved = format!("{WEB}:{tag}");
    refused(&site, &[], &[&moved], &["a tag never moves", &work.id("services/web/v1^{}")]);
    site.master.daemon.restart();
    refused(&site, &[], &[&moved], &["a tag never moves"]);
    push(&site.work, &[], &[tag]).accepted();
}

#[test]
fn an_unknown_push_option_refuses_the_whole_push() {
    let site = central();
    site.work.change().file(WEB, "round", "1\n").commit();
    let one = [WEB];
    for option in ["dry_run", "dryrun", "dry-run=true", "Dry-Run", ""] {
        refused(&site, &[option], &one, &["dry-run"]);
        refused(&site, &["allow-shrink", option], &one, &["dry-run"]);
    }
    refused(
        &site,
        &["ci.skip"],
        &one,
        &["the push option `ci.skip` is not known", "`-o allow-shrink`", "`-o delete=<ref>`"],
    );
    refused(&site, &["dry-run", "dry-run"], &one, &["dry run: nothing landed"]);
    let on_record = tests::program::text(&site.master.run(&["log", "--refused"]));
    assert!(on_record.contains("ci.skip"), "it is on record:\n{on_record}");
    push(&site.work, &["allow-shrink", "allow-shrink"], &one).accepted();
}

#[test]
fn a_deleted_datacenter_is_a_problem_on_its_slave_and_host_which_keep_the_last_files() {
    let mut site = Site::start();
    site.push_and_wait("services/web", "round", "1\n");
    let branch = format!("datacenters/{DATACENTER}");
    push(&site.work, &[&format!("delete={branch}")], &[&format!(":refs/heads/{branch}")]).accepted();
    let words = format!("datacenter {DATACENTER} was deleted on the central server");
    let says = |status: &serde_json::Value| status["problems"].to_string().contains(&words);
    eventually("the slave says it", || {
        let status = site.slave().status()?;
        if says(&status) { Ok(()) } else { Err(status.to_string()) }
    });
    // A host hears it with the answer to its next report, which a start makes at once.
    site.hosts[0].daemon.restart();
    site.host().wait_status("the host says it", says);
    let shown = tests::program::text(&site.host().run(&["status"]));
    assert!(shown.contains(&words), "{shown}");
    assert_eq!(site.host().file("services/web/latest/round"), "1\n");
    let hosts = eventually("its report says it", || {
        let hosts = site.slave().http().get_json("/api/v1/hosts")?;
        if hosts.to_string().contains(&words) { Ok(hosts) } else { Err(hosts.to_string()) }
    });
    assert_eq!(hosts[0]["state"], "current", "{hosts}");
    let gone = site.master.datacenter().expect_err("there is none");
    assert!(gone.contains("it was deleted"), "{gone}");
    // The central server and the slave say so after a restart too.
    site.master.daemon.restart();
    site.slaves[0].daemon.restart();
    eventually("the slave says it again", || {
        let status = site.slave().status()?;
        if says(&status) { Ok(()) } else { Err(status.to_string()) }
    });
    // Pushed again, it goes on.
    site.work.push(&[&format!("{branch}:refs/heads/{branch}")]).accepted();
    site.push_and_wait("services/web", "round", "2\n");
    site.host().wait_status("the problem is over", |status| !says(status));
    let status = site.slave().status().expect("the slave answers");
    assert!(!says(&status), "{status}");
}
