//! A conf-master that is lost for good comes back from a copy: with what its conf-slaves have, or
//! without it, and conf-slaves and hosts follow with no hand on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use hyper::Method;
use serde_json::Value;
use tests::git::git;
use tests::program::{command, run, text};
use tests::site::DATACENTER;
use tests::{Plan, Site, eventually};

use crate::sessions::identity;

/// A site, and the place and the key of its copy.
struct Room {
    site: Site,
    copy: PathBuf,
    key: PathBuf,
    recipient: String,
}

impl Room {
    fn new(tokens: bool) -> Self {
        let site = Plan { tokens, copied_key: true, ..Plan::default() }.start();
        let (key, recipient) = identity(&site, "elsewhere");
        Room { copy: site.folder.path().join("copy.git"), site, key, recipient }
    }

    fn master(&self, arguments: &[&str]) -> Output {
        self.site.master.run(arguments)
    }

    #[track_caller]
    fn back_up(&self) -> Value {
        let (repo, copy) = (self.site.master.repo.display().to_string(), self.copy.display().to_string());
        let arguments = ["backup", "--repo", &repo, "--to", &copy, "--recipient", &self.recipient, "--json"];
        let made = self.master(&arguments);
        assert!(made.status.success(), "{}", text(&made));
        serde_json::from_slice(&made.stdout).expect("JSON")
    }

    /// Loses the machine of conf-master: the program is killed, and its files are elsewhere.
    fn lose_master(&mut self) {
        self.site.master.daemon.kill9();
        self.move_files(".lost", true);
    }

    fn move_files(&self, ending: &str, away: bool) {
        let repo = self.site.master.repo.display().to_string();
        for of in ["", ".key", ".key.pub", ".identity", ".token"] {
            let (here, there) = (format!("{repo}{of}"), format!("{repo}{of}{ending}"));
            let (from, to) = if away { (here, there) } else { (there, here) };
            fs::rename(&from, to).unwrap_or_else(|error| panic!("{from}: {error}"));
        }
    }

    fn restore(&self, more: &[&str]) -> Output {
        let (repo, copy) = (self.site.master.repo.display().to_string(), self.copy.display().to_string());
        let key = self.key.display().to_string();
        let arguments = ["restore", "--repo", &repo, "--from", &copy, "--identity", &key];
        self.master(&[&arguments, more].concat())
    }

    #[track_caller]
    fn restored(&mut self, more: &[&str]) -> Value {
        let done = self.restore(&[&["--json"], more].concat());
        assert!(done.status.success(), "{}", text(&done));
        self.site.master.daemon.start();
        serde_json::from_slice(&done.stdout).expect("JSON")
    }

    fn slave(&self) -> String {
        format!("http://{}", self.site.slave().address)
    }

    fn is_at_slave(&self, commit: &str) -> bool {
        let mut look = git(Path::new("git"), &self.site.slave().state.join("repo.git"));
        look.args(["cat-file", "-e", commit]);
        run(look).status.success()
    }

    fn round(&self) -> String {
        let file = self.site.host().export().join("current/services/web/latest/round");
        fs::read_to_string(file).unwrap_or_default()
    }

    #[track_caller]
    fn wait_problem(&self, words: &str) {
        eventually(words, || {
            let status = self.site.slave().http().get_json("/api/v1/status")?;
            let problems = status["problems"].to_string();
            if problems.contains(words) { Ok(()) } else { Err(problems) }
        });
    }
}

#[test]
fn what_landed_after_the_copy_comes_back_from_the_conf_slaves() {
    let mut room = Room::new(true);
    let tip_of = |room: &Room| room.site.master.git(&["rev-parse", "refs/heads/services/web/master"]);
    let first = room.site.push("services/web", "round", "1\n");
    let held = room.back_up();
    assert_eq!(held["sequence"], first);
    let late = room.site.master.token("late", &["--host", "us-west/v1/web-9"]);
    let gone = room.site.master.token("gone", &[]);
    let gone = fs::read_to_string(gone).expect("a token").trim().to_owned();
    let listed: Vec<Value> = serde_json::from_slice(&room.master(&["token", "list", "--json"]).stdout).expect("a list");
    let id = listed.iter().find(|one| one["name"] == "gone").expect("it is listed")["id"].clone();
    room.master(&["token", "revoke", id.as_str().expect("an id")]);
    for round in 2..=11 {
        room.site.push("services/web", "round", &format!("{round}\n"));
    }
    room.site.wait_applied(room.site.master.sequence());
    let (newest, tip) = (room.site.master.sequence(), tip_of(&room));
    // No host needs the branches, which follow a snapshot by some seconds.
    eventually(
        "the conf-slave to have the branch",
        || if room.is_at_slave(&tip) { Ok(()) } else { Err(String::new()) },
    );
    room.lose_master();
    let (admin, slave) = (format!("{}.lost", room.site.master.token_file().display()), room.slave());
    let told = room.restored(&["--slave", &slave, "--token-file", &admin]);
    let (first, after) = (told["first"].as_u64().expect("a number"), told["sequence"].as_u64().expect("a number"));
    assert!(first > newest && first.is_multiple_of(1000) && after > first, "{told}");
    assert_eq!(told["lost"], serde_json::json!([]), "{told}");
    assert_eq!(tip_of(&room), tip, "the commits are the same");
    // No hand is laid on any of them.
    room.site.wait_applied(first);
    assert_eq!(room.round(), "11\n");
    let sequence = room.site.push("services/web", "round", "12\n");
    assert!(sequence > after);
    room.site.wait_applied(sequence);
    assert_eq!(room.round(), "12\n");
    // Who was known to conf-slaves is known, and nobody else.
    let status = |token: &str| {
        let answer = room.site.master.unproven().with(token).get("/api/v1/principal").expect("an answer");
        (answer.status.as_u16(), answer.text())
    };
    assert_eq!(status(fs::read_to_string(late).expect("a token").trim()).0, 200);
    assert_eq!(status(&gone).0, 401);
    room.site.master.expect_unbroken_ledger();
    room.site.expect_whole();
}

