//! A push that is refused in part: what is wrong is said first and once, what needs it is refused
//! because of it, and the rest lands.

use tests::{
    Plan, Site,
    site::{CLASS, Pin, Pointers, class},
};

fn central() -> Site {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    site
}

/// Pushes branches that were committed here, each for itself, and returns what is said, without
/// Git's own words.
fn push(site: &Site, branches: &[&str]) -> (bool, Vec<String>) {
    let refspecs: Vec<String> = branches.iter().map(|name| format!("refs/heads/{name}:refs/heads/{name}")).collect();
    let mut arguments = vec!["push", "-q", "origin"];
    arguments.extend(refspecs.iter().map(String::as_str));
    let outcome = site.work.try_git(&arguments);
    let lines = outcome.text.lines().filter_map(|line| line.strip_prefix("remote: "));
    (outcome.ok, lines.map(|line| line.trim_end().to_owned()).collect())
}

/// What the class runs already, and one more.
fn with_the_others(one: Pin<'static>) -> Vec<Pin<'static>> {
    let mut pins = ["services/web", "services/api", "applications/shop", "devices/router"]
        .map(|name| (name, "master", "latest"))
        .to_vec();
    pins.push(one);
    pins
}

/// The lines about refusals.
fn refusals(said: &[String]) -> Vec<&str> {
    said.iter().map(String::as_str).filter(|line| line.starts_with("refused ")).collect()
}

#[test]
fn a_class_that_pins_an_absent_tag_is_refused_for_it_and_the_component_beside_it_lands() {
    let site = central();
    let before = site.master.sequence();
    let pins = with_the_others(("services/new", "master", "v1.0"));
    let change = site.work.change().file("services/new/master", "config.yaml", "port: 1\n");
    change.file(CLASS, "datacenter.yaml", class(&pins)).commit();
    let (ok, said) = push(&site, &["services/new/master", CLASS]);
    assert!(!ok, "the class cannot land");
    let refused = refusals(&said);
    assert_eq!(refused.len(), 1, "{said:#?}");
    assert!(refused[0].starts_with(&format!("refused refs/heads/{CLASS}: ")), "{said:#?}");
    assert!(refused[0].contains("there is no tag services/new/v1.0"), "{said:#?}");
    assert!(!said.iter().any(|line| line.contains("no branch")), "{said:#?}");
    assert!(site.master.git(&["for-each-ref"]).contains("refs/heads/services/new/master"), "it landed");
    assert_eq!(site.master.sequence(), before, "no datacenter runs it");
}

#[test]
fn what_needs_a_refused_component_is_refused_after_it_and_because_of_it() {
    let site = central();
    let pins = with_the_others(("services/new", "master", "latest"));
    let change = site.work.change().file(CLASS, "datacenter.yaml", class(&pins));
    let change = change.file("services/good/master", "config.yaml", "port: 1\n");
    change.file("services/new/master", "a\u{1}b", "x").commit();
    // The class stands before the component that it needs.
    let (ok, said) = push(&site, &[CLASS, "services/good/master", "services/new/master"]);
    assert!(!ok, "one ref is bad");
    let refused = refusals(&said);
    assert_eq!(refused.len(), 2, "{said:#?}");
    assert!(refused[0].starts_with("refused refs/heads/services/new/master: "), "the cause comes first: {said:#?}");
    let follows = "this needs services/new/master, which is refused in the same push";
    assert!(
        refused[1].starts_with(&format!("refused refs/heads/{CLASS}: ")) && refused[1].contains(follows),
        "{said:#?}"
    );
    assert!(site.master.git(&["for-each-ref"]).contains("refs/heads/services/good/master"), "the rest landed");
}

#[test]
fn a_datacenter_of_a_refused_class_is_refused_because_of_it() {
    let site = central();
    let change = site.work.change().file(
        "datacenters/us-east/v1",
        "datacenter.yaml",
        "conf: datacenter-configuration/fresh/latest\n",
    );
    let pins = class(&[("services/nobody", "master", "latest")]);
    change.file("datacenter-configuration/fresh", "datacenter.yaml", pins.replace("services:", "servces:")).commit();
    let (ok, said) = push(&site, &["datacenters/us-east/v1", "datacenter-configuration/fresh"]);
    assert!(!ok, "both are bad");
    let refused = refusals(&said);
    assert!(refused[0].starts_with("refused refs/heads/datacenter-configuration/fresh: "), "{said:#?}");
    let last = refused.last().expect("a line");
    assert!(last.starts_with("refused refs/heads/datacenters/us-east/v1: "), "{said:#?}");
    assert!(last.contains("this needs datacenter-configuration/fresh, which is refused"), "{said:#?}");
    assert!(!said.iter().any(|line| line.contains("does not exist")), "{said:#?}");
}

/// Pushes these refspecs, each for itself, and returns the lines about refusals.
fn refused_of(site: &Site, refspecs: &[&str]) -> Vec<String> {
    let outcome = site.work.try_git(&[&["push", "-q", "origin"], refspecs].concat());
    assert!(!outcome.ok, "{}", outcome.text);
    let lines = outcome.text.lines().filter_map(|line| line.strip_prefix("remote: ")).map(str::trim_end);
    lines.filter(|line| line.starts_with("refused ")).map(str::to_owned).collect()
}

#[test]
fn a_tag_that_is_not_on_its_branch_is_refused_and_stays_free() {
    let site = central();
    let work = &site.work;
    let side = work.git(&["commit-tree", "services/web/master^{tree}", "-m", "beside the branch"]);
    let pins = with_the_others(("services/web", "master", "v2"));
    work.change().file(CLASS, "datacenter.yaml", class(&pins)).file("services/api/master", "round", "1\n").commit();
    let (class, api) = (format!("refs/heads/{CLASS}"), "refs/heads/services/api/master");
    let tag = |commit: &str| format!("{commit}:refs/tags/services/web/v2");
    let refused = refused_of(&site, &[&class, api, &tag(&side)]);
    assert_eq!(refused.len(), 2, "{refused:#?}");
    assert!(refused[0].starts_with("refused refs/tags/services/web/v2: "), "the cause comes first: {refused:#?}");
    assert!(refused[0].contains("the tag services/web/v2 is not on the branch services/web/master"), "{refused:#?}");
    assert!(refused[1].starts_with(&format!("refused {class}: ")), "{refused:#?}");
    assert!(
        refused[1].contains("this needs refs/tags/services/web/v2, which is refused in the same push"),
        "{refused:#?}"
    );
    let landed = site.master.git(&["for-each-ref", "--format=%(refname) %(objectname)"]);
    assert!(landed.contains(&format!("{api} {}", work.id(api))), "the rest landed: {landed}");
    // The name is free for the right commit.
    work.try_git(&["push", "-q", "origin", &tag(&work.id("services/web/master")), &class]).accepted();
}

#[test]
fn what_names_a_tag_of_a_class_whose_branch_is_refused_is_refused_because_of_it() {
    let site = central();
    let class = format!("refs/heads/{CLASS}");
    // It would rewind the branch.
    let other = site.work.git(&["commit-tree", &format!("{CLASS}^{{tree}}"), "-m", "another history"]);
    site.work.change().file("datacenters/us-east/v1", "datacenter.yaml", format!("conf: {CLASS}/v9\n")).commit();
    let own = "refs/heads/datacenters/us-east/v1";
    let tag = format!("{other}:refs/tags/{CLASS}/v9");
    let refused = refused_of(&site, &[&format!("+{other}:{class}"), &tag, own]);
    assert_eq!(refused.len(), 3, "{refused:#?}");
    assert!(refused[0].starts_with(&format!("refused {class}: this would rewind")), "{refused:#?}");
    let follows = format!("this needs {CLASS}, which is refused in the same push");
    assert!(refused.iter().any(|line| line.contains(&follows)), "{refused:#?}");
    assert!(!refused.iter().any(|line| line.contains("is not on the branch")), "{refused:#?}");
    assert!(!site.master.git(&["for-each-ref"]).contains(&format!("refs/tags/{CLASS}/v9")), "the name is free");
}
