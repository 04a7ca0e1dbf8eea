//! An engineer who pushes whatever fails, and a program that lands updates by the API meanwhile.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use tests::eventually_within;
use tests::git::git;
use tests::http::Address;
use tests::program::{run, text};

use crate::faults::LED;
use crate::faults::scene::Scene;

/// The components that each push changes together; all of them get the same content.
pub(super) const COMPONENTS: [&str; 3] = ["services/web", "services/api", "devices/router"];

/// What the program changes.
const SECTION: &str = "applications/shop";

/// The engineer.
pub(super) struct Engineer {
    pushes: AtomicU64,
    stop: Arc<AtomicBool>,
    /// The ledger's commits of the updates that were answered.
    answered: Arc<Mutex<BTreeSet<String>>>,
    program: Mutex<Option<JoinHandle<()>>>,
}

impl Engineer {
    pub(super) fn start(scene: &Scene) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeSet::new())));
        let (asked, noted) = (Arc::clone(&stop), Arc::clone(&answered));
        let servers = [scene.room.site.master.http(), scene.room.standby.http()];
        let program = thread::spawn(move || land_updates(&servers, &asked, &noted));
        Engineer { pushes: AtomicU64::new(0), stop, answered, program: Mutex::new(Some(program)) }
    }

    /// Pushes now and then; whether it is taken does not matter.
    pub(super) fn push_until(&self, scene: &Scene, until: Instant) {
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.commit(scene);
            let _ = push(scene, left);
            thread::sleep(Duration::from_millis(300).min(left));
        }
    }

    /// Pushes until it is taken. Returns the content, and the number of the change, unless it had
    /// landed before.
    pub(super) fn push_until_accepted(&self, scene: &Scene, after: &str) -> (String, Option<u64>) {
        let text = self.commit(scene);
        let what = format!("a push to be taken after {after}");
        let said = eventually_within(LED * 6, &what, || push(scene, Duration::from_secs(20)));
        let (_, number) = said.split_once('#').unzip();
        let digits = number.unwrap_or_default().split(|letter: char| !letter.is_ascii_digit()).next();
        (text, digits.and_then(|digits| digits.parse().ok()))
    }

    /// Commits the next content on each branch.
    fn commit(&self, scene: &Scene) -> String {
        let text = format!("{}\n", self.pushes.fetch_add(1, Ordering::Relaxed) + 1);
        let change = scene.room.site.work.change();
        COMPONENTS.iter().fold(change, |change, name| change.file(&format!("{name}/master"), "round", &text)).commit();
        text
    }

    /// The number of updates that were answered.
    pub(super) fn answered(&self) -> usize {
        self.answered.lock().expect("not poisoned").len()
    }

    /// Ends the program, and expects all that was answered in the ledger of whoever leads.
    pub(super) fn expect_kept(&self, scene: &Scene) {
        self.stop.store(true, Ordering::Relaxed);
        let program = self.program.lock().expect("not poisoned").take();
        program.expect("it is ended once").join().expect("it does not fail");
        let ledger = scene.leader().git(&["rev-list", "refs/conf/ledger"]);
        let ledger: BTreeSet<&str> = ledger.lines().collect();
        let answered = self.answered.lock().expect("not poisoned");
        let lost: Vec<&String> = answered.iter().filter(|commit| !ledger.contains(commit.as_str())).collect();
        println!(
            "{} pushes; {} updates were answered, {} are lost",
            self.pushes.load(Ordering::Relaxed),
            answered.len(),
            lost.len()
        );
        assert!(lost.is_empty() && !answered.is_empty(), "{lost:?}");
    }
}

/// Pushes all branches to whoever takes them, and returns what that one says.
fn push(scene: &Scene, patience: Duration) -> Result<String, String> {
    let work = &scene.room.site.work;
    let patience = format!("{:.1}", patience.as_secs_f64().max(0.1));
    let mut said = String::new();
    for server in [&scene.room.site.master, &scene.room.standby] {
        let mut bounded = git("timeout".as_ref(), work.folder());
        bounded.args(["-s", "KILL", &patience, "git", "push", "-q", "--atomic", &server.git_url()]);
        bounded.args(COMPONENTS.map(|name| format!("refs/heads/{name}/master:refs/heads/{name}/master")));
        let output = run(bounded);
        if output.status.success() {
            return Ok(text(&output));
        }
        said += &text(&output);
    }
    Err(said)
}

/// Lands one update after the other, and notes those that were answered.
fn land_updates(servers: &[Address; 2], stop: &AtomicBool, answered: &Mutex<BTreeSet<String>>) {
    let (mut number, mut version, mut at) = (0, 0, 0);
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        match update(&servers[at], number, version) {
            Ok((200, body)) => {
                version = body["version"].as_i64().expect("a number");
                answered.lock().expect("not poisoned").insert(body["commit"].as_str().expect("a commit").to_owned());
            }
            // Nobody knows what became of the one before: it is looked up.
            Ok((409, body)) => version = body["version"].as_i64().expect("a number"),
            _ => at = 1 - at,
        }
        thread::sleep(Duration::from_millis(500));
    }
}

fn update(server: &Address, number: u64, version: i64) -> Result<(u16, Value), String> {
    let request = json!({"request": {"section": SECTION, "config": {"number": number}, "version": version}});
    let path = "/api/v1/config/update";
    let answer = server.request_within(Duration::from_secs(5), Method::POST, path, &[], request.to_string())?;
    let status = answer.status.as_u16();
    if matches!(status, 200 | 409) { Ok((status, answer.json())) } else { Err(answer.text()) }
}
