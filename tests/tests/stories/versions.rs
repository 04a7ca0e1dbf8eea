//! Programs of two versions in one system: what each tier does beside those of an earlier version, and after each step of an
//! upgrade and of the way back.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tests::program::{Daemon, built, command, run, text};
use tests::site::{DATACENTER, Pointers, instance};
use tests::{DEADLINE, Plan, Site, eventually, eventually_within};

use crate::sessions::identity;

const WEB: &str = "services/web/master";

/// A version of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// As `tests/get-earlier` builds it.
    Earlier,
    /// As the tests were built with.
    This,
}
use Version::{Earlier, This};

impl Version {
    /// Finds a program.
    fn program(self, name: &str) -> PathBuf {
        if self == This { built(name) } else { earlier().join(name) }
    }
}

/// The folder with the earlier programs: `$EARLIER`, as `tests/run --long` sets it, or the one that
/// `tests/get-earlier` finds or builds.
fn earlier() -> PathBuf {
    if let Some(path) = std::env::var_os("EARLIER") {
        return path.into();
    }
    let mut script = command(Path::new(env!("CARGO_MANIFEST_DIR")).join("get-earlier"), Path::new("/"));
    script.envs(
        ["HOME", "CARGO_HOME", "RUSTUP_HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))),
    );
    let found = run(script);
    assert!(found.status.success(), "{}", text(&found));
    String::from_utf8_lossy(&found.stdout).trim().into()
}

/// A tier.
#[derive(Clone, Copy, Debug)]
enum Tier {
    Master,
    Slave,
    Host,
}
use Tier::{Host, Master, Slave};

/// A site with a secret and a template, whose tiers change their versions.
struct Mixed {
    site: Site,
    round: u64,
    /// The value of the secret, which stays.
    cookie: String,
    reader: Option<(Sender<()>, JoinHandle<u64>)>,
}

impl Mixed {
    /// Starts each tier as a version.
    fn start(master: Version, slave: Version, host: Version) -> Self {
        Self::start_of(Plan::default(), master, slave, host)
    }

    /// As [`Mixed::start`], of another plan.
    fn start_of(plan: Plan, master: Version, slave: Version, host: Version) -> Self {
        let earlier_master = (master == Earlier).then(|| master.program("conf-master"));
        let mut site = Plan { earlier_master, ..plan }.start_empty();
        site.populate();
        let (_, key) = identity(&site, "web-1");
        let listed = format!(
            "{}inventories:\n  hosts:\n    web-1: {{key: {key}}}\nsecrets:\n  cookie: {{generate: {{length: 32, encoding: hex}}, \
             readers: [services/web]}}\n",
            instance()
        );
        site.work.change().file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", listed).land();
        site.work.change().file(WEB, "page.j2", "{{ secrets.cookie }} {{ settings.round }}\n").land();
        let mut cache = site.make_slave(1);
        cache.daemon.run_as(slave.program("conf-slave"));
        cache.daemon.start();
        site.slaves.push(cache);
        let mut agent = site.make_host(1);
        agent.daemon.run_as(host.program("conf-local"));
        agent.daemon.start();
        site.hosts.push(agent);
        site.wait_applied(site.master.sequence());
        let page = site.host().file("services/web/latest/page");
        let cookie = page.split(' ').next().unwrap_or_default().to_owned();
        assert_eq!(cookie.len(), 64, "{page}");
        let reader = Some(read_on(site.host().export().join("current/services/web/latest/page"), cookie.clone()));
        let mut mixed = Mixed { site, round: 0, cookie, reader };
        mixed.change();
        mixed
    }

    fn daemon(&mut self, tier: Tier) -> &mut Daemon {
        match tier {
            Master => &mut self.site.master.daemon,
            Slave => &mut self.site.slaves[0].daemon,
            Host => &mut self.site.hosts[0].daemon,
        }
    }

    /// Stops a tier, and has it start as a version next.
    fn stop(&mut self, tier: Tier, version: Version) -> &mut Daemon {
        let name = match tier {
            Master => "conf-master",
            Slave => "conf-slave",
            Host => "conf-local",
        };
        let daemon = self.daemon(tier);
        if daemon.is_running() {
            daemon.stop();
        }
        daemon.run_as(version.program(name));
        if let Master = tier {
            daemon.arguments().retain(|argument| argument != "--open");
            daemon.arguments().extend((version == This).then(|| "--open".into()));
        }
        daemon
    }

    /// Goes on with a tier as a version, on its files. The host keeps what it has, and the next
    /// change reaches it.
    #[track_caller]
    fn turn(&mut self, tier: Tier, version: Version) {
        println!("{tier:?} to {version:?}");
        self.stop(tier, version).start();
        self.expect_kept();
        self.change();
    }

    /// Expects the host to have what reached it last.
    #[track_caller]
    fn expect_kept(&self) {
        assert_eq!(self.site.host().file("services/web/latest/round"), format!("{}\n", self.round));
    }

    /// A change that reaches the host, with the same secret, and that is proven to have done so.
    #[track_caller]
    fn change(&mut self) {
        self.round += 1;
        let round = self.round;
        let change = self.site.work.change().file(WEB, "round", format!("{round}\n"));
        change.file(WEB, "config.yaml", format!("component: services/web\nround: {round}\n")).land();
        let sequence = self.site.master.sequence();
        self.site.wait_applied(sequence);
        self.expect_kept();
        assert_eq!(self.site.host().file("services/web/latest/page"), format!("{} {round}\n", self.cookie));
        self.site.wait_published(sequence);
        // What it says of itself arrives above: also once an earlier agent has numbered by the clock
        // what came after, which conf-master believes until the host was silent for three minutes.
        eventually_within(Duration::from_secs(600), "conf-master to hear of it", || {
            let path = format!("/api/v1/datacenters/{DATACENTER}/hosts");
            let hosts = self.site.master.http().get_json(&path)?;
            let host = &hosts["hosts"][0];
            let is_proven = host["sequence"].as_u64() >= Some(sequence) && host["proof"] == "signed";
            if is_proven { Ok(()) } else { Err(hosts.to_string()) }
        });
    }
}

/// The problems in a tier's status.
fn problems(status: &Value) -> String {
    status["problems"].to_string()
}

/// Reads a file without an end, and expects it to begin so; returns how often it did.
fn read_on(file: PathBuf, beginning: String) -> (Sender<()>, JoinHandle<u64>) {
    let (stop, stopped) = channel();
    let reading = thread::spawn(move || {
        let mut count = 0;
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_millis(1)) {
            let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert!(text.starts_with(&beginning), "{text:?}");
            count += 1;
        }
        count
    });
    (stop, reading)
}

