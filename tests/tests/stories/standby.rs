//! A standby has all that landed, and goes on in the place of a conf-master that is lost, with no hand on conf-slaves and hosts.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hyper::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::program::{signal_pid, text};
use tests::site::{DATACENTER, Pointers};
use tests::{Master, Plan, Proxy, Site, Work, eventually, eventually_within, http::Address, stalled_since};

use crate::credentials::policy;
use crate::sessions::identity;

/// The most that a standby takes to lead, and conf-slaves and hosts to follow it.
const TAKEOVER: Duration = Duration::from_secs(10);

/// A site whose conf-master has a standby, which conf-slaves know.
pub(crate) struct Room {
    pub(crate) site: Site,
    pub(crate) standby: Master,
}

impl Room {
    fn new(plan: Plan, sync: &[&str]) -> Self {
        Room::of(plan.start(), sync)
    }

    pub(crate) fn of(mut site: Site, sync: &[&str]) -> Self {
        let key = identity(&site, "operator");
        let folder = site.folder.path().join("standby");
        fs::create_dir_all(&folder).expect("the folder can be made");
        let mut standby = site.master.standby(&folder, (&key.0, &key.1));
        standby.proxy = site.master.proxy.as_ref().map(|_| Proxy::start(standby.address));
        standby.daemon.start();
        for argument in sync {
            site.master.daemon.argument(*argument);
        }
        site.master.daemon.restart();
        let url = standby.public_url();
        for slave in &mut site.slaves {
            slave.daemon.argument("--central");
            slave.daemon.argument(&url);
            slave.daemon.restart();
        }
        let room = Room { site, standby };
        room.wait_in_step();
        room
    }

    /// What conf-master says of its standbys.
    pub(crate) fn told(of: &Master) -> Result<Value, String> {
        of.http().get_json("/api/v1/standby")
    }

    /// Waits until the standby has what its leader has.
    #[track_caller]
    fn wait_in_step(&self) {
        eventually("the standby to be in step", || {
            let (leader, standby) = (Self::told(&self.site.master)?, Self::told(&self.standby)?);
            let listed = &leader["standbys"][0];
            let is_in_step = standby["ledger"] == leader["ledger"] && listed["sequence"] == leader["sequence"];
            if is_in_step && listed["in_sync"] == true { Ok(()) } else { Err(format!("{leader}\n{standby}")) }
        });
    }

    #[track_caller]
    fn promote(&self) -> Value {
        let repo = self.standby.repo.display().to_string();
        let done = self.standby.run(&["promote", "--repo", &repo, "--json"]);
        assert!(done.status.success(), "{}", text(&done));
        serde_json::from_slice(&done.stdout).expect("JSON")
    }

    /// Waits until every host runs a change of the standby, or a later one.
    #[track_caller]
    fn wait_applied(&self, sequence: u64) {
        for host in &self.site.hosts {
            host.wait_applied(sequence);
        }
    }
}

/// Replaces a section through the API; the status and the body.
pub(crate) fn update(master: &Address, section: &str, config: &Value, version: i64) -> Result<(u16, Value), String> {
    let request = json!({"request": {"section": section, "config": config, "version": version}});
    let answer = master.request(Method::POST, "/api/v1/config/update", &[], request.to_string())?;
    Ok((answer.status.as_u16(), answer.json()))
}

