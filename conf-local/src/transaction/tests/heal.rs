//! Damage under a running agent: found by a look, and mended without a restart.

use std::collections::BTreeMap;

use conf_core::{daemon::chain, git::Durability};
use nix::sys::signal::Signal;

use crate::{
    notify::{Registry, WatchRequest},
    transaction::{Damage, tests::*},
};

/// Looks at everything, however long that takes: a usual look reads for a second at most.
fn look(host: &mut Host) -> Damage {
    host.look_at(usize::MAX)
}

/// A host of the second snapshot, which has looked at its disk.
fn running(file: &str) -> (Site, Pointer, Host, Audience) {
    let (site, second) = step_with(file);
    let (mut host, audience) = site.open();
    take(&mut host, second, &audience).unwrap();
    let everything = WatcherId("everything".to_owned());
    let notice = host.outbox.pending()[&everything].clone();
    host.outbox.delivered(&everything, &notice);
    host.outbox.write().unwrap();
    assert_eq!(look(&mut host), Damage::default());
    (site, second, host, audience)
}

fn remove(path: &Path) {
    if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
}

#[test]
fn a_look_finds_what_was_done_to_the_export_and_the_host_makes_it_again() {
    type Damages = (&'static str, fn(&Path));
    let damages: [Damages; 20] = [
        ("export", |export| remove(export)),
        ("store", |export| remove(&export.join("store"))),
        ("names", |export| remove(&export.join("names"))),
        ("snapshots", |export| remove(&export.join("snapshots"))),
        ("the snapshot", |export| remove(&export.join("snapshots/2"))),
        ("current", |export| remove(&export.join("current"))),
        ("current is a folder", |export| {
            remove(&export.join("current"));
            fs::create_dir(export.join("current")).unwrap();
        }),
        ("current leads elsewhere", |export| {
            remove(&export.join("current"));
            std::os::unix::fs::symlink("snapshots/1", export.join("current")).unwrap();
        }),
        ("header", |export| remove(&export.join("snapshots/2/snapshot.json"))),
        ("a kind", |export| remove(&export.join("snapshots/2/services"))),
        ("a link", |export| remove(&export.join("snapshots/2/services/a"))),
        ("links of versions", |export| remove(&fs::canonicalize(export.join("current/services/a")).unwrap())),
        ("a file removed", |export| remove(&fs::canonicalize(export.join("current/services/a/latest/two")).unwrap())),
        ("a file of the same size", |export| {
            let file = fs::canonicalize(export.join("current/services/a/latest/two")).unwrap();
            remove(&file);
            fs::write(&file, "3").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
        }),
        ("a file that others may write", |export| {
            let file = export.join("current/services/a/latest/two");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o646)).unwrap();
        }),
        ("a closed rendering", |export| {
            close(fs::canonicalize(export.join("current/services/a/latest")).unwrap().parent().unwrap());
        }),
        ("its closed files", |export| close(&export.join("current/services/a/latest"))),
        ("closed links of versions", |export| close(&export.join("current/services/a"))),
        ("a closed snapshot", |export| close(&export.join("snapshots/2"))),
        ("one file more", |export| fs::write(export.join("current/services/a/latest/three"), "3").unwrap()),
    ];
    for (what, damage) in damages {
        let (site, second, mut host, audience) = running("{}");
        damage(&site.state().join("export"));
        let found = look(&mut host);
        assert!(!found.export.is_empty() && found.state.is_empty(), "{what}: {found:?}");
        assert_eq!(host.mend_folders(false, &audience).unwrap(), None, "{what}: nothing need be fetched");
        host.mend_export(true, &audience).unwrap();
        assert_eq!(look(&mut host), Damage::default(), "{what}");
        assert_eq!(seen(&site), 2, "{what}");
        assert_eq!(host.verify().problems, Vec::<String>::new(), "{what}");
        assert!(host.outbox.pending().is_empty(), "{what}: the same files are no change");
        assert_eq!(host.known(), Some(second), "{what}");
        site.assert_tidy();
    }
}

