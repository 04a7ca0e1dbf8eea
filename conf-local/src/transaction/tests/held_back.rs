//! Components that cannot be used, and the files that stay in their place.

use crate::transaction::tests::*;

fn told(host: &Host) -> BTreeSet<String> {
    host.outbox.pending().values().flat_map(|notice| notice.components.iter().map(ToString::to_string)).collect()
}

fn forget_told(host: &Host) {
    host.outbox.forget(&WatcherId("everything".to_owned()));
    host.outbox.write().unwrap();
}

#[test]
fn a_version_that_cannot_be_used_leaves_the_one_before_it_in_place() {
    let mut site = Site::new();
    fs::create_dir_all(site.place()).unwrap();
    site.configure(
        "export: [{component: services/a, path: PLACE/a, mode: copy}, {component: services/a, path: PLACE/link, mode: link}]",
    );
    let become_version = |site: &mut Site, version: &str, files: &[(&str, &str)]| {
        site.components.retain(|name, _| !name.to_string().starts_with("services/a/"));
        site.set(&format!("services/a/{version}"), files);
    };
    let assert_first = |site: &Site, what: &str| {
        assert_eq!(site.read("services/a/v1/one").as_deref(), Some("1"), "{what}");
        assert_eq!(names(&site.current().join("services/a")), BTreeSet::from(["v1", "v1.json"].map(str::to_owned)));
        for path in ["a/one", "link/one"] {
            assert_eq!(fs::read_to_string(site.place().join(path)).ok().as_deref(), Some("1"), "{what}: {path}");
        }
    };
    site.set("services/b/latest", &[("b", "1")]);
    become_version(&mut site, "v1", &[("one", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    assert_first(&site, "at first");
    forget_told(&host);

    // The component cannot be rendered, and then cannot be placed. Meanwhile others change, the
    // agent starts again, and places are tried again.
    fs::write(site.place().join("a/theirs"), "theirs").unwrap();
    let failing: [(&str, &[(&str, &str)]); 2] =
        [("v2", &[("config.yaml", "at: [\n")]), ("v3", &[("theirs/in-the-way", "3"), ("one", "3")])];
    for (version, files) in failing {
        become_version(&mut site, version, files);
        let pointer = site.land();
        take(&mut host, pointer, &audience).unwrap();
        assert_first(&site, version);
        assert_eq!(told(&host), BTreeSet::new(), "{version}");
        let faults = audience.agent.view().status.faults.clone();
        assert_eq!(faults.keys().map(ToString::to_string).collect::<Vec<_>>(), [format!("services/a/{version}")]);
        let failures = audience.agent.view().status.failures();
        let about = failures.iter().map(|failure| (failure.after, failure.through)).collect::<Vec<_>>();
        assert_eq!(about, [(first.sequence, None)], "{version}: from the change that could not be used");
        host.place_again(&audience).unwrap();
        assert_first(&site, "tried again");
        assert_eq!(host.verify().problems, Vec::<String>::new(), "{version}");
        site.set("services/b/latest", &[("b", version)]);
        let pointer = site.land();
        take(&mut host, pointer, &audience).unwrap();
        assert_first(&site, "another changed");
        assert_eq!(told(&host), BTreeSet::from(["services/b/latest".to_owned()]));
        forget_told(&host);
        drop(host);
        (host, _) = site.open();
        host.settle(&audience).unwrap();
        assert_first(&site, "after a restart");
        assert_eq!(told(&host), BTreeSet::new(), "{version}");
    }
    become_version(&mut site, "v4", &[("one", "4")]);
    let last = site.land();
    take(&mut host, last, &audience).unwrap();
    assert_eq!(names(&site.current().join("services/a")), BTreeSet::from(["v4", "v4.json"].map(str::to_owned)));
    assert_eq!(fs::read_to_string(site.place().join("a/one")).unwrap(), "4");
    assert_eq!(fs::read_to_string(site.place().join("link/one")).unwrap(), "4");
    assert!(audience.agent.view().status.faults.is_empty());
    // A component that this host does not run any more goes, although its last version failed.
    become_version(&mut site, "v5", &[("config.yaml", "at: [\n")]);
    let failing = site.land();
    take(&mut host, failing, &audience).unwrap();
    site.components.retain(|name, _| name.to_string() == "services/b/latest");
    let gone = site.land();
    take(&mut host, gone, &audience).unwrap();
    assert!(site.read("services/a/v4/one").is_none());
    assert_eq!(names(&site.place().join("a")), BTreeSet::from(["theirs".to_owned()]));
    assert!(!site.place().join("link").is_symlink());
}

#[test]
fn a_component_at_two_places_has_one_version_at_both() {
    let mut site = Site::new();
    fs::create_dir_all(site.place().join("z")).unwrap();
    site.configure("export: [{component: services/a, path: PLACE/a, mode: copy}, {component: services/a, path: PLACE/z, mode: copy}]");
    site.set("services/a/latest", &[("one", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    let places = ["a/one", "z/one"].map(|path| site.place().join(path));
    let both = |of: &str| places.each_ref().map(|path| fs::read_to_string(path).unwrap() == of);
    assert_eq!(both("1"), [true, true]);
    let in_the_way = site.place().join("z/way");
    fs::write(&in_the_way, "theirs").unwrap();
    site.set("services/a/latest", &[("one", "2"), ("way/file", "2")]);
    let second = site.land();
    take(&mut host, second, &audience).unwrap();
    assert_eq!(both("1"), [true, true]);
    assert_eq!(site.read("services/a/latest/one").as_deref(), Some("1"));
    fs::remove_file(&in_the_way).unwrap();
    host.place_again(&audience).unwrap();
    assert_eq!(both("2"), [true, true]);
    assert!(!host.is_troubled());
}

#[test]
fn a_folder_gives_way_to_a_file_with_all_the_folders_in_it() {
    let mut site = Site::new();
    fs::create_dir_all(site.place()).unwrap();
    site.configure("export: [{component: services/a, path: PLACE/a, mode: copy}]");
    site.set("services/a/latest", &[("way/b/c/one", "1"), ("way/d/two", "2"), ("other", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    assert!(site.place().join("a/way/b/c/one").exists());
    site.set("services/a/latest", &[("way", "a file"), ("other", "2")]);
    let second = site.land();
    take(&mut host, second, &audience).unwrap();
    assert_eq!(fs::read_to_string(site.place().join("a/way")).ok().as_deref(), Some("a file"));
    assert!(audience.agent.view().status.faults.is_empty());
    // And back to a folder.
    site.set("services/a/latest", &[("way/b/c/one", "3")]);
    let third = site.land();
    take(&mut host, third, &audience).unwrap();
    assert_eq!(fs::read_to_string(site.place().join("a/way/b/c/one")).unwrap(), "3");
    assert_eq!(names(&site.place().join("a")), BTreeSet::from(["way".to_owned()]));
}

#[test]
fn folders_follow_a_changed_entry_and_are_never_taken_when_others_may_write_into_them() {
    let mut site = Site::new();
    fs::create_dir_all(site.place()).unwrap();
    site.configure("export: [{component: services/a, path: PLACE/a, mode: copy}]");
    site.set("services/a/latest", &[("sub/deep/one", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    let (sub, deep) = (site.place().join("a/sub"), site.place().join("a/sub/deep"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&sub), mode(&deep)), (0o755, 0o755));
    drop(host);
    site.configure("export: [{component: services/a, path: PLACE/a, mode: copy, dir_mode: '0750'}]");
    // A crash leaves a folder that was just made like this.
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o700)).unwrap();
    let (mut host, audience) = site.open();
    host.settle(&audience).unwrap();
    assert_eq!((mode(&sub), mode(&deep)), (0o750, 0o750));
    fs::set_permissions(&sub, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(host.verify().problems.len(), 1);

    fs::set_permissions(&sub, fs::Permissions::from_mode(0o777)).unwrap();
    site.set("services/a/latest", &[("sub/deep/one", "2")]);
    let second = site.land();
    take(&mut host, second, &audience).unwrap();
    let fault = audience.agent.view().status.faults.values().next().cloned().unwrap_or_default();
    assert!(fault.contains("a/sub may be written by others (mode 0777)"), "{fault}");
    assert_eq!(fs::read_to_string(deep.join("one")).unwrap(), "1");
    fs::set_permissions(&sub, fs::Permissions::from_mode(0o755)).unwrap();
    host.place_again(&audience).unwrap();
    assert_eq!((mode(&sub), fs::read_to_string(deep.join("one")).unwrap()), (0o750, "2".to_owned()));
}

/// A mount over a path. Dropping this removes it. Only root can mount.
struct Mounted(PathBuf);

impl Mounted {
    fn bind(from: &Path, over: &Path) -> Self {
        let done = std::process::Command::new("mount").arg("--bind").args([from, over]).status().unwrap();
        assert!(done.success(), "this test needs root, to mount a folder of its own");
        Mounted(over.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_mount_below_a_place_is_refused_before_anything_is_changed() {
    let mut site = Site::new();
    fs::create_dir_all(site.place()).unwrap();
    site.configure("export: [{component: services/a, path: PLACE/a, mode: copy}]");
    site.set("services/a/latest", &[("one", "1"), ("sub/two", "1"), ("sub/three", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    let a = site.place().join("a");
    let read = |path: &str| fs::read_to_string(a.join(path)).unwrap();
    for (path, from) in [("sub", "elsewhere"), ("sub/two", "elsewhere/two")] {
        fs::create_dir_all(site.folder().join("elsewhere")).unwrap();
        fs::write(site.folder().join("elsewhere/two"), "theirs").unwrap();
        let inode = |path: &str| fs::metadata(a.join(path)).unwrap().ino();
        let before = inode("one");
        let mounted = Mounted::bind(&site.folder().join(from), &a.join(path));
        site.set("services/a/latest", &[("one", path), ("sub/two", path)]);
        let next = site.land();
        take(&mut host, next, &audience).unwrap();
        let fault = audience.agent.view().status.faults.values().next().cloned().unwrap_or_default();
        assert!(fault.contains(&format!("a/{path} is a mount of its own")), "{fault}");
        host.place_again(&audience).unwrap();
        assert_eq!((read("sub/two").as_str(), inode("one")), ("theirs", before), "{path}");
        drop(mounted);
        host.place_again(&audience).unwrap();
        assert_eq!((read("one").as_str(), read("sub/two").as_str()), (path, path));
        assert!(!host.is_troubled());
    }
}

/// A path with as many bytes as 25 folders of 200 letters.
fn long() -> String {
    vec!["f".repeat(200); 25].join("/")
}

#[test]
fn a_component_that_this_host_cannot_write_holds_up_no_other() {
    type Awkward<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a str);
    let (path, target) = (long(), format!("-> {}", long()));
    let awkward: [Awkward<'_>; 2] =
        [("a path", vec![(&path, "x")], "File name too long"), ("a link", vec![("l", &target)], "File name too long")];
    for (what, files, word) in awkward {
        let mut site = Site::new();
        site.set("services/a/latest", &[("one", "1")]).set("services/b/latest", &[("one", "1")]);
        let first = site.land();
        let (mut host, audience) = site.open();
        take(&mut host, first, &audience).unwrap();
        let awkward: Vec<(&str, &str)> = files.iter().copied().chain([("other", "2")]).collect();
        site.set("services/a/latest", &awkward).set("services/b/latest", &[("one", "2")]);
        site.set("services/c/latest", &[("one", "2")]);
        let second = site.land();
        take(&mut host, second, &audience).unwrap();
        for (file, want) in [("a/latest/one", "1"), ("b/latest/one", "2"), ("c/latest/one", "2")] {
            assert_eq!(site.read(&format!("services/{file}")).as_deref(), Some(want), "{what}: {file}");
        }
        let faults = audience.agent.view().status.faults.clone();
        let reasons: Vec<String> = faults.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
        assert_eq!(reasons.len(), 1, "{what}: {reasons:?}");
        assert!(reasons[0].starts_with("services/a/latest: ") && reasons[0].contains(word), "{what}: {reasons:?}");
        site.assert_tidy();
        assert_eq!(host.verify().problems, Vec::<String>::new(), "{what}");
        // Another change does not try it again, and a good version is taken.
        site.set("services/b/latest", &[("one", "3")]);
        let third = site.land();
        take(&mut host, third, &audience).unwrap();
        assert_eq!(site.read("services/b/latest/one").as_deref(), Some("3"));
        site.set("services/a/latest", &[("one", "4")]);
        let last = site.land();
        take(&mut host, last, &audience).unwrap();
        assert_eq!(site.read("services/a/latest/one").as_deref(), Some("4"));
        assert!(audience.agent.view().status.faults.is_empty());
        site.assert_tidy();
    }
}

#[test]
fn a_component_whose_content_is_damaged_here_holds_up_no_other() {
    // A file's content, and a template's, which is looked at before anything is rendered.
    for file in ["one", "one.j2"] {
        let mut site = Site::new();
        site.set("services/a/latest", &[("one", "1")]).set("services/b/latest", &[("one", "1")]);
        let first = site.land();
        let (mut host, audience) = site.open();
        take(&mut host, first, &audience).unwrap();
        let text = format!("2 {file}");
        site.set("services/a/latest", &[(file, &text)]).set("services/b/latest", &[("one", "2")]);
        let second = site.land();
        let id = git2::Oid::hash_object(git2::ObjectType::Blob, text.as_bytes()).unwrap().to_string();
        let object = site.state().join("repo.git/objects").join(&id[..2]).join(&id[2..]);
        let whole = fs::read(&object).unwrap();
        fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&object, "damaged").unwrap();
        let told = take(&mut host, second, &audience).unwrap_err();
        assert!(matches!(told, TransactionError::Damaged(_)), "the damage is told, so that it is mended: {told}");
        assert!(host.lacks_content());
        assert_eq!(site.read("services/a/latest/one").as_deref(), Some("1"), "{file}");
        assert_eq!(site.read("services/b/latest/one").as_deref(), Some("2"), "{file}");
        let faults = audience.agent.view().status.faults.clone();
        assert_eq!(faults.keys().map(ToString::to_string).collect::<Vec<_>>(), ["services/a/latest"]);
        let reason = faults.values().next().unwrap();
        assert!(reason.contains("the repository on this host lacks its content"), "{reason}");
        // The fetch brings it, and the same snapshot is put in place once more.
        fs::write(&object, whole).unwrap();
        host.repository.pool.forget();
        take(&mut host, second, &audience).unwrap();
        assert!(!host.lacks_content(), "{file}");
        let faults: Vec<String> = audience.agent.view().status.faults.values().cloned().collect();
        if file == "one" {
            assert_eq!(site.read("services/a/latest/one").as_deref(), Some(&*text));
            assert_eq!(faults, [""; 0]);
        } else {
            // There is no program here that renders: with its content it comes as far as that.
            assert!(faults.len() == 1 && !faults[0].contains("lacks its content"), "{faults:?}");
        }
    }
}

#[test]
fn after_a_restart_a_repository_that_was_set_aside_is_still_known_to_lack_content() {
    let mut site = Site::new();
    site.set("services/a/latest", &[("one", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    site.set("services/a/latest", &[("one", "2")]);
    let second = site.land();
    let id = git2::Oid::hash_object(git2::ObjectType::Blob, b"2").unwrap().to_string();
    let object = site.state().join("repo.git/objects").join(&id[..2]).join(&id[2..]);
    fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&object, "damaged").unwrap();
    take(&mut host, second, &audience).unwrap_err();
    host.heal().unwrap();
    drop((host, audience));
    let (host, _audience) = site.open();
    assert!(host.lacks_content(), "else nothing would fetch it before the next change");
}

#[test]
fn links_that_lead_out_are_exported_only_where_this_host_allows_it_and_never_followed() {
    let mut site = Site::new();
    fs::create_dir_all(site.place()).unwrap();
    let outside = site.folder().join("outside");
    fs::create_dir_all(outside.join("folder")).unwrap();
    fs::write(outside.join("theirs"), "theirs").unwrap();
    fs::write(outside.join("folder/theirs"), "theirs").unwrap();
    let untouched = |what: &str| {
        assert_eq!(fs::read_to_string(outside.join("theirs")).unwrap(), "theirs", "{what}");
        assert_eq!(names(&outside.join("folder")), BTreeSet::from(["theirs".to_owned()]), "{what}");
    };
    let entry = |links: &str| format!("applications:\n  - {{name: wiki, branch: master, tag: latest{links}}}\n");
    let place = "export: [{component: applications/wiki, path: PLACE/wiki, mode: copy}]";
    let (file, folder) = (format!("-> {}/theirs", outside.display()), format!("-> {}/folder", outside.display()));
    let linked = [("owl", &*file), ("data", &*folder), ("up", "-> ../../..")];
    site.class = entry("");
    site.configure(place);
    site.set("applications/wiki/latest", &linked);
    let plain = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, plain, &audience).unwrap();
    let reason = |audience: &Audience| audience.agent.view().status.faults.values().next().cloned().unwrap_or_default();
    assert!(reason(&audience).contains("`links: any` in the entry of applications/wiki"), "{}", reason(&audience));

    // The entry asks for it, and this host does not list the component.
    site.class = entry(", links: any");
    let asked = site.land();
    take(&mut host, asked, &audience).unwrap();
    let told = "this host allows it only by `links: [applications/wiki]` in conf-local.yaml";
    assert!(reason(&audience).contains(told), "{}", reason(&audience));
    assert_eq!(names(&site.current().join("applications/wiki")), BTreeSet::new());

    drop(host);
    site.configure(&format!("links: [applications/wiki]\n{place}"));
    let (mut host, audience) = site.open();
    host.settle(&audience).unwrap();
    assert_eq!(reason(&audience), "");
    let at = site.current().join("applications/wiki/latest");
    for root in [&at, &site.place().join("wiki")] {
        assert_eq!(fs::read_to_string(root.join("owl")).unwrap(), "theirs");
        assert_eq!(fs::read_link(root.join("data")).unwrap(), outside.join("folder"));
        assert_eq!(fs::read_link(root.join("up")).unwrap(), PathBuf::from("../../.."));
    }
    assert_eq!(host.verify().problems, Vec::<String>::new());

    // A file and a folder take the places of the links, and links those of a file and a folder.
    let plain = [("owl", "1"), ("data/theirs", "1"), ("data/mine", "1"), ("up/x", "1")];
    for (what, files) in [("files", &plain[..]), ("links", &linked[..]), ("files again", &plain[..])] {
        site.set("applications/wiki/latest", files);
        let pointer = site.land();
        take(&mut host, pointer, &audience).unwrap();
        assert_eq!(reason(&audience), "", "{what}");
        untouched(what);
    }
    assert_eq!(fs::read_to_string(site.place().join("wiki/data/theirs")).unwrap(), "1");
    site.set("applications/wiki/latest", &linked);
    let pointer = site.land();
    take(&mut host, pointer, &audience).unwrap();
    // The component goes, with its links and nothing that they lead to.
    site.components.clear();
    site.class = "applications: []\n".to_owned();
    let gone = site.land();
    take(&mut host, gone, &audience).unwrap();
    host.tidy(&audience, None);
    untouched("gone");
    assert_eq!(names(&site.place().join("wiki")), BTreeSet::new());
}