#[test]
fn a_standby_takes_over_by_hand_and_the_lost_leader_ends_when_it_comes_back() {
    let mut room = Room::new(Plan { tokens: true, copied_key: true, ..Plan::default() }, &["--sync", "1"]);
    let first = room.site.push_and_wait("services/web", "round", "1\n");
    room.site.work.git(&["tag", "-a", "-m", "one", "services/web/v1", "services/web/master"]);
    room.site.work.push(&["services/web/v1"]).accepted();
    room.wait_in_step();
    // It has everything, refs and tags too, and serves it.
    let refs = |of: &Master| of.git(&["for-each-ref", "--format=%(objectname) %(refname)"]);
    assert_eq!(refs(&room.standby), refs(&room.site.master));
    assert_eq!(room.standby.snapshot(), room.site.master.snapshot());
    // What changes something goes on to its leader: any of both addresses will do, for Git as well.
    let (status, body) = update(&room.standby.http(), "services/api", &json!({"a": 1}), 0).expect("an answer");
    assert_eq!((status, &body["sequence"]), (200, &room.site.master.sequence().into()), "{body}");
    let work = Work::new(&room.site.folder.path().join("at-standby"), &room.standby.git_url());
    room.standby.show_token(&work, &room.standby.token_file());
    let of_api = "refs/heads/services/api/master";
    work.git(&["fetch", "-q", "origin", &format!("+{of_api}:{of_api}")]);
    let pushed = work.change().file("services/api/master", "pushed", "here\n").land();
    assert_eq!(room.site.master.git(&["rev-parse", of_api]), work.id(of_api), "{pushed:?}");
    let refused = update(&room.standby.http(), "services/api", &json!({"a": 2}), 0).expect("an answer");
    assert_eq!(refused.0, 409, "the leader refuses: {}", refused.1);
    // What was refused there can be looked up here.
    room.site.work.change().file("services/web/master", "config.yaml", "a: [\n").push().refused(&["config.yaml"]);
    eventually("the standby to know what was refused", || {
        let [there, here] = [&room.site.master, &room.standby].map(|of| of.http().get_json("/api/v1/refused"));
        let (there, here) = (there?, here?);
        let is_same = there[0]["request"].is_string() && there[0] == here[0];
        if is_same { Ok(()) } else { Err(format!("{there}\n{here}")) }
    });
    room.wait_in_step();
    let again = room.standby.run(&["promote", "--repo", &room.site.master.repo.display().to_string()]);
    assert!(!again.status.success() && text(&again).contains("leads already"), "{}", text(&again));
    let lost = Instant::now();
    room.site.master.daemon.kill9();
    let (status, body) = update(&room.standby.http(), "services/web", &json!({"a": 1}), -1).expect("an answer");
    assert!(status == 503 && body["error"].as_str().is_some_and(|words| words.contains("is a standby")), "{body}");
    let told = room.promote();
    let began = told["sequence"].as_u64().expect("a number");
    assert!(began > first && began.is_multiple_of(1000), "{told}");
    room.wait_applied(began);
    println!("by hand: hosts follow the standby {:.2} s after the loss", lost.elapsed().as_secs_f64());
    let (status, body) = update(&room.standby.http(), "services/web", &json!({"a": 1}), 1).expect("an answer");
    assert_eq!(status, 200, "{body}");
    room.wait_applied(body["sequence"].as_u64().expect("a number"));
    assert_eq!(room.site.host().file("services/web/latest/config.yaml").trim(), "a: 1");
    // The one that was lost comes back: nothing lands there, it is told, and it ends.
    room.site.master.daemon.start();
    let late = update(&room.site.master.http(), "services/web", &json!({"a": 2}), 1);
    assert!(late.as_ref().map_or(true, |(status, _)| *status != 200), "{late:?}");
    let ended = room.site.master.daemon.wait_for_end(TAKEOVER);
    assert!(!ended.success());
    let log = room.site.master.daemon.log();
    assert!(log.contains("another conf-master leads in the place of this one"), "{log}");
    let mut arguments = vec!["serve", "--listen", "127.0.0.1:0", "--repo"];
    let repo = room.site.master.repo.display().to_string();
    arguments.push(&repo);
    let refused = room.site.master.run(&arguments);
    assert!(!refused.status.success() && text(&refused).contains("init --follow"), "{}", text(&refused));
    // What was promoted stays so over a restart, though its flags say whom it followed.
    room.standby.daemon.kill9_and_restart();
    let (status, body) = update(&room.standby.http(), "services/web", &json!({"a": 3}), 2).expect("an answer");
    assert_eq!(status, 200, "{body}");
    room.wait_applied(body["sequence"].as_u64().expect("a number"));
    room.standby.expect_unbroken_ledger();
    room.site.expect_whole();
}

