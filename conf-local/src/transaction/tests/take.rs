//! Taking good snapshots, refusing bad ones, and the cost of a change.

use crate::snapshot::NamedComponent;
use crate::transaction::{Damage, tests::*};

#[test]
fn files_settings_and_modes() {
    let mut site = Site::new();
    site.set(
        "services/web/latest",
        &[
            ("config.yaml", "port: 80\n"),
            ("bin/start*", "#!/bin/sh\n"),
            ("deep/er/file", "x"),
            ("deep/link", "-> er/file"),
            (".gitignore", "*\n"),
        ],
    );
    site.set("devices/router/v1", &[("a.conf", "a")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();

    assert_eq!(site.read("services/web/latest.json").as_deref(), Some(r#"{"port":80}"#));
    assert_eq!(site.read("services/web/latest/deep/link").as_deref(), Some("x"));
    assert_eq!(site.read("services/web/latest/.gitignore").as_deref(), Some("*\n"));
    assert_eq!(site.read("devices/router/v1.json").as_deref(), Some("{}"));
    let mode = |path: &str| fs::metadata(site.current().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("services/web/latest/bin/start"), 0o555);
    assert_eq!(mode("services/web/latest/config.yaml"), 0o444);
    let status = audience.agent.view().status.clone();
    assert_eq!((status.sequence, status.commit, status.components), (Sequence(1), Some(first.commit), 2));

    // The next snapshot: only the changed component is reported, and readers still have the
    // snapshot before.
    site.set("services/web/latest", &[("config.yaml", "port: 81\n")]);
    let second = site.land();
    let mut heard = audience.agent.switches();
    take(&mut host, second, &audience).unwrap();
    let switched = heard.try_recv().unwrap();
    let changed = BTreeMap::from([("services/web/latest".parse().unwrap(), ChangeKind::Changed)]);
    assert_eq!(switched.changed, changed);
    assert_eq!(site.read("services/web/latest.json").as_deref(), Some(r#"{"port":81}"#));
    assert!(site.read("services/web/latest/bin/start").is_none());
    let before = site.state().join("export/snapshots/1/services/web/latest/deep/link");
    assert_eq!(fs::read_to_string(before).unwrap(), "x");

    // Removed components are gone, and only the last two snapshots stay.
    site.components.remove(&"devices/router/v1".parse().unwrap());
    let third = site.land();
    take(&mut host, third, &audience).unwrap();
    assert!(site.read("devices/router/v1.json").is_none());
    host.tidy(&audience, None);
    let kept = [".next", "2", "3"].map(str::to_owned);
    assert_eq!(names(&site.state().join("export/snapshots")), BTreeSet::from(kept));
    site.assert_tidy();
    let pending = host.outbox.pending();
    let notice = &pending[&WatcherId("everything".to_owned())];
    assert_eq!((notice.sequence, notice.components.len()), (Sequence(3), 2));
}

#[test]
fn a_component_that_cannot_be_rendered_does_not_stop_the_others() {
    let mut site = Site::new();
    site.set("services/a/latest", &[("config.yaml", "a: 1\n")]).set("services/b/latest", &[("config.yaml", "b: 1\n")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    site.set("services/a/latest", &[("config.yaml", "a: [\n")]).set("services/b/latest", &[("config.yaml", "b: 2\n")]);
    site.set("services/new/latest", &[("config.yaml", "a: 1"), ("config.json", "{}")]);
    let second = site.land();
    take(&mut host, second, &audience).unwrap();
    assert_eq!(site.read("services/a/latest.json").as_deref(), Some(r#"{"a":1}"#));
    assert_eq!(site.read("services/b/latest.json").as_deref(), Some(r#"{"b":2}"#));
    assert!(site.read("services/new/latest.json").is_none());
    let faults = audience.agent.view().status.faults.clone();
    assert_eq!(
        faults.keys().map(ToString::to_string).collect::<Vec<_>>(),
        ["services/a/latest", "services/new/latest"]
    );
    // A restart and an unrelated change keep the faults. A corrected component has none.
    drop(host);
    let (mut host, audience) = site.open();
    host.settle(&audience).unwrap();
    site.set("services/b/latest", &[("config.yaml", "b: 3\n")]);
    let third = site.land();
    take(&mut host, third, &audience).unwrap();
    assert_eq!(audience.agent.view().status.faults.len(), 2);
    site.set("services/a/latest", &[("config.yaml", "a: 4\n")]).set("services/new/latest", &[("page.html", "x")]);
    let fourth = site.land();
    take(&mut host, fourth, &audience).unwrap();
    assert!(audience.agent.view().status.faults.is_empty());
    assert_eq!(site.read("services/a/latest.json").as_deref(), Some(r#"{"a":4}"#));
}

#[test]
fn a_host_runs_what_its_inventory_says() {
    let mut site = Site::new();
    site.instance += "inventories:\n  roles:\n    core: {components: [services/a]}\n  hosts:\n    web-1: {roles: [core], components: ['devices/*']}\n";
    site.class = "services:\n  - {name: a, branch: master, tag: latest, raw: true}\n  - {name: b, branch: master, tag: latest}\ndevices:\n  - {name: d, branch: master, tag: latest}\n".to_owned();
    site.set("services/a/latest", &[("config.yaml", "not: [read"), ("x.j2", "raw")]);
    site.set("services/b/latest", &[("config.yaml", "b: 1\n")]).set("devices/d/latest", &[("f", "f")]);
    let pointer = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, pointer, &audience).unwrap();
    assert_eq!(site.read("services/a/latest/x.j2").as_deref(), Some("raw"));
    assert_eq!(site.read("services/a/latest.json").as_deref(), Some("{}"));
    assert!(site.read("devices/d/latest.json").is_some() && site.read("services/b/latest.json").is_none());
    assert!(audience.agent.view().status.listed);
    // The same state under another host name runs that host's components of the same snapshot.
    site.instance += "    other: {}\n";
    drop(host);
    let second = site.land();
    let (mut host, audience) = site.open_as("other");
    take(&mut host, second, &audience).unwrap();
    assert!(site.read("services/b/latest.json").is_some());
    assert!(!audience.agent.view().status.listed);
}

const ONLY_WEB_2: &str = "inventories: {hosts: {web-2: {}}}\n";

#[test]
fn a_host_that_is_not_listed_where_others_are_keeps_its_files_and_says_so() {
    let mut site = Site::new();
    let own = site.instance.clone();
    site.set("services/a/latest", &[("config.yaml", "a: 1\n")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();

    site.set("services/a/latest", &[("config.yaml", "a: 2\n")]).set("services/b/latest", &[("f", "f")]);
    site.instance = format!("{own}{ONLY_WEB_2}");
    let second = site.land();
    let words = "`web-1` is none of them (did you mean `web-2`?)";
    let refused = |result: Result<(), TransactionError>| match result {
        Err(TransactionError::Refused(why)) => assert!(why.contains(words) && why.contains("keeps the files"), "{why}"),
        other => panic!("it was taken: {other:?}"),
    };
    refused(take(&mut host, second, &audience));
    let kept = |site: &Site| {
        assert_eq!(site.read("services/a/latest.json").as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(site.read("services/b/latest/f"), None);
    };
    kept(&site);
    // A restart, a repair, and a change of nothing but content are no way in.
    drop(host);
    let (mut host, audience) = site.open();
    refused(host.settle(&audience));
    assert!(repair(&mut host, &audience).is_whole());
    site.set("services/a/latest", &[("config.yaml", "a: 3\n")]);
    let third = site.land();
    refused(take(&mut host, third, &audience));
    kept(&site);
    site.assert_tidy();
    // It takes the next snapshot that lists it, or lets unlisted hosts in.
    site.instance = format!("{own}{}", ONLY_WEB_2.replace("}}}", "}}, closed: false}"));
    let fourth = site.land();
    take(&mut host, fourth, &audience).unwrap();
    assert_eq!(site.read("services/a/latest.json").as_deref(), Some(r#"{"a":3}"#));
    assert_eq!(site.read("services/b/latest/f").as_deref(), Some("f"));
    let status = audience.agent.view().status.clone();
    assert_eq!((status.listed, status.shut_out), (false, None));
    // A host without files gets none.
    let mut empty = Site::new();
    empty.instance += ONLY_WEB_2;
    empty.set("services/a/latest", &[("f", "f")]);
    let first = empty.land();
    let (mut host, audience) = empty.open();
    refused(take(&mut host, first, &audience));
    assert!(audience.agent.view().exported.is_none() && !empty.current().exists());
}

#[test]
fn a_host_that_is_shut_out_mends_the_files_that_it_keeps() {
    let mut site = Site::new();
    site.set("services/a/latest", &[("config.yaml", "a: 1\n"), ("f", "f")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    site.set("services/a/latest", &[("f", "2")]);
    site.instance += ONLY_WEB_2;
    let second = site.land();
    assert!(take(&mut host, second, &audience).is_err());
    drop(host);
    let damage = |path: &str, from: &str, to: &str| {
        let file = site.current().join(path).canonicalize().unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&file, text.replace(from, to)).unwrap();
    };
    // Damaged files, and those that another version of the agent rendered.
    let rendering = format!(r#""rendering":{}"#, conf_core::render::RENDERING);
    for (path, from, to) in
        [("services/a/latest/f", "f", "x"), ("snapshot.json", rendering.as_str(), r#""rendering":999999"#)]
    {
        damage(path, from, to);
        let (mut host, audience) = site.open();
        assert!(matches!(host.settle(&audience), Err(TransactionError::Refused(_))), "it still says so");
        assert_eq!(site.read("services/a/latest/f").as_deref(), Some("f"));
        assert!(site.read(path).unwrap().contains(from), "{path}");
        assert!(host.model.is_some() && host.is_whole(), "{path}");
        assert_eq!((host.export.snapshot(), host.known()), (Some(first), Some(second)));
    }
}

#[test]
fn an_export_of_an_agent_that_let_unlisted_hosts_in_stays_whole_and_is_a_problem() {
    let mut site = Site::new();
    let own = site.instance.clone();
    site.set("services/a/latest", &[("config.yaml", "a: 1\n"), ("f", "f")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    drop(host);
    // As if that agent had exported a snapshot that lists others.
    site.instance = format!("{own}{ONLY_WEB_2}");
    let shutting_out = site.compose(&site.key, &site.datacenter, 1, None);
    let header = site.current().join("snapshot.json");
    let text = fs::read_to_string(&header).unwrap();
    let folder = site.current().canonicalize().unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(&header).unwrap();
    fs::write(&header, text.replace(&first.commit.to_string(), &shutting_out.to_string())).unwrap();
    let name = format!("refs/snapshots/{}", site.datacenter);
    site.repo().reference(&name, shutting_out.into(), true, "test").unwrap();

    let (mut host, audience) = site.open();
    host.settle(&audience).unwrap();
    host.publish_to(&audience.agent);
    let status = audience.agent.view().status.clone();
    assert!(status.shut_out.is_some_and(|why| why.contains("did you mean `web-2`?")));
    assert!(status.error.is_some_and(|why| why.contains("`web-1` is none of them")), "it is reported");
    assert!(host.verify().problems.is_empty());
    // Damage is mended from that snapshot.
    let file = site.current().join("services/a/latest/f").canonicalize().unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, "x").unwrap();
    drop(host);
    let (mut host, audience) = site.open();
    host.settle(&audience).unwrap();
    assert_eq!(site.read("services/a/latest/f").as_deref(), Some("f"));
    let second = site.land();
    assert!(matches!(take(&mut host, second, &audience), Err(TransactionError::Refused(_))));
    assert_eq!(site.read("services/a/latest.json").as_deref(), Some(r#"{"a":1}"#));
}

#[test]
fn a_component_that_the_file_names_and_the_datacenter_lacks_is_a_problem() {
    let mut site = Site::new();
    site.set("services/web/latest", &[("f", "f")]).set("devices/router/v1", &[("f", "f")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    let text = "watch:\n- {components: [services/web, services/wbe], command: /bin/true}\n\
                probe:\n- {component: devices/router/v2, command: /bin/true}\n";
    host.named = NamedComponent::all("/etc/c.yaml", text);
    take(&mut host, first, &audience).unwrap();
    let remedy = "; correct the name, or let the datacenter run it";
    let web = "/etc/c.yaml, line 2: `watch:` names services/wbe, which us-west/v1 does not have (did you mean `services/web`?)";
    let router = "/etc/c.yaml, line 4: `probe:` names devices/router/v2, which us-west/v1 does not have (did you mean `devices/router/v1`?)";
    assert_eq!(audience.agent.view().status.missing, [format!("{web}{remedy}"), format!("{router}{remedy}")]);
    site.set("services/wbe/latest", &[("f", "f")]);
    let second = site.land();
    take(&mut host, second, &audience).unwrap();
    assert_eq!(audience.agent.view().status.missing, [format!("{router}{remedy}")]);
}

#[test]
fn bad_snapshots_are_refused() {
    let mut site = Site::new();
    site.set("services/web/latest", &[("config.yaml", "port: 1\n")]);
    let first = site.land();
    let second = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, second, &audience).unwrap();
    let before = names(&site.state().join("export/store"));

    let stranger = SigningKey::generate(&site.folder.path().join("stranger.key"), "stranger").unwrap();
    let other: DatacenterName = "us-east/v1".parse().unwrap();
    let at = |sequence, commit| Pointer { sequence: Sequence(sequence), commit };
    let cases = [
        ("unknown key", at(3, site.compose(&stranger, &site.datacenter, 3, site.parent))),
        ("another datacenter's", at(3, site.compose(&site.key, &other, 3, site.parent))),
        ("older", first),
        ("a number that is not its own", at(9, second.commit)),
        ("an older one under a higher number", at(9, first.commit)),
        ("one that does not follow", at(3, site.compose(&site.key, &site.datacenter, 3, Some(first.commit)))),
        ("another of the same number", at(2, site.compose(&site.key, &site.datacenter, 2, None))),
        ("a tree", at(3, site.components.values().next().unwrap().tree)),
    ];
    for (what, pointer) in cases {
        let result = take(&mut host, pointer, &audience);
        assert!(result.is_err(), "{what} was taken");
        assert_eq!(host.known(), Some(second), "{what}");
        assert_eq!(names(&site.state().join("export/store")), before, "{what}");
    }
    let third = site.land();
    take(&mut host, third, &audience).unwrap();
}

#[test]
fn a_bad_tree_is_kept_out() {
    let mut site = Site::new();
    site.set("services/good/latest", &[("f", "f")]).set("services/bad/latest", &[("way-out", "-> ../../../../../etc")]);
    let pointer = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, pointer, &audience).unwrap();
    assert!(site.read("services/good/latest/f").is_some());
    assert!(fs::symlink_metadata(site.current().join("services/bad")).is_err());
    assert_eq!(audience.agent.view().status.faults.len(), 1);
}

/// The processor time of this thread, which a busy machine does not change.
fn cpu() -> Duration {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(schedstat.split(' ').next().unwrap().parse().unwrap())
}

/// Prints the cost of a change on a host with 3,000 components. Quote only figures of a release
/// build.
#[test]
fn three_thousand_components() {
    let mut site = Site::new();
    for number in 0..3000 {
        let config = format!("number: {number}\n");
        site.set(&format!("services/service-{number}/latest"), &[("config.yaml", &config), ("readme", "the same")]);
    }
    let pointer = site.land();
    let (mut host, audience) = site.open();
    let since = Instant::now();
    take(&mut host, pointer, &audience).unwrap();
    println!("3,000 components, first export: {:?}", since.elapsed());
    for round in 0..5 {
        site.set("services/service-7/latest", &[("config.yaml", &format!("number: {round}\n"))]);
        let pointer = site.land();
        let (since, before) = (Instant::now(), cpu());
        let snapshot = host.accept(pointer).unwrap();
        let accepted = since.elapsed();
        host.put_in_place(&snapshot, false, since, &audience).unwrap();
        let placed = since.elapsed();
        println!("on the processor: {:?}", cpu().saturating_sub(before));
        host.tidy(&audience, None);
        println!("one changed: accepted {accepted:?}, switched {placed:?}, tidied {:?}", since.elapsed());
        assert_eq!(site.read("services/service-7/latest.json"), Some(format!(r#"{{"number":{round}}}"#)));
    }
    // Each looks at 1,000, and the first three read their files once.
    for _ in 0..7 {
        let (since, before) = (Instant::now(), cpu());
        assert_eq!(host.look(), Damage::default());
        println!("a look: {:?}, on the processor {:?}", since.elapsed(), cpu().saturating_sub(before));
    }
    drop(host);
    let since = Instant::now();
    let (mut host, audience) = site.open();
    let opened = since.elapsed();
    host.settle(&audience).unwrap();
    println!("restart: opened {opened:?}, every byte checked {:?}", since.elapsed());
}
