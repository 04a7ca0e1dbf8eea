//! Finding and mending damage, and refusing a state folder that is in use.

use crate::transaction::tests::*;

#[test]
fn a_damaged_export_is_mended_from_the_repository() {
    type Damage = (&'static str, fn(&Path));
    let damage: [Damage; 7] = [
        ("wiped", |export| fs::remove_dir_all(export).unwrap()),
        ("no current", |export| fs::remove_file(export.join("current")).unwrap()),
        ("current is a folder", |export| {
            fs::remove_file(export.join("current")).unwrap();
            fs::create_dir(export.join("current")).unwrap();
        }),
        ("no store", |export| fs::remove_dir_all(export.join("store")).unwrap()),
        ("no names", |export| fs::remove_dir_all(export.join("names")).unwrap()),
        ("no header", |export| fs::remove_file(export.join("current/snapshot.json")).unwrap()),
        ("a file changed", |export| {
            let file = export.join("current/services/a/latest/two");
            fs::remove_file(&file).unwrap();
            fs::write(&file, "3").unwrap();
        }),
    ];
    for (what, damage) in damage {
        let (site, second) = step();
        let (mut host, audience) = site.open();
        take(&mut host, second, &audience).unwrap();
        drop(host);
        damage(&site.state().join("export"));
        let (mut host, audience) = site.open();
        host.settle(&audience).unwrap();
        assert_eq!(seen(&site), 2, "{what}");
        assert_eq!(site.read("services/a/latest/two").as_deref(), Some("2"), "{what}");
        let report = host.verify();
        assert_eq!(report.problems, Vec::<String>::new(), "{what}");
        assert!(report.objects > 10);
    }
}

#[test]
fn verify_finds_and_mends() {
    let (site, second) = step();
    let (mut host, audience) = site.open();
    take(&mut host, second, &audience).unwrap();
    let file = fs::canonicalize(site.current().join("services/a/latest/two")).unwrap();
    fs::remove_file(&file).unwrap();
    let report = host.verify();
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    let report = repair(&mut host, &audience);
    assert!(report.is_whole() && report.repaired.len() == 1);
    assert_eq!(seen(&site), 2);
    assert!(host.verify().problems.is_empty());
}

#[test]
fn a_damaged_repository_is_set_aside_and_the_export_stays() {
    let (site, second) = step();
    let (mut host, audience) = site.open();
    take(&mut host, second, &audience).unwrap();
    assert!(!host.heal().unwrap(), "a good repository was thrown away");
    let objects = site.state().join("repo.git/objects");
    for folder in names(&objects).iter().filter(|name| name.len() == 2) {
        for object in names(&objects.join(folder)) {
            let path = objects.join(folder).join(object);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(&path, "damaged").unwrap();
        }
    }
    drop(host);
    let (mut host, audience) = site.open();
    let _ = host.settle(&audience);
    assert_eq!(seen(&site), 2);
    assert!(host.heal().unwrap());
    assert_eq!(host.have(), None);
    assert_eq!(host.known(), Some(second), "the sequence that was taken is forgotten");
    assert!(site.state().join("repo.git.damaged").exists());
    assert_eq!(seen(&site), 2);
}

#[test]
fn a_second_agent_is_kept_out_and_another_datacenter_too() {
    let (mut site, _) = step();
    let (host, _) = site.open();
    drop(host);
    site.datacenter = "us-east/v1".parse().unwrap();
    let open = Host::open(HostOptions {
        datacenter: &site.datacenter,
        host: &"web-1".parse().unwrap(),
        keys: TrustedKeys::load(&site.folder.path().join("master.key.pub")).unwrap(),
        state: &site.state(),
        git_dir: None,
        retention: Retention { last: 2, younger_than: Duration::ZERO },
        identity: None,
        place: None,
        links: Vec::new(),
        checks: Checks::default(),
        offers: Offers::default(),
        named: Vec::new(),
    });
    let error = open.err().unwrap().to_string();
    assert!(error.contains("us-west/v1"), "{error}");
}