impl Room {
    /// Has an election decide who of both leads. The first one reaches Consul, and is reached by the other, as `ways` says.
    pub(crate) fn elect(self, ways: Option<&[Proxy; 2]>) -> Self {
        let mut room = self;
        let consuls = room.site.consul_urls(DATACENTER);
        let own = room.site.master.public_url();
        let [of_first, reached] =
            ways.map_or([consuls.clone(), vec![own]], |ways| ways.each_ref().map(|way| vec![way.url()]));
        let second = vec![room.standby.public_url()];
        let named = [
            ("first", of_first, reached, &mut room.site.master.daemon),
            ("second", consuls, second, &mut room.standby.daemon),
        ];
        for (name, consuls, url, daemon) in named {
            daemon.set_flag::<&str>("--follow", []);
            let flags = [("--leader", "consul:conf-master/leader"), ("--sync", "1"), ("--standby-name", name)];
            flags.into_iter().for_each(|(flag, value)| daemon.set_flag(flag, [value]));
            daemon.set_flag("--consul", consuls);
            daemon.set_flag("--advertise", url);
            daemon.stop();
        }
        room.site.master.daemon.start();
        room.standby.daemon.start();
        room.wait_may_lead("second");
        room.wait_in_step();
        room
    }

    /// Waits until the key says that a standby is in sync.
    #[track_caller]
    fn wait_may_lead(&self, name: &str) {
        eventually(&format!("{name} to be in sync, as the key says"), || {
            let entry = self.site.consul().get("conf-master/leader").ok_or("there is no key")?;
            let seat: Value = serde_json::from_str(&entry.value).map_err(|error| error.to_string())?;
            if seat["in_sync"] == json!([name]) { Ok(()) } else { Err(seat.to_string()) }
        });
    }
}

impl Room {
    /// Expects every change that was answered in the history of the standby, which leads now, and hosts on it.
    #[track_caller]
    fn expect_nothing_lost(&self, how: &str, stream: &Stream) {
        for host in &self.site.hosts {
            host.wait_applied(self.standby.sequence());
        }
        let here = self.standby.git(&["rev-list", "refs/conf/ledger"]);
        let here: BTreeSet<&str> = here.lines().collect();
        let Stream { answered, took } = stream;
        let missing: Vec<&String> = answered.iter().filter(|commit| !here.contains(commit.as_str())).collect();
        let (all, lost, seconds) = (answered.len(), missing.len(), took.as_secs_f64());
        println!("{how}: {all} answered, {lost} lost; the next leader answers after {seconds:.2} s");
        assert!(answered.len() >= CHANGES && missing.is_empty(), "{missing:?}");
        // Nobody was told of what was answered to nobody.
        let keys = self.standby.http().get_json("/api/v1/keys").expect("conf-master answers");
        let number = |name: &str| keys["statements"][0][name].as_u64().expect("a succession");
        let replaced = number("continues") + 1..number("from");
        for slave in &self.site.slaves {
            let log = slave.daemon.log();
            let served =
                log.lines().filter_map(|line| line.split_once("serves a snapshot sequence=")?.1.split(' ').next());
            let served: Vec<u64> = served.filter_map(|number| number.parse().ok()).collect();
            assert!(served.len() > 1 && !served.iter().any(|one| replaced.contains(one)), "{replaced:?}: {served:?}");
        }
        self.standby.expect_unbroken_ledger();
        self.site.expect_whole();
    }
}

impl Room {
    /// Waits until the first server follows the second one, and has what that one has.
    #[track_caller]
    fn wait_follows(&self) {
        eventually("the first one to follow", || {
            let (first, second) = (Room::told(&self.site.master)?, Room::told(&self.standby)?);
            let follows = first["leader"] == format!("{}/", self.standby.url()) && first["ledger"] == second["ledger"];
            if follows { Ok(()) } else { Err(format!("{first}\n{second}\n{}", self.site.master.daemon.log())) }
        });
        self.site.master.expect_unbroken_ledger();
    }
}

