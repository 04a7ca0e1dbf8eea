//! Git's upkeep by somebody else's hand beside the central server, and what is done about a
//! repository that lost objects.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use tests::{
    Plan, Site, eventually,
    git::{executables, git},
    program::{run, text},
    site::{Pointers, fsck},
};

const WEB: &str = "services/web/master";

/// The central server alone, with content.
fn central() -> Site {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    site
}

/// Ends the pruning, also when a story fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs every pruning command that Git has over and over, until it is over. Returns what they said,
/// and how many of them succeeded.
fn prune(program: &Path, repo: &Path, over: &AtomicBool) -> (String, usize) {
    let (mut said, mut succeeded) = (String::new(), 0);
    while !over.load(Ordering::Relaxed) {
        for arguments in [
            &["gc", "-q", "--prune=now"][..],
            &["repack", "-a", "-d", "-q"],
            &["prune", "--expire=now"],
            &["maintenance", "run", "--task=gc", "--quiet"],
            &["reflog", "expire", "--expire=now", "--all"],
        ] {
            let mut command = git(program, repo);
            command.args(arguments);
            let output = run(command);
            succeeded += usize::from(output.status.success());
            said.push_str(&text(&output));
        }
    }
    (said, succeeded)
}

#[test]
fn gc_and_prune_by_hand_beside_pushes_and_updates_lose_nothing_and_say_why_they_refuse() {
    for program in executables() {
        let mut site = central();
        let over = AtomicBool::new(false);
        let (said, _) = thread::scope(|scope| {
            let pruning = scope.spawn(|| prune(&program, &site.master.repo, &over));
            let ending = Over(&over);
            for round in 1..=15 {
                site.push("services/web", "round", &format!("{round}\n"));
                let body = serde_json::json!({"request": {
                    "section": "services/api", "config": {"round": round}, "schemaVersion": 1, "version": round - 1,
                }});
                let path = "/api/v1/config/update";
                let answer = site.master.http().request(hyper::Method::POST, path, &[], body.to_string());
                let answer = answer.expect("an answer");
                assert_eq!(answer.status, 200, "update {round}: {}", answer.text());
            }
            drop(ending);
            pruning.join().expect("pruning does not panic")
        });
        assert!(said.contains("precious-objects"), "{} says why it refuses:\n{said}", program.display());
        assert_eq!(site.master.sequence(), 31);
        fsck(&site.master.repo);
        site.master.expect_unbroken_ledger();
        site.master.daemon.restart();
        site.push("services/web", "round", "last\n");
        fsck(&site.master.repo);
    }
}

#[test]
fn gc_by_hand_beside_a_cache_and_a_host_heals_by_itself() {
    let site = Site::start();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let ending = Over(&over);
        let host = site.host().repository();
        let over = &over;
        let repos = site.slave().repositories().into_iter().chain([host]);
        let pruning = repos.map(|repo| scope.spawn(move || prune(Path::new("git"), &repo, over)));
        let pruning: Vec<_> = pruning.collect();
        for round in 1..=25 {
            site.push("services/web", "round", &format!("{round}\n"));
        }
        site.wait_applied(site.master.sequence());
        drop(ending);
        for one in pruning {
            let (said, succeeded) = one.join().expect("pruning does not panic");
            assert!(succeeded > 0, "nothing was pruned:\n{said}");
        }
    });
    site.push_and_wait("services/web", "round", "last\n");
    assert_eq!(site.host().file("services/web/latest/round"), "last\n");
}

/// The file of a loose object.
fn loose(site: &Site, object: &str) -> PathBuf {
    site.master.repo.join("objects").join(&object[..2]).join(&object[2..])
}

/// Starts a server that cannot start. Returns its last words.
fn fails_to_start(site: &mut Site) -> String {
    let mark = site.master.daemon.log_mark();
    site.master.daemon.start_unready();
    let status = site.master.daemon.wait_for_end(Duration::from_secs(20));
    let log = site.master.daemon.log_since(mark);
    assert!(!status.success(), "it started over the damage:\n{log}");
    log
}

/// Runs the command that the server's words hold, as an operator would.
fn go_back(words: &str) {
    let command =
        words.lines().find(|line| line.contains("update-ref")).unwrap_or_else(|| panic!("no command:\n{words}"));
    let done = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output().expect("a shell");
    assert!(done.status.success(), "{command}: {}", text(&done));
}