impl Mixed {
    /// Expects that the host had its files all the time, that no tier has a problem, and that every
    /// repository is whole.
    #[track_caller]
    fn expect_whole(mut self) {
        let (stop, reading) = self.reader.take().expect("it reads");
        drop(stop);
        let count = reading.join().expect("its files were there all the time");
        println!("read {count} times");
        eventually("no tier to have a problem", || {
            let told = [self.site.slave().status()?, self.site.host().status()?].map(|status| problems(&status));
            if told.iter().all(|one| one == "[]") { Ok(()) } else { Err(told.concat()) }
        });
        self.site.expect_whole();
    }
}

#[test]
#[ignore = "long: builds an earlier version"]
fn an_upgrade_step_by_step_reaches_hosts_with_each_change() {
    let mut mixed = Mixed::start(Earlier, Earlier, Earlier);
    for tier in [Master, Slave, Host] {
        mixed.turn(tier, This);
    }
    mixed.expect_whole();
}

#[test]
#[ignore = "long: builds an earlier version"]
fn an_earlier_host_goes_on_below_this_slave() {
    Mixed::start(This, This, Earlier).expect_whole();
    let embedded = Plan { pointers: Pointers::Embedded, ..Plan::default() };
    Mixed::start_of(embedded, This, This, Earlier).expect_whole();
}

#[test]
#[ignore = "long: builds an earlier version"]
fn an_earlier_slave_goes_on_below_this_master() {
    Mixed::start(This, Earlier, Earlier).expect_whole();
    Mixed::start(This, Earlier, This).expect_whole();
}

#[test]
#[ignore = "long: builds an earlier version"]
fn this_host_goes_on_below_an_earlier_slave_and_master() {
    Mixed::start(Earlier, Earlier, This).expect_whole();
}

#[test]
#[ignore = "long: builds an earlier version"]
fn this_slave_below_an_earlier_master_answers_nobody_until_that_is_upgraded() {
    let mut mixed = Mixed::start(Earlier, Earlier, Earlier);
    mixed.stop(Slave, This).start();
    let sequence = mixed.site.push(WEB.trim_end_matches("/master"), "late", "1\n");
    mixed.site.host().wait_status("say what it needs", |status| status["problems"].to_string().contains("token"));
    let log = mixed.site.slave().daemon.log();
    assert!(log.contains("An earlier conf-master tells no slave: upgrade it first"), "{log}");
    mixed.expect_kept();
    mixed.turn(Master, This);
    assert!(mixed.site.host().sequence() > sequence);
    mixed.turn(Host, This);
    mixed.expect_whole();
}

#[test]
#[ignore = "long: builds an earlier version"]
fn a_host_and_a_slave_go_back_to_an_earlier_version_and_up_again() {
    let mut mixed = Mixed::start(This, This, This);
    for (tier, version) in [(Host, Earlier), (Slave, Earlier), (Slave, This), (Host, This)] {
        mixed.turn(tier, version);
    }
    mixed.expect_whole();
}