/// What a stream of changes came to.
struct Stream {
    /// The commits of the changes that were answered.
    answered: BTreeSet<String>,
    /// From the loss to the first answer of another leader.
    took: Duration,
}

/// Writers change a section each, one change after the other, at whichever of two servers takes it, until so many were answered.
/// In the middle `lose` is called.
fn stream(servers: &[Address; 2], lose: impl FnOnce()) -> Stream {
    let (answered, landed) = (Mutex::new(BTreeSet::new()), AtomicUsize::new(0));
    let (lost, back) = (Mutex::new(None::<Instant>), Mutex::new(None::<Instant>));
    let write = |section: &str| {
        let (mut version, mut at) = (0, 0);
        for number in 0..CHANGES / SECTIONS.len() {
            let config = json!({"number": number});
            let body = eventually_within(Duration::from_secs(60), "a change to be answered", || {
                match update(&servers[at], section, &config, version) {
                    Ok((200, body)) => Ok(body),
                    // Nobody knows what became of the one before: it is looked up.
                    Ok((409, body)) => {
                        let now = servers[at].get_json(&format!("/api/v1/config/{section}"))?;
                        version = now["version"].as_i64().ok_or("it has a version")?;
                        Err(body.to_string())
                    }
                    other => {
                        at = 1 - at;
                        Err(format!("{other:?}"))
                    }
                }
            });
            version = body["version"].as_i64().expect("a number");
            answered.lock().expect("not poisoned").insert(body["commit"].as_str().expect("a commit").to_owned());
            landed.fetch_add(1, Ordering::Relaxed);
            if at == 1 && lost.lock().expect("not poisoned").is_some() {
                back.lock().expect("not poisoned").get_or_insert_with(Instant::now);
            }
        }
    };
    let write = &write;
    thread::scope(|scope| {
        for section in SECTIONS {
            scope.spawn(move || write(section));
        }
        eventually_within(Duration::from_secs(120), "half of the changes", || {
            let count = landed.load(Ordering::Relaxed);
            if count >= CHANGES / 2 { Ok(()) } else { Err(format!("{count} landed")) }
        });
        *lost.lock().expect("not poisoned") = Some(Instant::now());
        lose();
    });
    let lost = lost.into_inner().expect("not poisoned").expect("it was lost");
    let back = back.into_inner().expect("not poisoned").expect("another one answered");
    Stream { answered: answered.into_inner().expect("not poisoned"), took: back - lost }
}

/// The changes of a stream, and how many of its writers there are.
const CHANGES: usize = 500;
const SECTIONS: [&str; 4] = ["services/web", "services/api", "applications/shop", "devices/router"];

#[test]
fn of_500_changes_none_that_was_answered_is_lost_when_a_standby_is_promoted_by_hand() {
    let mut room = Room::new(Plan::default(), &["--sync", "1"]);
    let (servers, pid) = ([room.site.master.http(), room.standby.http()], room.site.master.daemon.pid());
    // Its machine is lost in the middle, whatever it is doing.
    let stream = stream(&servers, || {
        signal_pid(pid, Signal::KILL);
        room.promote();
    });
    room.site.master.daemon.kill9();
    room.expect_nothing_lost("by hand", &stream);
    assert!(stream.took < TAKEOVER, "{:?}", stream.took);
}

#[test]
fn of_500_changes_none_that_was_answered_is_lost_when_a_standby_is_elected() {
    let mut room = Room::new(Plan::default(), &["--sync", "1"]).elect(None);
    let (servers, pid) = ([room.site.master.http(), room.standby.http()], room.site.master.daemon.pid());
    let began = Instant::now();
    let stream = stream(&servers, || signal_pid(pid, Signal::KILL));
    room.site.master.daemon.kill9();
    room.expect_nothing_lost("elected", &stream);
    assert!(stream.took < TAKEOVER + stalled_since(began), "{:?}", stream.took);
    // The one that was lost comes back, and cannot land.
    room.site.master.daemon.start();
    room.wait_follows();
    let before = room.standby.sequence();
    let of_web = "refs/heads/services/web/master";
    room.site.work.git(&["fetch", "-q", "origin", &format!("+{of_web}:{of_web}")]);
    room.site.push("services/web", "late", "1\n");
    assert!(room.standby.sequence() > before, "what is asked of it lands at the one that leads");
}

