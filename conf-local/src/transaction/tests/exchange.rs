//! Folders that are exchanged as a whole.

use std::{
    io::Read as _,
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use crate::{fs::Folder, transaction::tests::*};

const EXCHANGED: &str = "export:
  - {component: services/a, path: PLACE/swapped, mode: exchange, file_mode: '0640', dir_mode: '0750'}
  - {component: services/gone, path: PLACE/gone, mode: exchange}
  - {component: services/new, path: PLACE/made/deep/new, mode: exchange}
";

const PLACES: [(&str, &str, u32, u32); 3] = [
    ("services/a", "swapped", 0o640, 0o750),
    ("services/gone", "gone", 0o444, 0o755),
    ("services/new", "made/deep/new", 0o444, 0o755),
];

/// The files of `services/a` in the first snapshot and in the second.
fn versions() -> [BTreeSet<String>; 2] {
    let set = |paths: &[&str]| paths.iter().map(ToString::to_string).collect();
    [set(&["config.yaml", "one", "x"]), set(&["config.yaml", "two", "x/", "x/y"])]
}

fn paths(site: &Site, path: &str) -> BTreeSet<String> {
    placed(&site.place().join(path)).into_keys().collect()
}

fn assert_exchanged(site: &Site, what: &str) {
    for place in PLACES {
        assert_placed_at(site, place, what);
    }
    let beside = names(&site.place()).into_iter().chain(names(&site.place().join("made/deep")));
    let left: Vec<String> = beside.filter(|name| name.ends_with(".conf-local.d")).collect();
    assert_eq!(left, Vec::<String>::new(), "{what}: nothing is left beside");
}

/// Takes the first snapshot with the file `before`, and lets an agent with the file `after` start.
fn restarted(before: &str, after: &str) -> (Site, Host, Audience) {
    let (mut site, _) = step_with(before);
    site.configure(after);
    let (mut host, audience) = site.open();
    host.settle(&audience).unwrap();
    (site, host, audience)
}

#[test]
fn a_folder_is_exchanged_as_a_whole_and_goes_as_a_whole() {
    let (site, second) = step_with(EXCHANGED);
    let (mut host, audience) = site.open();
    host.settle(&audience).unwrap();
    assert_exchanged(&site, "at first");
    assert!(site.place().join("gone/config.yaml").exists());
    let inode = || fs::metadata(site.place().join("swapped")).unwrap().ino();
    let before = inode();
    take(&mut host, second, &audience).unwrap();
    assert_exchanged(&site, "the second");
    assert_ne!(inode(), before, "it is a new folder");
    assert!(!site.place().join("gone").exists());
    assert_eq!(host.verify().problems, Vec::<String>::new());

    // What somebody changes is found, and mended.
    let file = site.place().join("swapped/two");
    for change in [
        &|| fs::write(&file, "changed").unwrap(),
        &|| fs::remove_file(&file).unwrap(),
        &|| fs::set_permissions(site.place().join("swapped"), fs::Permissions::from_mode(0o700)).unwrap(),
        &|| fs::remove_dir_all(site.place().join("swapped")).unwrap(),
    ] as [&dyn Fn(); 4]
    {
        change();
        assert_eq!(host.verify().problems.len(), 1);
        assert!(repair(&mut host, &audience).is_whole());
        assert_exchanged(&site, "mended");
    }
}

#[test]
fn killed_at_every_step_of_exchanging() {
    for at in 0.. {
        let (site, second) = step_with(EXCHANGED);
        let (mut host, audience) = site.open();
        host.settle(&audience).unwrap();
        injected::set(Some((at, Mode::Dead)));
        let result = take(&mut host, second, &audience);
        drop(host);
        let finished = injected::set(None) <= at;
        let what = format!("killed at step {at}, {result:?}");
        assert!(versions().contains(&paths(&site, "swapped")), "{what}: {:?}", paths(&site, "swapped"));
        let (mut host, audience) = site.open();
        host.restore_places();
        let status = host.place.status();
        assert_exchanged(&site, &format!("{what}, at once: {status:?}"));
        host.settle(&audience).unwrap();
        assert_eq!(seen(&site), 2, "{what}");
        assert_exchanged(&site, &what);
        if finished {
            assert!(at > 20, "only {at} steps");
            break;
        }
    }
}

#[test]
fn the_mode_of_an_entry_changes_and_changes_back() {
    let entry = |mode: &str| format!("export: [{{component: services/a, path: PLACE/swapped, mode: {mode}}}]");
    let modes = ["copy", "exchange", "link", "exchange", "copy", "link", "copy"];
    let (mut site, _) = step_with(&entry("copy"));
    let mut before = placed(&site.place().join("swapped"));
    for mode in modes {
        site.configure(&entry(mode));
        let (mut host, audience) = site.open();
        host.settle(&audience).unwrap();
        let now = placed(&site.place().join("swapped"));
        assert_eq!(now, before, "{mode}");
        assert_eq!(site.place().join("swapped").is_symlink(), mode == "link");
        assert_eq!(host.verify().problems, Vec::<String>::new(), "{mode}");
        assert_eq!(names(&site.place()), BTreeSet::from(["a", "swapped"].map(str::to_owned)), "{mode}");
        // And each mode takes the next change.
        site.set("services/a/latest", &[("config.yaml", "at: 2\n"), (mode, "file")]);
        let pointer = site.land();
        take(&mut host, pointer, &audience).unwrap();
        before = placed(&site.place().join("swapped"));
        assert!(before.contains_key(mode), "{mode}: {before:?}");
    }
}

#[test]
fn what_others_placed_keeps_a_folder_from_being_exchanged() {
    let copied = EXCHANGED.replace("mode: exchange", "mode: copy");
    let (site, mut host, audience) = restarted(&copied, EXCHANGED);
    assert_exchanged(&site, "from copies");
    let inode = || fs::metadata(site.place().join("swapped")).unwrap().ino();
    fs::write(site.place().join("swapped/theirs"), "theirs").unwrap();
    fs::write(site.place().join("gone/theirs"), "theirs").unwrap();
    let before = inode();
    let second = Pointer { sequence: Sequence(2), commit: site.parent.unwrap() };
    take(&mut host, second, &audience).unwrap();
    let faults = audience.agent.view().status.faults.clone();
    let reason = &faults[&"services/a/latest".parse().unwrap()];
    let words = "swapped holds theirs, which conf-local did not place; move it away";
    assert!(faults.len() == 1 && reason.contains(words), "{faults:?}");
    assert_eq!(inode(), before);
    assert_eq!(site.read("services/a/latest/one").as_deref(), Some("1"), "the component is held back everywhere");
    // A component that is gone takes its files along, and nothing else.
    assert_eq!(paths(&site, "gone"), BTreeSet::from(["theirs".to_owned()]));
    // verify names it.
    assert!(host.verify().problems.iter().any(|problem| problem.contains("swapped/theirs")));
    fs::remove_file(site.place().join("swapped/theirs")).unwrap();
    host.place_again(&audience).unwrap();
    assert_eq!(seen(&site), 2);
    assert_eq!(paths(&site, "swapped"), versions()[1]);

    // A folder of others, a link of others, and a file are refused.
    for (make, words) in [
        (&|path: &Path| fs::create_dir(path).and_then(|()| fs::write(path.join("x"), "")).unwrap(), "holds x"),
        (&|path: &Path| symlink("/etc", path).unwrap(), "which conf-local did not make"),
        (&|path: &Path| fs::write(path, "").unwrap(), "is in the way"),
    ] as [(&dyn Fn(&Path), &str); 3]
    {
        let mut site = Site::new();
        fs::create_dir(site.place()).unwrap();
        make(&site.place().join("swapped"));
        site.configure(EXCHANGED);
        site.set("services/a/latest", &[("one", "1")]);
        let first = site.land();
        let (mut host, audience) = site.open();
        take(&mut host, first, &audience).unwrap();
        let faults = format!("{:?}", audience.agent.view().status.faults);
        assert!(faults.contains(words), "{faults}");
    }
}

#[test]
fn what_another_program_puts_into_the_former_folder_is_kept() {
    for at in 0.. {
        let (site, second) = step_with(EXCHANGED);
        let (mut host, audience) = site.open();
        host.settle(&audience).unwrap();
        let beside = site.place().join(".swapped.conf-local.d/swap");
        let former = Folder::existing(&site.place().join("swapped")).unwrap();
        injected::set(Some((at, Mode::Dead)));
        let _ = take(&mut host, second, &audience);
        let finished = injected::set(None) <= at;
        assert!(!finished, "there is a step just behind the exchange");
        if !beside.join("one").exists() || paths(&site, "swapped") != versions()[1] {
            continue;
        }
        // Somebody who has the former folder open writes to it.
        drop(host);
        drop(former.write("late", b"theirs", 0o644).unwrap());
        let (mut host, audience) = site.open();
        host.settle(&audience).unwrap();
        assert_eq!(fs::read_to_string(beside.join("late")).unwrap(), "theirs");
        let status = audience.agent.view().status.clone();
        let error = status.placements.iter().find_map(|one| one.error.clone()).unwrap_or_default();
        assert!(error.contains(".swapped.conf-local.d/swap holds late"), "{error}");
        return;
    }
}

/// Runs a script in a mount namespace of its own until it is dropped.
struct Elsewhere(std::process::Child);

impl Elsewhere {
    fn start(script: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &format!("{script} && echo ready && exec sleep 600")]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(&said, b"ready");
        Elsewhere(child)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_folder_that_somebody_mounts_is_not_exchanged() {
    let (mut site, second) = step_with(EXCHANGED);
    let (mut host, audience) = site.open();
    host.settle(&audience).unwrap();
    let (path, other) = (site.place().join("swapped"), tempfile::tempdir().unwrap());
    let fault = |audience: &Audience| {
        let faults = audience.agent.view().status.faults.clone();
        faults.get(&"services/a/latest".parse().unwrap()).cloned().unwrap_or_default()
    };
    let container = Elsewhere::start(&format!("mount --bind {} {}", path.display(), other.path().display()));
    take(&mut host, second, &audience).unwrap();
    let why = fault(&audience);
    assert!(why.contains("has it mounted at") && why.contains("mode: copy"), "{why}");
    assert_eq!(paths(&site, "swapped"), versions()[0]);
    drop(container);
    host.place_again(&audience).unwrap();
    assert_eq!((fault(&audience), paths(&site, "swapped")), (String::new(), versions()[1].clone()));
    // A mount in it, which only its own namespace sees, is found when the agent is there: here a
    // file of it is mounted elsewhere.
    let file = other.path().join("file");
    fs::write(&file, "").unwrap();
    let container = Elsewhere::start(&format!("mount --bind {} {}", path.join("two").display(), file.display()));
    site.set("services/a/latest", &[("config.yaml", "at: 3\n")]);
    let third = site.land();
    take(&mut host, third, &audience).unwrap();
    assert!(fault(&audience).contains("has it mounted at"), "{}", fault(&audience));
    drop(container);
}

#[test]
fn a_folder_of_an_overlays_lower_layer_is_refused_and_stays() {
    // The mounts are of a namespace of their own, and the test runs itself there.
    if std::env::var_os("CONF_TEST_OVERLAY").is_none() {
        let this = std::env::current_exe().unwrap();
        let name = "transaction::tests::exchange::a_folder_of_an_overlays_lower_layer_is_refused_and_stays";
        let mut command = Command::new("unshare");
        command.arg("--mount").arg(this).args(["--exact", name, "--test-threads=1"]).env("CONF_TEST_OVERLAY", "1");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs none $D && mkdir -p $D/lower/etc $D/upper $D/work $D/all &&
        mount -t overlay overlay -o lowerdir=$D/lower,upperdir=$D/upper,workdir=$D/work $D/all";
    let done = Command::new("sh").args(["-c", script]).env("D", folder.path()).status().unwrap();
    assert!(done.success());
    let entry = "export: [{component: services/a, path: PLACE, mode: exchange}]";
    let path = folder.path().join("all/etc");
    let mut site = Site::new();
    site.file = conf_core::settings::from_yaml(&entry.replace("PLACE", path.to_str().unwrap())).unwrap();
    site.set("services/a/latest", &[("one", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    let why = format!("{:?}", audience.agent.view().status.faults);
    assert!(why.contains("lower layer of an overlay") && why.contains("mode: copy"), "{why}");
    assert_eq!(names(&path), BTreeSet::new());
    // As the words say: without the folder it can be made.
    fs::remove_dir(&path).unwrap();
    host.place_again(&audience).unwrap();
    assert_eq!(names(&path), BTreeSet::from(["one".to_owned()]), "{:?}", audience.agent.view().status.faults);
}

#[test]
fn a_reader_of_one_folder_sees_one_snapshot() {
    let mut site = Site::new();
    fs::create_dir(site.place()).unwrap();
    site.configure("export: [{component: services/a, path: PLACE/a, mode: exchange}]");
    let set = |site: &mut Site, round: u32| {
        let text = round.to_string();
        let files: [(&str, &str); 4] = [("a", &text), ("b", &text), ("c", &text), ("d", &text)];
        site.set("services/a/latest", &files);
    };
    set(&mut site, 0);
    let (mut host, audience) = site.open();
    let first = site.land();
    take(&mut host, first, &audience).unwrap();
    let (path, stop) = (site.place().join("a"), Arc::new(AtomicUsize::new(0)));
    let reader = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let (mut whole, mut gone, mut last) = (0, 0, String::new());
            let mut seen = BTreeSet::new();
            while stop.load(Ordering::Relaxed) == 0 {
                // The path always leads to a folder.
                let folder = Folder::existing(&path).unwrap();
                let texts: Vec<Option<String>> = ["a", "b", "c", "d"]
                    .map(|name| folder.read(name, 100).ok().map(|(bytes, _)| String::from_utf8(bytes).unwrap()))
                    .into();
                let found: BTreeSet<&String> = texts.iter().flatten().collect();
                assert!(found.len() <= 1, "a mixture: {texts:?}");
                // A former folder is being removed: its reader opens the new one.
                if texts.iter().all(Option::is_some) {
                    whole += 1;
                    last.clone_from(texts[0].as_ref().unwrap());
                    seen.insert(last.clone());
                } else {
                    gone += 1;
                }
            }
            (whole, gone, seen.len(), last)
        }
    });
    for round in 1..=60 {
        set(&mut site, round);
        let pointer = site.land();
        take(&mut host, pointer, &audience).unwrap();
    }
    stop.store(1, Ordering::Relaxed);
    let (whole, gone, seen, last) = reader.join().unwrap();
    println!("{whole} whole readings of {seen} snapshots, {gone} of a folder that was being removed, 0 mixtures");
    assert!(whole > 100 && seen > 10, "{whole} {seen} {last}");
}