#[test]
fn a_file_that_was_changed_has_its_own_component_rendered_again_and_no_other() {
    let (site, _, mut host, audience) = running("{}");
    let export = site.state().join("export");
    let made = fs::metadata(export.join("snapshots/2")).unwrap().ino();
    let file = export.join("current/services/a/latest/two");
    let before = fs::read(&file).unwrap();
    let changes: [&dyn Fn(); 3] =
        [&|| remove(&file), &|| conf_core::git::replace_file(&file, b"3", 0o644, Durability::None).unwrap(), &|| {
            close(fs::canonicalize(&file).unwrap().parent().unwrap());
        }];
    for change in changes {
        change();
        let found = look(&mut host);
        assert_eq!(found.renderings.iter().map(ToString::to_string).collect::<Vec<_>>(), ["services/a/latest"]);
        host.mend_seen(&found, false, &audience).unwrap();
        assert_eq!(fs::read(&file).unwrap(), before);
        assert_eq!(look(&mut host), Damage::default());
        assert_eq!(host.verify().problems, Vec::<String>::new());
        assert_eq!(fs::metadata(export.join("snapshots/2")).unwrap().ino(), made, "all was made again");
        site.assert_tidy();
    }
    // Damage beside it has all of it made again.
    remove(&file);
    remove(&export.join("current/services/a"));
    let found = look(&mut host);
    host.mend_seen(&found, false, &audience).unwrap();
    assert_eq!(look(&mut host), Damage::default());
    assert_eq!(fs::read(&file).unwrap(), before);
}

fn close(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn outer_folders_that_were_closed_or_given_away_are_opened_without_making_anything_again() {
    let (site, _, mut host, audience) = running("{}");
    let export = site.state().join("export");
    let made = fs::metadata(export.join("snapshots/2")).unwrap().ino();
    for folder in [".", "store", "names", "snapshots"].map(|name| export.join(name)) {
        for mode in [0o750, 0o700, 0o777] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            let found = look(&mut host);
            assert!(!found.state.is_empty() && found.export.is_empty(), "{}: {found:?}", folder.display());
            host.mend_folders(false, &audience).unwrap();
            assert_eq!(look(&mut host), Damage::default(), "{}", folder.display());
        }
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(export.join("store"), Some(1234), None).unwrap();
        let found = look(&mut host);
        assert!(!found.state.is_empty() && found.export.is_empty(), "{found:?}");
        host.mend_folders(false, &audience).unwrap();
        assert_eq!(look(&mut host), Damage::default());
    }
    assert_eq!(fs::metadata(export.join("snapshots/2")).unwrap().ino(), made, "nothing was rendered");
}

#[test]
fn state_files_that_were_removed_alone_are_noticed_and_written_again() {
    let (mut site, _, mut host, audience) = running(PLACED);
    site.set("services/a/latest", &[("config.yaml", "at: 3\n")]);
    let third = site.land();
    take(&mut host, third, &audience).unwrap();
    for file in ["salt", "identity", "duties.json", "placed.json"].map(|name| site.state().join(name)) {
        let before = fs::read(&file).unwrap();
        remove(&file);
        let found = look(&mut host).state;
        assert!(found.iter().any(|one| one.contains(file.to_str().unwrap())), "{}: {found:?}", file.display());
        host.mend_folders(false, &audience).unwrap();
        assert_eq!(look(&mut host), Damage::default());
        // One that was written over in place ends with spaces.
        assert!(fs::read(&file).unwrap().len() >= before.trim_ascii_end().len(), "{}", file.display());
    }
}

#[test]
fn what_was_just_written_or_just_read_is_known_before_the_first_look() {
    let (site, _, host, audience) = running("{}");
    let known = |host: &Host| {
        let (_, kept) = host.export.current().unwrap();
        kept.contents.values().all(|hash| host.export.seen.renderings.contains_key(hash))
    };
    drop((host, audience));
    let (mut host, audience) = site.open();
    assert!(!known(&host));
    host.settle(&audience).unwrap();
    assert!(known(&host), "read at the start");
    host.export.seen = crate::export::Seen::default();
    host.mend_export(true, &audience).unwrap();
    assert!(known(&host), "written");
}

#[test]
fn a_look_reads_no_content_unless_something_was_touched_and_touching_alone_is_no_damage() {
    let (site, _, mut host, _audience) = running(PLACED);
    assert_eq!(look(&mut host), Damage::default());
    for file in [site.current().join("services/a/latest/two"), site.place().join("a/two")] {
        let stamp = fs::File::open(&file).unwrap();
        stamp.set_modified(std::time::SystemTime::now() + Duration::from_secs(5)).unwrap();
    }
    assert_eq!(look(&mut host), Damage::default());
}

