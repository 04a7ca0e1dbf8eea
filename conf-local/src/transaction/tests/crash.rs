//! A crash, or a full disk, at every step.

use crate::transaction::tests::*;

#[test]
fn killed_at_every_step() {
    kill_at_every_step(false, "{}");
    kill_at_every_step(true, "{}");
}

#[test]
fn killed_at_every_step_of_placing() {
    kill_at_every_step(false, PLACED);
}

/// System calls that change something on disk. A call that opens a file for writing is covered by
/// the next of these.
const MUTATING: [&str; 17] = [
    "mkdir",
    "mkdirat",
    "write",
    "pwrite64",
    "ftruncate",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "symlinkat",
    "linkat",
    "rename",
    "renameat",
    "renameat2",
    "unlinkat",
    "fsync",
    "syncfs",
];

/// The process that is killed: takes the second step in a folder, and ends.
#[test]
#[ignore = "started by killed_at_every_system_call_that_changes_something"]
fn takes_the_second_step() {
    let folder = PathBuf::from(std::env::var_os("CONF_TEST_FOLDER").unwrap());
    let commit: CommitId = std::env::var("CONF_TEST_COMMIT").unwrap().parse().unwrap();
    let mut site = Site::new();
    site.key = SigningKey::load(&folder.join("master.key")).unwrap();
    site.other = Some(folder);
    site.configure(PLACED);
    let (mut host, audience) = site.open();
    host.settle(&audience).unwrap();
    // Every system call of the host from here on belongs to the switch.
    fs::write(site.folder().join("begun"), "").unwrap();
    take(&mut host, Pointer { sequence: Sequence(2), commit }, &audience).unwrap();
}

#[test]
fn killed_at_every_system_call_that_changes_something() {
    use std::process::Command;
    let (site, second) = step_with(PLACED);
    drop(site.open());
    let (folder, before) = (site.folder(), tempfile::tempdir().unwrap());
    let copy = |from: &Path, to: &Path| {
        let done = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
        assert!(done.success());
    };
    copy(&folder, before.path());
    let strace = std::env::var_os("STRACE").unwrap_or_else(|| "strace".into());
    let (mut killed, mut within) = (BTreeMap::new(), 0);
    for call in MUTATING {
        for number in 1.. {
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
            copy(before.path(), &folder);
            let mut child = Command::new(&strace);
            child.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            child.args(["-e", &format!("inject={call}:signal=SIGKILL:when={number}"), "--"]);
            child.arg(std::env::current_exe().unwrap()).args(["--ignored", "--exact", "--test-threads=1"]);
            child.arg("transaction::tests::crash::takes_the_second_step");
            child.env("CONF_TEST_FOLDER", &folder).env("CONF_TEST_COMMIT", second.commit.to_string());
            let output = child.output().expect("tests/get-strace names an strace to use as STRACE");
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() || !text.contains("panicked"), "{call} {number}: {text}");
            let whole = output.status.success();
            within += u32::from(!whole && folder.join("begun").exists());
            let what = format!("killed at {call} number {number}");
            let (mut host, audience) = site.open();
            host.restore_places();
            assert_placed(&site, &what);
            seen(&site);
            host.settle(&audience).unwrap();
            take(&mut host, second, &audience).unwrap();
            assert_eq!(seen(&site), 2, "{what}");
            assert_placed(&site, &what);
            if whole {
                break;
            }
            *killed.entry(call).or_insert(0) += 1;
        }
    }
    println!("killed {within} times in the switch itself, of {killed:?}");
    assert!(within > 40 && killed["renameat"] > 5 && killed["unlinkat"] > 2, "{within} {killed:?}");
}