#[test]
fn what_a_conf_slave_has_of_a_lost_commit_is_its_content() {
    let mut room = Room::new(false);
    room.site.push("services/web", "round", "1\n");
    room.back_up();
    // The branches of a conf-slave follow its snapshot by some seconds: conf-master is lost before.
    let is_behind = |room: &mut Room, round: u32| {
        let sequence = room.site.push("services/web", "round", &format!("{round}\n"));
        let tip = room.site.master.git(&["rev-parse", "refs/heads/services/web/master"]);
        room.site.wait_applied(sequence);
        room.site.master.daemon.kill9();
        if room.is_at_slave(&tip) {
            room.site.master.daemon.start();
            return false;
        }
        true
    };
    let round = (2..30).find(|round| is_behind(&mut room, *round)).expect("it is behind once");
    room.move_files(".lost", true);
    let slave = room.slave();
    let told = room.restored(&["--slave", &slave]);
    let lost = told["lost"].to_string();
    assert!(
        lost.contains("services/web/master: the commit") && lost.contains("has what us-west/v1 runs of it"),
        "{told}"
    );
    room.site.wait_applied(room.site.master.sequence());
    assert_eq!(room.round(), format!("{round}\n"));
}

#[test]
fn without_conf_slaves_hosts_move_to_the_older_history_and_the_other_one_cannot_come_back() {
    let mut room = Room::new(false);
    room.site.push("services/web", "round", "1\n");
    room.back_up();
    for round in 2..=11 {
        room.site.push("services/web", "round", &format!("{round}\n"));
    }
    let newest = room.site.master.sequence();
    room.site.wait_applied(newest);
    assert_eq!(room.round(), "11\n");
    room.lose_master();
    let told = room.restored(&["--above", &newest.to_string()]);
    let first = told["first"].as_u64().expect("a number");
    room.site.wait_applied(first);
    assert_eq!(room.round(), "1\n");
    // The server that was given up goes on elsewhere, and its conf-slave hears of it again.
    room.site.master.daemon.stop();
    room.move_files(".restored", true);
    room.move_files(".lost", false);
    room.site.master.daemon.start();
    room.wait_problem("already and keeps it");
    let before = room.site.host().sequence();
    room.site.push("services/web", "round", "99\n");
    room.wait_problem("already and keeps it");
    assert_eq!((room.site.host().sequence(), room.round()), (before, "1\n".to_owned()));
}

#[test]
fn a_copy_is_whole_or_says_what_is_wrong() {
    let room = Room::new(false);
    let first = room.site.push("services/web", "round", "1\n");
    room.back_up();
    let second = room.site.push("services/web", "round", "2\n");
    let again = room.back_up();
    assert_eq!((&again["before"], &again["sequence"]), (&first.into(), &second.into()));
    let (copy, key) = (room.copy.display().to_string(), room.key.display().to_string());
    let verify = |more: &[&str]| room.master(&[&["backup", "verify", "--from", &copy], more].concat());
    let good = verify(&["--identity", &key]);
    assert!(good.status.success() && text(&good).contains("is whole"), "{}", text(&good));
    let (wrong, _) = identity(&room.site, "wrong");
    let wrong = verify(&["--identity", &wrong.display().to_string()]);
    assert!(!wrong.status.success() && text(&wrong).contains("cannot be opened"), "{}", text(&wrong));
    // Without the keys only where somebody says so.
    let repo = room.site.master.repo.display().to_string();
    let bare = room.master(&["backup", "--repo", &repo, "--to", &copy]);
    assert!(!bare.status.success() && text(&bare).contains("--without-keys"), "{}", text(&bare));
    // Another server's history does not replace this one.
    let other = room.site.folder.path().join("other.git").display().to_string();
    assert!(room.master(&["init", "--repo", &other]).status.success());
    let mixed = room.master(&["backup", "--repo", &other, "--to", &copy, "--without-keys"]);
    assert!(!mixed.status.success() && text(&mixed).contains("holds another history"), "{}", text(&mixed));
    // A disk that went bad.
    let name = room.site.master.git(&["rev-parse", "refs/heads/services/web/master:round"]);
    let object = room.copy.join("objects").join(&name[..2]).join(&name[2..]);
    fs::remove_file(&object).expect("the object is a file of its own");
    fs::write(&object, "damage").expect("it can be written");
    let damaged = verify(&[]);
    assert!(!damaged.status.success(), "{}", text(&damaged));
}

