//! Damage on the disk of a running daemon: noticed, shown, and mended without a restart and without
//! another change.

use std::{
    ffi::OsString,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use tests::{
    Plan, Reader, Site, eventually, eventually_within,
    program::{command, run, run_reading, text},
    site::{DATACENTER, Host, in_repository, instance},
};

/// What is done to a host's disk, and its name.
type Damage = (&'static str, fn(&Host));

/// What is done to placed files, and its name.
type Drift<'d> = (&'d str, &'d dyn Fn());

/// A host puts its disk right within a minute at the latest.
const HEALS_WITHIN: Duration = Duration::from_secs(60);

fn remove(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        // An agent may make it again in the middle.
        tests::remove_folder(path);
    } else {
        fs::remove_file(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// Replaces a file of the export, which is read-only.
fn replace(path: &Path, content: &[u8]) {
    let path = fs::canonicalize(path).expect("it is there");
    fs::remove_file(&path).expect("it is there");
    fs::write(&path, content).expect("it can be written");
}

const WEB: &str = "services/web/latest";

/// Makes every object of a repository loose, as other programs do, and cuts the newest snapshot
/// short.
fn cut_short(repo: &Path) {
    let (packs, away) = (repo.join("objects/pack"), repo.join("away"));
    fs::rename(&packs, &away).expect("it is there");
    fs::create_dir(&packs).expect("it can be made");
    for file in fs::read_dir(&away).expect("it is there").map(|entry| entry.expect("an entry").path()) {
        if file.extension().is_some_and(|ending| ending == "pack") {
            let mut unpack = command("git", repo);
            unpack.args(["--git-dir", ".", "unpack-objects", "-q"]).current_dir(repo);
            let output = run_reading(unpack, fs::File::open(&file).expect("it is there"));
            assert!(output.status.success(), "{}", text(&output));
        }
    }
    let id = in_repository(repo, &["rev-parse", &format!("refs/snapshots/{DATACENTER}")]);
    let (start, rest) = id.trim().split_at(2);
    let object = repo.join("objects").join(start).join(rest);
    fs::set_permissions(&object, Permissions::from_mode(0o644)).expect("it is loose");
    let file = fs::File::options().write(true).open(&object).expect("it is loose");
    file.set_len(file.metadata().expect("it is there").len() / 2).expect("it can be cut");
}

const DAMAGES: [Damage; 20] = [
    ("an object cut short", |host| cut_short(&host.repository())),
    ("the ref zeroed", |host| {
        let file = host.repository().join(format!("refs/snapshots/{DATACENTER}"));
        let length = fs::read(&file).expect("the ref is there").len();
        fs::write(file, vec![0; length]).expect("it can be written");
    }),
    ("packed-refs damaged", |host| fs::write(host.repository().join("packed-refs"), "no refs\n").expect("written")),
    ("HEAD emptied", |host| fs::write(host.repository().join("HEAD"), "").expect("written")),
    ("the objects removed", |host| remove(&host.repository().join("objects"))),
    ("the packs removed", |host| remove(&host.repository().join("objects/pack"))),
    ("the repository removed", |host| remove(&host.repository())),
    ("export/ removed", |host| remove(&host.export())),
    ("export/store removed", |host| remove(&host.export().join("store"))),
    ("export/names removed", |host| remove(&host.export().join("names"))),
    ("export/snapshots removed", |host| remove(&host.export().join("snapshots"))),
    ("export/current removed", |host| remove(&host.export().join("current"))),
    ("a file changed", |host| {
        replace(&host.export().join("current").join(WEB).join("round"), b"9\n");
    }),
    ("a file of other permissions", |host| {
        let file = host.export().join("current").join(WEB).join("round");
        fs::set_permissions(file, Permissions::from_mode(0o666)).expect("it is there");
    }),
    ("export/ closed", |host| fs::set_permissions(host.export(), Permissions::from_mode(0o700)).expect("it is there")),
    ("a component's folder closed", |host| {
        let folder = host.export().join("current").join(WEB);
        fs::set_permissions(folder, Permissions::from_mode(0o700)).expect("it is there");
    }),
    ("a file removed", |host| {
        remove(&fs::canonicalize(host.export().join("current").join(WEB).join("round")).expect("it is there"));
    }),
    ("a component's link removed", |host| remove(&host.export().join("current/services/web"))),
    ("the header removed", |host| remove(&host.export().join("current/snapshot.json"))),
    ("the whole state removed", |host| remove(&host.state)),
];

fn shows_damage(status: &serde_json::Value) -> bool {
    status["problems"].as_array().is_some_and(|all| all.iter().any(|one| one.to_string().contains("put")))
}

#[track_caller]
fn expect_round(host: &Host, what: &str, round: &str) {
    let read = host.read(&format!("{WEB}/round")).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(read, round, "{what}");
    let verified = host.run(&["verify"]);
    assert!(verified.status.success(), "{what}: {}", text(&verified));
}

#[test]
fn whatever_is_removed_or_changed_under_a_running_host_is_shown_and_heals_by_itself() {
    let mut site = Plan { hosts: DAMAGES.len(), ..Plan::default() }.start();
    site.push_and_wait("services/web", "round", "1\n");
    let last = site.hosts.last().expect("there are hosts");
    let reader = Reader::start(&last.export());
    last.watch(&["services/web"], reader.pid());
    // Idle hosts hear of no change: what heals them is their own look.
    let began = Instant::now();
    for (host, (_, damage)) in site.hosts.iter().zip(DAMAGES) {
        damage(host);
    }
    for (host, (what, _)) in site.hosts.iter().zip(DAMAGES) {
        eventually_within(HEALS_WITHIN, &format!("{} to show: {what}", host.name), || {
            let log = host.daemon.log();
            if log.contains("conf-local puts it right") { Ok(()) } else { Err(log) }
        });
    }
    for (host, (what, _)) in site.hosts.iter().zip(DAMAGES) {
        eventually_within(
            HEALS_WITHIN.saturating_sub(began.elapsed()),
            &format!("{} to heal: {what}", host.name),
            || {
                let status = host.status()?;
                let file = host.read(&format!("{WEB}/round"))?;
                if status["problems"] == serde_json::json!([]) && file == "1\n" {
                    Ok(())
                } else {
                    Err(status.to_string())
                }
            },
        );
        println!("{what}: whole again after at most {:?}", began.elapsed());
    }
    for (host, (what, _)) in site.hosts.iter().zip(DAMAGES) {
        expect_round(host, what, "1\n");
        assert_eq!(host.status().expect("it answers")["state"], "current", "{what}");
    }
    assert!(reader.told_within(Duration::ZERO).is_none(), "the same files are no change");
    let second = site.push_and_wait("services/web", "round", "2\n");
    assert_eq!(reader.told().sequence, second, "a registration outlives the files");
    for (host, (what, _)) in site.hosts.iter_mut().zip(DAMAGES) {
        expect_round(host, what, "2\n");
        host.daemon.restart();
        expect_round(host, &format!("{what}, then a restart"), "2\n");
    }
}

#[test]
fn damage_that_cannot_be_mended_yet_stays_in_the_status_with_what_is_done_about_it() {
    let mut site = Plan { hosts: 1, ..Plan::default() }.start();
    site.push_and_wait("services/web", "round", "1\n");
    site.slaves[0].daemon.stop();
    site.master.daemon.stop();
    remove(&site.host().repository());
    site.host().wait_status("show what it waits for", |status| {
        status["problems"].to_string().contains("not put right yet, and tried again within a minute")
    });
    eventually("the command to show it", || {
        let shown = text(&site.host().run(&["status"]));
        if shown.contains("not put right yet") { Ok(()) } else { Err(shown) }
    });
    assert_eq!(site.host().file(&format!("{WEB}/round")), "1\n", "the files stay");
    site.master.daemon.start();
    site.slaves[0].daemon.start();
    site.host().wait_status("be whole", |status| !shows_damage(status));
    assert!(site.host().repository().join("HEAD").exists());
    site.push_and_wait("services/web", "round", "2\n");
}

#[test]
fn a_conf_slave_fetches_an_object_anew_that_was_cut_short_while_it_ran() {
    let site = Plan::default().start();
    let (pid, repo) = (site.slave().daemon.pid(), site.slave().state.join("repo.git"));
    site.wait_branches();
    cut_short(&repo);
    eventually_within(HEALS_WITHIN, "the conf-slave to set it aside and to fetch it anew", || {
        let mut read = command("git", &repo);
        read.args(["--git-dir", ".", "log", "-1", &format!("refs/snapshots/{DATACENTER}")]).current_dir(&repo);
        let log = site.slave().daemon.log();
        let is_whole = run(read).status.success();
        if is_whole && log.contains("its file was cut short") { Ok(()) } else { Err(log) }
    });
    site.push_and_wait("services/web", "round", "1\n");
    tests::site::fsck(&repo);
    assert_eq!(site.slave().daemon.pid(), pid);
}

#[test]
fn a_socket_and_a_central_sequence_that_were_removed_are_there_again() {
    let site = Site::start();
    // A change that is not of this host's datacenter: its snapshot is the newest up to there.
    site.work.change().file("datacenters/us-east/v1", "datacenter.yaml", instance()).land();
    let other = site.master.http().get_json("/api/v1/datacenters/us-east/v1").expect("the other datacenter");
    let asked = site.host().http().get(&format!("/v1/at/{}?timeout=30", other["sequence"])).expect("an answer");
    assert_eq!(asked.status, 200, "{}", asked.json());
    let central = site.host().export().join("central");
    let read = || fs::read_to_string(&central).map_err(|error| error.to_string());
    eventually("the central sequence", read);
    remove(&central);
    remove(&site.host().socket);
    eventually_within(HEALS_WITHIN, "the central sequence to be there again", read);
    eventually_within(HEALS_WITHIN, "the socket to be there again", || site.host().status());
    site.push_and_wait("services/web", "round", "1\n");
}

#[test]
fn verify_finds_each_damage_and_repairs_it_at_once() {
    let site = Site::start();
    site.push_and_wait("services/web", "round", "1\n");
    let host = site.host();
    for (what, damage) in DAMAGES {
        let mark = host.daemon.log_mark();
        damage(host);
        let found = host.run(&["verify"]);
        let noticed = || host.daemon.log_since(mark).contains("conf-local puts it right");
        assert!(!found.status.success() || noticed(), "{what}: {}", text(&found));
        let repaired = host.run(&["verify", "--repair"]);
        assert!(repaired.status.success(), "{what}: {}\n{}", text(&repaired), host.daemon.log_since(mark));
        expect_round(host, what, "1\n");
    }
}

#[test]
fn a_lost_state_brings_nothing_older_back_and_keeps_the_identity_of_the_host() {
    let mut site = Site::start();
    let first = site.push_and_wait("services/web", "round", "1\n");
    let key = format!("configurations/snapshots/{DATACENTER}");
    let old = site.consul().get(&key).expect("a pointer").value;
    let second = site.push_and_wait("services/web", "round", "2\n");
    assert!(second > first);
    let identity = fs::read(site.host().state.join("identity")).expect("an identity");
    // Only the host's own memory knows what it has taken.
    let newest = format!("{second}/{}", site.master.snapshot());
    site.slaves[0].daemon.stop();
    // The conf-slave's stream may have brought the second change: Consul must have named it, too.
    let wrong = |status: &serde_json::Value| status["problems"].to_string().contains("is not a pointer");
    site.consul().put(&key, "no pointer");
    site.host().wait_status("see the wrong pointer", wrong);
    site.consul().put(&key, &newest);
    site.host().wait_status("see the right pointer", |status| !wrong(status));
    site.consul().put(&key, &old);
    remove(&site.host().state);
    site.host()
        .wait_status("refuse the older pointer", |status| status["problems"].to_string().contains("no host goes back"));
    eventually("the files to be back", || {
        let round = site.host().read(&format!("{WEB}/round"))?;
        if round == "2\n" { Ok(()) } else { Err(round) }
    });
    assert_eq!(fs::read(site.host().state.join("identity")).expect("it is back"), identity);
    let mut second = site.make_host(1);
    let other: OsString = second.home.join("socket-2").into();
    let at = second.daemon.arguments().iter().position(|word| word == "--socket").expect("the flag is there");
    second.daemon.arguments()[at + 1] = other;
    second.daemon.start_unready();
    assert_eq!(second.daemon.wait_for_end(HEALS_WITHIN).code(), Some(1), "{}", second.daemon.log());
    site.slaves[0].daemon.start();
    site.push_and_wait("services/web", "round", "3\n");
}

#[test]
fn placed_files_that_were_changed_are_put_back_and_files_of_others_stay() {
    let mut site = Plan { hosts: 0, ..Plan::default() }.start();
    let place = site.folder.path().join("etc");
    fs::create_dir_all(&place).expect("a folder");
    let mut host = site.make_host(1);
    let file = host.home.join("conf-local.yaml");
    let entries = ["copy", "exchange", "link"]
        .map(|mode| format!("- {{component: services/web, path: {}/{mode}, mode: {mode}}}\n", place.display()));
    fs::write(&file, format!("export:\n{}", entries.concat())).expect("the file can be written");
    host.daemon.argument("--config");
    host.daemon.argument(file);
    host.daemon.start();
    site.hosts.push(host);
    site.push_and_wait("services/web", "round", "1\n");
    fs::write(place.join("copy/theirs"), "theirs").expect("it can be written");
    let drifts: [Drift<'_>; 5] = [
        ("a copied file changed", &|| replace(&place.join("copy/round"), b"9\n")),
        ("a copied file removed", &|| remove(&place.join("copy/round"))),
        ("a file of a folder removed", &|| remove(&place.join("exchange/round"))),
        ("the folder removed", &|| remove(&place.join("exchange"))),
        ("the link removed", &|| remove(&place.join("link"))),
    ];
    for (what, drift) in drifts {
        drift();
        let host = site.host();
        host.wait_status(&format!("show: {what}"), shows_damage);
        host.wait_status(&format!("heal: {what}"), |status| status["problems"] == serde_json::json!([]));
        for mode in ["copy", "exchange", "link"] {
            assert_eq!(fs::read_to_string(place.join(mode).join("round")).expect(what), "1\n", "{what}");
        }
    }
    assert_eq!(fs::read_to_string(place.join("copy/theirs")).expect("it stays"), "theirs");
}
