//! Rendering a snapshot again when a component can be placed after all. Readers use its folder
//! already.

use std::fs::File;

use crate::transaction::tests::*;

/// A host that has taken the second snapshot except one component, which nothing blocks any more.
fn one_more() -> (Site, Host, Audience) {
    let mut site = Site::new();
    fs::create_dir_all(site.place().join("a")).unwrap();
    fs::write(site.place().join("a/theirs"), "theirs").unwrap();
    site.configure(PLACED);
    site.set("services/a/latest", &[("config.yaml", "at: 1\n")]).set("services/same/latest", &[("s", "s")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    site.set("services/a/latest", &[("config.yaml", "at: 2\n"), ("way/in", "2")]);
    site.set("services/new/latest", &[("config.yaml", "at: 2\n")]);
    let in_the_way = site.place().join("a/way");
    fs::write(&in_the_way, "theirs").unwrap();
    let second = site.land();
    take(&mut host, second, &audience).unwrap();
    assert_eq!(site.read("services/a/latest.json").as_deref(), Some(r#"{"at":1}"#));
    assert!(site.read("services/new/latest.json").is_some() && host.is_troubled());
    host.tidy(&audience, None);
    host.outbox.forget(&WatcherId("everything".to_owned()));
    host.outbox.write().unwrap();
    fs::remove_file(in_the_way).unwrap();
    (site, host, audience)
}

/// Returns whether readers see all files of the second snapshot. Asserts that every link in the
/// export leads to an entry.
fn arrived(site: &Site, what: &str) -> bool {
    let export = site.state().join("export");
    for snapshot in names(&export.join("snapshots")).iter().filter(|name| !name.starts_with('.')) {
        for component in ["a", "same", "new"] {
            let folder = export.join("snapshots").join(snapshot).join("services").join(component);
            for entry in names(&folder) {
                assert!(folder.join(&entry).exists(), "{what}: {snapshot}/services/{component}/{entry} leads nowhere");
            }
        }
    }
    assert_eq!(site.read("services/same/latest/s").as_deref(), Some("s"), "{what}");
    let at = site.read("services/a/latest.json").unwrap_or_default();
    match (at.as_str(), site.read("services/a/latest/way/in").as_deref()) {
        (r#"{"at":1}"#, None) => false,
        (r#"{"at":2}"#, Some("2")) => true,
        other => panic!("{what}: {other:?}"),
    }
}

fn told(host: &Host) -> Vec<String> {
    host.outbox.pending().values().flat_map(|notice| notice.components.iter().map(ToString::to_string)).collect()
}

#[test]
fn readers_of_a_former_snapshot_keep_it_whole() {
    let (mut site, mut host, audience) = one_more();
    let folder = File::open(fs::canonicalize(site.current()).unwrap()).unwrap();
    folder.try_lock_shared().unwrap();
    let opened = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&folder)));
    let seen = || fs::read_to_string(opened.join("services/a/latest.json")).ok();
    host.place_again(&audience).unwrap();
    assert!(arrived(&site, "placed") && !host.is_troubled());
    assert_eq!(told(&host), ["services/a/latest"]);
    assert_eq!(fs::read_link(site.current()).unwrap().to_str(), Some("snapshots/2"));
    assert_eq!(seen().as_deref(), Some(r#"{"at":1}"#));
    // The former folder stays whole through changes and a restart, until its lock ends.
    for round in 3..7 {
        site.set("services/same/latest", &[("s", "s"), ("round", &round.to_string())]);
        let next = site.land();
        take(&mut host, next, &audience).unwrap();
        host.tidy(&audience, None);
        if round == 4 {
            drop(host);
            (host, _) = site.open();
            host.settle(&audience).unwrap();
        }
        assert_eq!(seen().as_deref(), Some(r#"{"at":1}"#), "{round}");
    }
    drop(folder);
    site.set("services/same/latest", &[("s", "s")]);
    let last = site.land();
    take(&mut host, last, &audience).unwrap();
    host.tidy(&audience, None);
    let left = names(&site.state().join("export/snapshots"));
    assert!(left.iter().all(|name| !name.contains('.') || name == ".next"), "{left:?}");
    site.assert_tidy();
}

#[test]
fn killed_at_every_step_of_another_attempt() {
    // In the attempt that the running agent makes, and in the one at a start.
    for at_start in [false, true] {
        let mut seen_at = BTreeSet::new();
        for at in 0.. {
            let (site, mut host, audience) = one_more();
            if at_start {
                drop(host);
                (host, _) = site.open();
            }
            injected::set(Some((at, Mode::Dead)));
            let result = if at_start { host.settle(&audience).map(drop) } else { host.place_again(&audience) };
            let finished = injected::set(None) <= at;
            let what = format!("step {at}, {result:?}");
            drop(host);
            let there = arrived(&site, &what);
            seen_at.insert(there);
            let (mut host, audience) = site.open();
            // If readers could see the switch, the watcher will be told.
            assert!(!there || told(&host) == ["services/a/latest"], "{what}: {:?}", told(&host));
            assert_eq!(arrived(&site, &what), there, "{what}");
            host.settle(&audience).unwrap();
            assert!(arrived(&site, &what) && !host.is_troubled(), "{what}");
            assert_eq!(told(&host), ["services/a/latest"], "{what}");
            assert_placed(&site, &what);
            site.assert_tidy();
            if finished {
                println!("killed at each of {at} steps");
                assert!(at > 20 && seen_at.len() == 2, "only {at} steps");
                break;
            }
        }
    }
}

#[test]
fn a_full_disk_at_every_step_of_another_attempt() {
    for at in 0.. {
        let (site, mut host, audience) = one_more();
        injected::set(Some((at, Mode::Full)));
        let result = host.place_again(&audience);
        let finished = injected::set(None) <= at;
        let what = format!("step {at}, {result:?}");
        let there = arrived(&site, &what);
        assert_eq!(there, told(&host) == ["services/a/latest"], "{what}");
        assert!(there || host.is_troubled(), "{what}: nobody tries again");
        let report = host.verify();
        assert!(!report.problems.iter().any(|problem| problem.contains("in its snapshot")), "{report:?}");
        host.place_again(&audience).unwrap();
        assert!(arrived(&site, &what) && !host.is_troubled(), "{what}");
        assert_eq!(told(&host), ["services/a/latest"], "{what}");
        assert_placed(&site, &what);
        site.assert_tidy();
        if finished {
            assert!(at > 20, "only {at} steps");
            break;
        }
    }
}

#[test]
fn an_export_that_another_version_rendered_is_rendered_anew_once() {
    let (site, second) = step_with("{}");
    let (mut host, audience) = site.open();
    take(&mut host, second, &audience).unwrap();
    let header = || fs::read_to_string(site.current().join("snapshot.json")).unwrap();
    let now = format!(r#""rendering":{}"#, conf_core::render::RENDERING);
    assert!(header().contains(&now), "{}", header());
    drop(host);
    let file = fs::canonicalize(site.current().join("snapshot.json")).unwrap();
    fs::write(&file, header().replace(&format!("{now},"), "").replace(&format!(",{now}"), "")).unwrap();
    assert!(!header().contains("rendering"));
    let (mut host, audience) = site.open();
    host.outbox.forget(&WatcherId("everything".to_owned()));
    host.outbox.write().unwrap();
    host.settle(&audience).unwrap();
    assert!(header().contains(&now), "{}", header());
    assert_eq!(seen(&site), 2);
    assert!(host.outbox.pending().is_empty(), "nothing differs, so nobody is told");
}
