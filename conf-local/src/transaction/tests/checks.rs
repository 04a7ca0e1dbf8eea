//! A check that does not pass runs again.

use crate::transaction::tests::*;

#[test]
fn a_failed_check_runs_again_until_it_passes_and_changes_of_others_do_not_wait_for_it() {
    let mut site = Site::new();
    fs::create_dir_all(site.place()).unwrap();
    // It says something else each time.
    site.configure(
        "check: [{component: services/a, command: [sh, -c, 'echo $$ | tee -a PLACE/runs; test -e PLACE/ready']}]",
    );
    site.set("services/a/latest", &[("a", "1")]).set("services/b/latest", &[("b", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    let runs = |site: &Site| fs::read_to_string(site.place().join("runs")).unwrap().lines().count();
    let fault = || audience.agent.view().status.faults.values().next().cloned();
    let said = fault().unwrap();
    assert!(said.contains("runs again"), "{said}");
    assert_eq!((runs(&site), host.is_troubled()), (1, true));

    // It fails once more. That is no news.
    let deadline = Instant::now() + Duration::from_secs(30);
    let switches = audience.agent.history().len();
    while runs(&site) == 1 {
        assert!(Instant::now() < deadline, "it does not run again");
        host.place_again(&audience).unwrap();
        std::thread::yield_now();
    }
    assert_eq!((fault(), audience.agent.history().len()), (Some(said), switches));
    site.set("services/b/latest", &[("b", "2")]);
    let second = site.land();
    take(&mut host, second, &audience).unwrap();
    assert_eq!((runs(&site), site.read("services/b/latest/b").as_deref()), (2, Some("2")));
    assert!(site.read("services/a/latest/a").is_none() && host.is_troubled());

    fs::write(site.place().join("ready"), "").unwrap();
    host.outbox.forget(&WatcherId("everything".to_owned()));
    host.outbox.write().unwrap();
    while host.is_troubled() {
        assert!(Instant::now() < deadline, "it does not run again");
        host.place_again(&audience).unwrap();
        std::thread::yield_now();
    }
    assert_eq!((runs(&site), site.read("services/a/latest/a").as_deref()), (3, Some("1")));
    assert_eq!((fault(), host.outbox.pending().len()), (None, 1), "its watchers are told");
}

#[test]
fn a_component_that_is_gone_is_not_checked_again() {
    let mut site = Site::new();
    site.configure("check: [{component: services/a, command: [/bin/false]}]");
    site.set("services/a/latest", &[("a", "1")]).set("services/b/latest", &[("b", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    assert!(host.is_troubled());
    site.components.retain(|name, _| name.to_string() == "services/b/latest");
    let second = site.land();
    take(&mut host, second, &audience).unwrap();
    assert!(!host.is_troubled());
}