#[test]
fn a_leader_that_stops_for_a_while_answers_nothing_that_is_lost() {
    let room = Room::new(Plan::default(), &["--sync", "1"]).elect(None);
    let (servers, pid) = ([room.site.master.http(), room.standby.http()], room.site.master.daemon.pid());
    let stream = stream(&servers, || {
        // Between its check and its answer, wherever it is.
        signal_pid(pid, Signal::STOP);
        eventually("the standby to lead", || {
            let told = Room::told(&room.standby)?;
            if told["leader"].is_null() && told["epoch"] == 2 { Ok(()) } else { Err(told.to_string()) }
        });
        signal_pid(pid, Signal::CONT);
    });
    room.expect_nothing_lost("stopped", &stream);
    room.wait_follows();
}

#[test]
fn a_leader_that_is_cut_off_answers_nothing_that_is_lost() {
    let site = Plan::default().start();
    let ways = [Proxy::start(site.consul().address()), Proxy::start(site.master.address)];
    let room = Room::of(site, &["--sync", "1"]).elect(Some(&ways));
    let servers = [room.site.master.http(), room.standby.http()];
    let lost = Instant::now();
    // It has neither Consul nor the standby any more, and engineers still reach it.
    let stream = stream(&servers, || ways.iter().for_each(Proxy::cut));
    room.expect_nothing_lost("cut off", &stream);
    assert!(stream.took < TAKEOVER + stalled_since(lost), "{:?}", stream.took);
    let (status, body) = update(&room.site.master.http(), "services/web", &json!({"late": 1}), 1).expect("an answer");
    assert_eq!(status, 503, "{body}");
    let ready = room.site.master.http().get("/readyz").expect("an answer").text();
    assert!(ready.contains("election: "), "{ready}");
    // Once it reaches both it follows, and drops what was answered to nobody.
    ways.iter().for_each(Proxy::mend);
    room.wait_follows();
}

#[test]
fn a_change_that_no_standby_takes_is_held_and_told_when_one_is_back() {
    let room = Room::new(Plan::default(), &["--sync", "1", "--sync-strict"]);
    let before = room.site.push_and_wait("services/web", "round", "1\n");
    room.standby.daemon.signal(Signal::STOP);
    let (status, body) = update(&room.site.master.http(), "services/web", &json!({"a": 1}), 1).expect("an answer");
    assert!(status == 503 && body.to_string().contains("is on this machine alone"), "{body}");
    let ready = room.site.master.http().get("/readyz").expect("an answer").text();
    assert!(ready.contains("nobody is told of it"), "{ready}");
    assert_eq!((room.site.master.sequence(), room.site.host().sequence()), (before, before));
    room.standby.daemon.signal(Signal::CONT);
    // Nobody pushes again.
    room.site.host().wait_applied(before + 1);
    assert_eq!(room.site.host().file("services/web/latest/config.yaml").trim(), "a: 1");
}

#[test]
fn with_consul_denying_all_else_the_policy_of_the_manual_is_enough_to_be_elected() {
    let site = Plan { pointers: Pointers::DenyingConsul, ..Plan::default() }.start_empty();
    site.populate();
    let token = site.consul().token("conf-master", &policy("conf-master"));
    let mut room = Room::of(site, &["--sync", "1"]);
    for daemon in [&mut room.site.master.daemon, &mut room.standby.daemon] {
        daemon.environment("CONSUL_HTTP_TOKEN", &token);
    }
    let room = room.elect(None);
    let (status, body) = update(&room.site.master.http(), "services/web", &json!({"a": 1}), 0).expect("an answer");
    assert_eq!(status, 200, "{body}");
}