/// Stops the server, damages its repository, and goes back as the server says. Returns its words.
fn damaged_and_back(damage: impl FnOnce(&Site)) -> (Site, String) {
    let mut site = central();
    for round in 2..=5 {
        site.push("services/web", "round", &format!("{round}\n"));
    }
    site.master.daemon.stop();
    damage(&site);
    let words = fails_to_start(&mut site);
    for wanted in ["the repository is damaged", "the last whole change, #", "copy its objects into"] {
        assert!(words.contains(wanted), "it does not say {wanted:?}:\n{words}");
    }
    go_back(&words);
    site.master.daemon.start();
    (site, words)
}

/// What happens to a repository.
type Damage = Box<dyn Fn(&Site)>;

#[test]
fn a_lost_ledger_entry_is_named_with_the_last_whole_one_and_the_way_back() {
    let entry = |site: &Site, back: u32| site.master.git(&["rev-parse", &format!("refs/conf/ledger~{back}")]);
    let lost: [(&str, u64, Damage); 4] = [
        ("the newest", 4, Box::new(move |site| fs::remove_file(loose(site, &entry(site, 0))).expect("it is loose"))),
        (
            "one in the middle",
            2,
            Box::new(move |site| fs::remove_file(loose(site, &entry(site, 2))).expect("it is loose")),
        ),
        (
            "one cut short",
            3,
            Box::new(move |site| fs::write(loose(site, &entry(site, 1)), b"x\x01").expect("it is loose")),
        ),
        ("the ref", 5, Box::new(|site| fs::write(site.master.repo.join("refs/conf/ledger"), b"").expect("a ref"))),
    ];
    for (what, whole, damage) in lost {
        let (site, words) = damaged_and_back(damage);
        assert!(words.contains(&format!("the last whole change, #{whole} of 20")), "{what}:\n{words}");
        if whole < 5 {
            assert!(words.contains("#5"), "{what}: it says what is lost:\n{words}");
        }
        assert_eq!(site.master.sequence(), whole, "{what}");
        let web = site.master.git(&["show", &format!("refs/heads/{WEB}:round")]);
        assert_eq!(web, whole.to_string(), "{what}: the branches are as they were");
        // What was lost is pushed again from a clone.
        site.work.push(&[WEB]).accepted();
    }
}

#[test]
fn a_lost_pack_is_found_at_the_start_and_what_can_be_served_is() {
    let mut site = central();
    let packs = |site: &Site| -> Vec<PathBuf> {
        let entries = fs::read_dir(site.master.repo.join("objects/pack")).expect("a folder").flatten();
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "pack")).collect()
    };
    site.push("services/web", "round", "2\n");
    let before = packs(&site);
    site.push("services/web", "round", "3\n");
    let lost = packs(&site).into_iter().find(|path| !before.contains(path)).expect("a push is a pack");
    site.master.daemon.stop();
    for ending in ["pack", "idx", "rev"] {
        let _ = fs::rename(lost.with_extension(ending), site.folder.path().join(format!("kept.{ending}")));
    }
    let mark = site.master.daemon.log_mark();
    site.master.daemon.start();
    let words = eventually("the damage is named", || {
        let log = site.master.daemon.log_since(mark);
        if log.contains("update-ref") { Ok(log) } else { Err(log) }
    });
    assert!(words.contains("an object cannot be read"), "{words}");
    assert!(words.contains("the last whole change, #2 of 20") && words.contains("change #3 is lost"), "{words}");
    // A branch that lost nothing is served.
    let clone = site.folder.path().join("api").display().to_string();
    let remote = site.work.remote();
    site.work.git(&["clone", "-q", "--bare", "--single-branch", "--branch", "services/api/master", remote, &clone]);
    // A copy of the lost objects mends it without loss.
    site.master.daemon.stop();
    for ending in ["pack", "idx", "rev"] {
        let _ = fs::rename(site.folder.path().join(format!("kept.{ending}")), lost.with_extension(ending));
    }
    site.master.daemon.start();
    assert_eq!(site.push("services/web", "round", "4\n"), 4);
    fsck(&site.master.repo);
}