#[test]
fn a_host_that_makes_up_a_number_takes_none_from_the_restored_server() {
    let mut room = Room::new(false);
    room.site.push("services/web", "round", "1\n");
    room.back_up();
    let body = serde_json::json!({
        "host": "web-7", "datacenter": DATACENTER, "sequence": 1_u64 << 50, "commit": null, "state": "current", "agent": "0"
    });
    let headers = [("content-type", "application/json")];
    let answer = room.site.slave().http().request(Method::POST, "/api/v1/reports", &headers, body.to_string());
    assert_eq!(answer.expect("an answer").status, 200);
    room.lose_master();
    let slave = room.slave();
    let refused = room.restore(&["--slave", &slave]);
    assert!(!refused.status.success() && text(&refused).contains("more than 1000000 after"), "{}", text(&refused));
}

#[test]
fn what_somebody_has_put_into_a_copy_is_not_signed_again() {
    let mut room = Room::new(false);
    room.site.push("services/web", "round", "1\n");
    room.back_up();
    // Another snapshot, by somebody who writes to the copy, and a change of the ledger that names it.
    let plant = format!(
        "set -e; cd '{}'\n\
         old=$(git rev-parse refs/conf/ledger); snapshot=$(git log -1 --format=%B $old | sed -n 's|^refs/snapshots/{DATACENTER} [0-9a-f]* \\([0-9a-f]*\\) .*|\\1|p')\n\
         export GIT_AUTHOR_NAME=e GIT_AUTHOR_EMAIL=e GIT_COMMITTER_NAME=e GIT_COMMITTER_EMAIL=e\n\
         planted=$(git log -1 --format=%B $snapshot | sed 's/^Conf-Sequence: .*/Conf-Sequence: 9/' | git commit-tree -p $snapshot $snapshot^{{tree}})\n\
         git log -1 --format=%B $old | sed \"s/$snapshot/$planted/g\" > message\n\
         git update-ref refs/conf/ledger $(git commit-tree -p $old^1 -p $planted -F message $old^{{tree}})\n",
        room.copy.display()
    );
    let mut shell = command("bash", room.site.folder.path());
    shell.args(["-c", &plant]);
    let planted = run(shell);
    assert!(planted.status.success(), "{}", text(&planted));
    room.lose_master();
    let refused = room.restore(&["--above", "9"]);
    let words = format!("the snapshot of {DATACENTER} is not good");
    assert!(!refused.status.success() && text(&refused).contains(&words), "{}", text(&refused));
}

#[test]
fn a_restore_says_what_it_needs_and_can_be_begun_again() {
    let mut room = Room::new(false);
    room.site.push("services/web", "round", "1\n");
    let first = room.site.master.sequence();
    room.back_up();
    room.site.push("services/web", "round", "2\n");
    let second = room.site.master.sequence();
    room.back_up();
    let there = room.restore(&["--above", "9"]);
    assert!(!there.status.success() && text(&there).contains("is not empty"), "{}", text(&there));
    room.site.wait_applied(second);
    room.lose_master();
    let blind = room.restore(&[]);
    assert!(!blind.status.success() && text(&blind).contains("--above"), "{}", text(&blind));
    let (wrong, _) = identity(&room.site, "wrong");
    let repo = room.site.master.repo.display().to_string();
    let copy = room.copy.display().to_string();
    let wrong = wrong.display().to_string();
    let sealed = room.master(&["restore", "--repo", &repo, "--from", &copy, "--identity", &wrong, "--above", "9"]);
    assert!(!sealed.status.success() && text(&sealed).contains("cannot be opened"), "{}", text(&sealed));
    // What that has left is served by nobody, and is no obstacle.
    let served = room.master(&["serve", "--repo", &repo, "--listen", "127.0.0.1:0"]);
    assert!(!served.status.success() && text(&served).contains("was cut short"), "{}", text(&served));
    let nobody = room.restore(&["--slave", "http://127.0.0.1:9"]);
    assert!(!nobody.status.success() && text(&nobody).contains("does not show what it has"), "{}", text(&nobody));
    // A number that never landed.
    let huge = room.restore(&["--above", &(1_u64 << 62).to_string()]);
    assert!(!huge.status.success() && text(&huge).contains("is no number of a change"), "{}", text(&huge));
    let both = room.restore(&["--at", &first.to_string(), "--slave", &room.slave()]);
    assert!(!both.status.success() && text(&both).contains("cannot be used with"), "{}", text(&both));
    let told = room.restored(&["--at", &first.to_string(), "--above", &second.to_string()]);
    assert_eq!(told["continues"], first);
    room.site.wait_applied(told["first"].as_u64().expect("a number"));
    assert_eq!(room.round(), "1\n");
    let log = room.master(&["log", DATACENTER]);
    assert!(log.status.success(), "{}", text(&log));
}