impl Mixed {
    /// Expects an earlier conf-master to refuse the repository, in these words.
    #[track_caller]
    fn expect_refused(&mut self, words: &str) {
        let daemon = self.stop(Master, Earlier);
        let mark = daemon.log_mark();
        daemon.start_unready();
        assert!(!daemon.wait_for_end(DEADLINE).success());
        let log = daemon.log_since(mark);
        println!("{log}");
        assert!(log.contains(words), "{log}");
        self.expect_kept();
    }
}

#[test]
#[ignore = "long: builds an earlier version"]
fn a_master_without_tokens_goes_back_to_an_earlier_version_and_up_again() {
    let mut mixed = Mixed::start(Earlier, Earlier, Earlier);
    mixed.turn(Master, This);
    mixed.turn(Master, Earlier);
    mixed.turn(Master, This);
    mixed.expect_whole();
}

#[test]
#[ignore = "long: builds an earlier version"]
fn an_earlier_master_refuses_a_repository_with_tokens_and_this_one_goes_on() {
    let mut mixed = Mixed::start(Earlier, Earlier, Earlier);
    mixed.turn(Master, This);
    mixed.site.master.token("ann", &["--group", "administrators"]);
    mixed.stop(Master, This).start();
    mixed.site.master.git(&["config", "--unset", "extensions.preciousObjects"]);
    mixed.expect_refused("refs/conf/access");
    mixed.turn(Master, This);
    mixed.expect_whole();
}

#[test]
#[ignore = "long: builds an earlier version"]
fn earlier_slaves_and_hosts_show_their_tokens_and_are_upgraded_under_them() {
    let plan = Plan { tokens: true, ..Plan::default() };
    let mut mixed = Mixed::start_of(plan, This, Earlier, Earlier);
    for tier in [Slave, Host] {
        mixed.turn(tier, This);
    }
    mixed.expect_whole();
}

/// Expects the host to keep what it has and to say so, when conf-master does something that earlier
/// versions do not follow, and to follow once slave and host are upgraded.
fn expect_followed_after_the_upgrade(words: &str, something: impl FnOnce(&mut Site)) {
    let plan = Plan { copied_key: true, ..Plan::default() };
    let mut mixed = Mixed::start_of(plan, This, Earlier, Earlier);
    something(&mut mixed.site);
    let sequence = mixed.site.push("services/web", "late", "1\n");
    eventually("the slave to say so", || {
        let told = problems(&mixed.site.slave().status()?);
        if told.contains(words) { Ok(()) } else { Err(told) }
    });
    mixed.expect_kept();
    // This slave follows; the host does not.
    mixed.stop(Slave, This).start();
    mixed.site.slave().wait_at(sequence);
    let told = mixed.site.host().wait_status("say so", |status| problems(status).contains(words));
    println!("{}", problems(&told));
    assert!(told["sequence"].as_u64() < Some(sequence), "{told}");
    mixed.expect_kept();
    mixed.stop(Host, This).start();
    mixed.site.wait_applied(sequence);
    mixed.change();
    mixed.expect_whole();
}

#[test]
#[ignore = "long: builds an earlier version"]
fn earlier_slaves_and_hosts_keep_what_they_have_when_another_key_signs() {
    expect_followed_after_the_upgrade("it is by a key that is not trusted here", |site| {
        let rotated = site.master.run(&["key", "rotate", "--repo", &site.master.repo.display().to_string()]);
        assert!(rotated.status.success(), "{}", text(&rotated));
    });
}

#[test]
#[ignore = "long: builds an earlier version"]
fn earlier_slaves_and_hosts_keep_what_they_have_when_a_server_is_restored() {
    expect_followed_after_the_upgrade("does not follow", |site| {
        let (key, recipient) = identity(site, "elsewhere");
        let repo = site.master.repo.display().to_string();
        let copy = site.folder.path().join("copy.git").display().to_string();
        let key = key.display().to_string();
        let done = site.master.run(&["backup", "--repo", &repo, "--to", &copy, "--recipient", &recipient]);
        assert!(done.status.success(), "{}", text(&done));
        site.push_and_wait("services/web", "lost", "1\n");
        site.master.daemon.stop();
        for of in ["", ".key", ".key.pub", ".identity", ".token"] {
            fs::rename(format!("{repo}{of}"), format!("{repo}{of}.lost")).expect("it can be moved");
        }
        let done =
            site.master.run(&["restore", "--from", &copy, "--repo", &repo, "--identity", &key, "--above", "4711"]);
        assert!(done.status.success(), "{}", text(&done));
        site.master.daemon.start();
    });
}