#[test]
fn a_look_finds_what_was_done_to_the_repository_and_the_host_begins_a_new_one() {
    type Damages = (&'static str, fn(&Path));
    let damages: [Damages; 2] = [("objects", |repo| remove(&repo.join("objects"))), ("all of it", remove)];
    for (what, damage) in damages {
        let (mut site, second, mut host, audience) = running("{}");
        damage(&site.state().join("repo.git"));
        let found = look(&mut host);
        assert!(!found.state.is_empty() && found.export.is_empty(), "{what}: {found:?}");
        assert_eq!(host.mend_folders(false, &audience).unwrap(), Some(second), "{what}: it must be fetched");
        assert_eq!(host.known(), Some(second), "{what}");
        assert_eq!(seen(&site), 2, "{what}: the files stay");
        assert!(!look(&mut host).state.is_empty(), "{what}: it is missing until it is fetched");
        // An older snapshot is no replacement.
        assert_refused(host.accept(older(&mut site)), what);
    }
}

#[test]
fn damaged_refs_and_settings_are_written_again_beside_whole_objects() {
    type Damages = (&'static str, fn(&Path));
    let damages: [Damages; 6] = [
        ("ref zeroed", |repo| fs::write(repo.join("refs/snapshots/us-west/v1"), [0; 41]).unwrap()),
        ("ref removed", |repo| remove(&repo.join("refs/snapshots/us-west/v1"))),
        ("packed-refs", |repo| fs::write(repo.join("packed-refs"), "no refs\n").unwrap()),
        ("HEAD", |repo| fs::write(repo.join("HEAD"), "").unwrap()),
        ("HEAD is a folder", |repo| {
            remove(&repo.join("HEAD"));
            fs::create_dir(repo.join("HEAD")).unwrap();
        }),
        ("config", |repo| fs::write(repo.join("config"), "[[[").unwrap()),
    ];
    for (what, damage) in damages {
        let (site, second, mut host, audience) = running("{}");
        damage(&site.state().join("repo.git"));
        assert!(!look(&mut host).state.is_empty(), "{what}");
        assert_eq!(host.mend_folders(false, &audience).unwrap(), None, "{what}: nothing need be fetched");
        assert_eq!(look(&mut host), Damage::default(), "{what}");
        assert!(!site.state().join("repo.git.damaged").exists(), "{what}");
        drop((host, audience));
        let (mut host, _audience) = site.open();
        assert_eq!((host.have(), look(&mut host)), (Some(second.commit), Damage::default()), "{what}: after a restart");
    }
}

#[test]
fn a_repository_that_the_system_does_not_let_be_read_is_not_thrown_away() {
    let (site, second, mut host, audience) = running("{}");
    let file = site.state().join("repo.git/refs/snapshots/us-west/v1");
    let whole = fs::read(&file).unwrap();
    remove(&file);
    // Root may open whatever it wants, except a link that leads to itself.
    std::os::unix::fs::symlink(&file, &file).unwrap();
    let found = look(&mut host);
    assert!(found.state.iter().any(|one| one.contains("cannot be looked at")), "{found:?}");
    host.mend_folders(false, &audience).unwrap_err();
    host.heal().unwrap_err();
    remove(&file);
    fs::write(&file, whole).unwrap();
    assert_eq!(look(&mut host), Damage::default());
    assert!(!host.heal().unwrap() && !site.state().join("repo.git.damaged").exists());
    assert_eq!(host.have(), Some(second.commit));
}

#[test]
fn a_new_repository_that_cannot_be_begun_leaves_the_old_one_in_place() {
    let (site, second, mut host, _audience) = running("{}");
    // A file is in the way of the new one.
    fs::write(site.state().join("repo.git.new"), "").unwrap();
    host.renew_repository().unwrap_err();
    assert!(!site.state().join("repo.git.damaged").exists());
    assert_eq!((look(&mut host), host.have()), (Damage::default(), Some(second.commit)));
}

#[test]
fn a_repository_without_a_good_snapshot_replaces_none_that_was_set_aside() {
    let (site, _, mut host, _audience) = running("{}");
    host.renew_repository().unwrap();
    let aside = site.state().join("repo.git.damaged");
    let good = names(&aside.join("objects"));
    assert!(good.len() > 2, "{good:?}");
    host.renew_repository().unwrap();
    assert_eq!(names(&aside.join("objects")), good);
    assert!(site.state().join("repo.git/HEAD").exists());
}

/// Signs an older snapshot into the repository.
fn older(site: &mut Site) -> Pointer {
    site.components.clear();
    site.set("services/a/latest", &[("one", "1")]);
    (site.sequence, site.parent) = (0, None);
    site.land()
}

fn assert_refused<T>(accepted: Result<T, TransactionError>, what: &str) {
    let words = accepted.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(words.contains("which this host has taken already"), "{what}: {words}");
}

#[test]
fn what_was_accepted_and_not_exported_stays_known_without_the_repository_and_after_a_restart() {
    type Losses = (&'static str, fn(&mut Host, &Audience));
    let losses: [Losses; 2] = [
        ("a full disk", |host, _| assert!(host.drop_skipped().unwrap())),
        ("damage", |host, audience| {
            remove(&host.state.join("repo.git/objects"));
            host.mend_folders(false, audience).unwrap();
        }),
    ];
    for (what, lose) in losses {
        let (mut site, second, mut host, audience) = running("{}");
        site.set("services/a/latest", &[("config.yaml", "at: 3\n")]);
        let third = site.land();
        host.accept(third).unwrap();
        drop((host, audience));
        let (mut host, audience) = site.open();
        assert_eq!(host.export.snapshot(), Some(second), "{what}: the export failed");
        lose(&mut host, &audience);
        assert_eq!(host.known(), Some(third), "{what}");
        drop((host, audience));
        let (mut host, _audience) = site.open();
        assert_eq!(host.known(), Some(third), "{what}: after a restart");
        (site.sequence, site.parent) = (1, None);
        site.components.clear();
        site.set("services/a/latest", &[("one", "1")]);
        let stale = site.land();
        assert_refused(host.accept(stale), what);
        site.sequence = 2;
        let stale = site.land();
        assert_refused(host.accept(stale), what);
    }
}

#[test]
fn nothing_older_is_taken_after_somebody_removed_repository_and_export() {
    let (mut site, second, mut host, audience) = running("{}");
    host.tidy(&audience, None);
    drop((host, audience));
    for folder in ["repo.git", "export"] {
        remove(&site.state().join(folder));
    }
    let (mut host, _audience) = site.open();
    assert_eq!((host.known(), host.export.snapshot()), (Some(second), None));
    let stale = older(&mut site);
    assert!(stale.sequence < second.sequence);
    assert_refused(host.accept(stale), "an older one");
}

#[test]
fn a_pack_that_something_else_changed_is_read_and_a_new_one_is_not() {
    let (site, _, mut host, _audience) = running("{}");
    let repo = site.state().join("repo.git");
    let packed = git::command(&repo).args(["repack", "-a", "-d", "-q"]).status().unwrap();
    assert!(packed.success());
    assert_eq!(look(&mut host), Damage::default(), "objects in another place are no damage");
    let folder = repo.join("objects/pack");
    let pack = names(&folder).into_iter().find(|name| name.split('.').next_back() == Some("pack")).unwrap();
    let mut bytes = fs::read(folder.join(&pack)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0);
    remove(&folder.join(&pack));
    fs::write(folder.join(&pack), bytes).unwrap();
    host.repository.pool.forget();
    assert!(!look(&mut host).state.is_empty());
}

#[test]
fn a_lost_state_is_locked_again_and_written_again_and_lowers_nothing() {
    let (site, second, mut host, audience) = running(PLACED);
    let identity = fs::read(site.state().join("identity")).unwrap();
    remove(&site.state());
    assert!(!host.holds_state() && !look(&mut host).state.is_empty());
    assert_eq!(host.mend_folders(false, &audience).unwrap(), Some(second));
    assert_eq!(host.known(), Some(second));
    assert!(host.holds_state());
    assert_eq!(fs::read(site.state().join("identity")).unwrap(), identity);
    assert!(site.state().join("salt").exists() && site.state().join("placed.json").exists());
    assert!(git::lock_alone(&site.state()).is_err(), "a second agent is kept out");
}

#[test]
fn nothing_is_written_below_a_mount_point_whose_file_system_is_away() {
    let (site, second, mut host, audience) = running("{}");
    // As if another file system were there.
    host.device += 1;
    remove(&site.state());
    fs::create_dir(site.state()).unwrap();
    let why = host.mend_folders(false, &audience).unwrap_err().to_string();
    assert!(why.contains("is not mounted"), "{why}");
    assert!(names(&site.state()).is_empty());
    host.device -= 1;
    assert_eq!(host.mend_folders(false, &audience).unwrap(), Some(second));
}

#[test]
fn an_agent_whose_state_another_one_has_locked_meanwhile_keeps_its_hands_off() {
    let (site, _, mut host, audience) = running(PLACED);
    remove(&site.state().join("conf.lock"));
    let other = git::lock_alone(&site.state()).unwrap();
    let why = format!("{:#}", host.mend_folders(false, &audience).unwrap_err());
    assert!(why.contains("held by another process"), "{why}");
    assert!(!host.tidy(&audience, None), "nothing is written");
    let export = site.state().join("export");
    let before = names(&export.join("snapshots"));
    remove(&site.place().join("a/two"));
    assert!(matches!(host.place_again(&audience), Err(TransactionError::NotHeld)));
    assert!(matches!(host.render_secrets(&audience), Err(TransactionError::NotHeld)));
    let first = Pointer { sequence: Sequence(1), commit: CommitId::ZERO };
    assert!(matches!(host.render_older(first, Sequence(1), None), Err(TransactionError::NotHeld)));
    assert!(!site.place().join("a/two").exists() && names(&export.join("snapshots")) == before);
    // Nor is anything of what goes on beside the transactions.
    let duties = fs::read(site.state().join("duties.json")).unwrap();
    let owed = BTreeMap::from([(WatcherId("command x".to_owned()), BTreeSet::new())]);
    assert!(host.outbox.prepare(first, Sequence(0), owed.clone()).is_err());
    host.outbox.switched(first, Sequence(0), owed);
    host.outbox.failed(&WatcherId("command x".to_owned()), "away");
    assert!(host.outbox.write().is_err());
    assert!(host.heal().is_err());
    let registry = Registry::open(&site.state(), &[], host.outbox.clone(), audience.agent.clone(), false);
    let components = BTreeSet::from(["services/a".parse().unwrap()]);
    let pid = std::process::id().cast_signed();
    let request = WatchRequest { components, pid, start: None, signal: Signal::SIGUSR1, delay: Duration::ZERO };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let refused = runtime.block_on(registry.register(request.clone(), 0)).unwrap_err();
    assert!(chain(&refused).contains("another agent may have it"), "{refused}");
    assert!(!site.state().join("watchers.json").exists());
    assert_eq!(fs::read(site.state().join("duties.json")).unwrap(), duties);
    drop(other);
    assert_eq!(host.mend_folders(false, &audience).unwrap(), None);
    let duties = fs::read_to_string(site.state().join("duties.json")).unwrap();
    assert!(duties.contains("away"), "what could not be written is written now: {duties}");
    runtime.block_on(registry.register(request, 0)).unwrap();
    host.place_again(&audience).unwrap();
    assert_eq!(look(&mut host), Damage::default());
}

#[test]
fn placed_files_that_something_else_changed_are_put_back() {
    let (site, _, mut host, audience) = running(PLACED);
    let file = site.place().join("a/two");
    let changes: [&dyn Fn(); 3] =
        [&|| remove(&file), &|| conf_core::git::replace_file(&file, b"3", 0o644, Durability::None).unwrap(), &|| {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }];
    for change in changes {
        change();
        let found = look(&mut host);
        assert!(found.places.iter().any(|one| one.contains("a/two")) && found.export.is_empty(), "{found:?}");
        host.mend_export(false, &audience).unwrap();
        assert_eq!(look(&mut host), Damage::default());
        assert_placed(&site, "mended");
    }
}

#[test]
fn a_full_disk_loses_the_snapshot_that_was_skipped_and_never_the_exported_one() {
    let (mut site, second, mut host, audience) = running("{}");
    assert!(!host.drop_skipped().unwrap(), "what is exported is needed");
    site.set("services/a/latest", &[("config.yaml", "at: 3\n")]);
    let third = site.land();
    host.accept(third).unwrap();
    fs::create_dir_all(site.state().join("repo.git.damaged/objects")).unwrap();
    host.make_room();
    assert!(!site.state().join("repo.git.damaged").exists());
    assert!(host.drop_skipped().unwrap());
    assert!(!site.state().join("repo.git.damaged").exists(), "nothing is kept of it");
    assert_eq!((host.have(), host.known()), (None, Some(third)));
    assert!(host.accept(second).is_err(), "what was taken stays known");
    assert_eq!(seen(&site), 2);
    assert_eq!(host.mend_folders(false, &audience).unwrap(), Some(third));
}