#[test]
fn a_disk_that_is_full_at_any_step_of_placing_keeps_the_earlier_files() {
    // Every whole file of the two snapshots.
    let known = [
        ("config.yaml", "at: 1\n"),
        ("x", "file"),
        ("one", "1"),
        ("config.yaml", "at: 2\n"),
        ("x/y", "folder"),
        ("two", "2"),
        ("theirs", "theirs"),
    ];
    let mut with_errors = 0;
    for at in 0.. {
        let (site, second) = step_with(PLACED);
        let (mut host, audience) = site.open();
        host.settle(&audience).unwrap();
        injected::set(Some((at, Mode::Full)));
        let result = take(&mut host, second, &audience);
        let finished = injected::set(None) <= at;
        let what = format!("step {at}, {result:?}");
        // Every place holds the exported files, of either snapshot, or its status has an error.
        seen(&site);
        let placements = audience.agent.view().status.placements.clone();
        for (place, status) in PLACES.into_iter().zip(&placements) {
            if status.error.is_none() {
                assert_placed_at(&site, place, &what);
                continue;
            }
            with_errors += 1;
            for (path, (text, ..)) in placed(&site.place().join(place.1)) {
                let staging = path.starts_with(".conf-local/");
                assert!(staging || path.ends_with('/') || known.contains(&(&path, &text)), "{what}: {path} {text:?}");
            }
        }
        if finished {
            assert!(at > 20 && with_errors > 10, "only {at} steps, {with_errors} errors");
            break;
        }
        take(&mut host, second, &audience).unwrap();
        host.place_again(&audience).unwrap();
        assert!(!host.is_troubled(), "{what}");
        assert_eq!(seen(&site), 2, "{what}");
        assert_placed(&site, &format!("after {what}"));
    }
}

/// With `ahead`, the links of the next snapshot were made ahead.
fn kill_at_every_step(ahead: bool, file: &str) {
    let mut finished = false;
    for at in 0.. {
        let (site, second) = step_with(file);
        let (mut host, audience) = site.open();
        host.settle(&audience).unwrap();
        if ahead {
            host.tidy(&audience, None);
        }
        injected::set(Some((at, Mode::Dead)));
        let result = take(&mut host, second, &audience);
        drop(host);
        finished = injected::set(None) <= at;
        assert!(result.is_err() || finished || seen(&site) == 2, "step {at}");
        seen(&site);

        let (mut host, audience) = site.open();
        if file == PLACED {
            // Before a newer snapshot is taken, the places hold the exported files, and none of a
            // switch that did not happen.
            host.restore_places();
            assert_placed(&site, &format!("killed at step {at}, at once"));
        }
        seen(&site);
        host.settle(&audience).unwrap();
        assert_eq!(seen(&site), 2, "killed at step {at}, not whole after a restart");
        if file == PLACED {
            assert_placed(&site, &format!("killed at step {at}"));
        }
        let pending = host.outbox.pending();
        assert_eq!(pending.values().map(|notice| notice.sequence).collect::<Vec<_>>(), [Sequence(2)], "step {at}");
        site.assert_tidy();
        if finished {
            println!("killed at each of {at} steps");
            assert!(at > 20, "only {at} steps");
            break;
        }
    }
    assert!(finished);
}

#[test]
fn a_full_disk_at_every_step() {
    for at in 0.. {
        let (site, second) = step();
        let (mut host, audience) = site.open();
        host.settle(&audience).unwrap();
        host.tidy(&audience, None);
        injected::set(Some((at, Mode::Full)));
        let result = take(&mut host, second, &audience);
        let finished = injected::set(None) <= at;
        if finished {
            break;
        }
        match result {
            // Readers see the switch. It may not survive a power cut.
            Ok(()) => assert_eq!(seen(&site), 2, "step {at}"),
            Err(TransactionError::Export(error)) => {
                assert_eq!(error.cause.kind(), std::io::ErrorKind::StorageFull, "{error}");
                assert_eq!(seen(&site), 1, "step {at}");
                site.assert_tidy();
            }
            Err(other) => panic!("{other}"),
        }
        take(&mut host, second, &audience).unwrap();
        assert_eq!(seen(&site), 2, "step {at}");
    }
}
