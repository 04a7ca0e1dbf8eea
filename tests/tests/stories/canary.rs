//! A secret's value is looked for everywhere, and found in its reader's files alone.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;
use tests::{
    Plan, Site,
    git::Change,
    http::Address,
    program::{command, run, text},
    site::{DATACENTER, instance},
};

const OWN: &str = "datacenters/us-west/v1";
const WEB: &str = "services/web/master";
/// What stands in a file of the host; no letter of it is anywhere else by chance.
const ON_HOST: &str = "xq7-canary-of-the-host-zw9";
/// What somebody gives.
const GIVEN: &str = "vk4-canary-that-was-given-pj2";

/// A site whose every daemon logs all that it can.
fn talkative() -> Site {
    let trace = || vec!["--log-level".to_owned(), "trace".to_owned()];
    let mut site = Plan {
        hosts: 1,
        slave_flags: trace(),
        host_flags: [trace(), vec!["--listen".to_owned(), "127.0.0.1:0".to_owned()]].concat(),
        ..Plan::default()
    }
    .start();
    trace().into_iter().for_each(|argument| site.master.daemon.argument(argument));
    site.master.daemon.restart();
    site
}

#[test]
fn a_secret_is_in_its_readers_files_and_nowhere_else() {
    let mut site = talkative();
    let host = &site.hosts[0];
    let key = ask(&site, &["identity", "--state", host.state.to_str().expect("UTF-8")]);
    let token = site.folder.path().join("token");
    fs::write(&token, ON_HOST).expect("the folder can be written");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let file = host.home.join("conf-local.yaml");
    fs::write(&file, format!("secret-sources: {{own: {{file: {}}}}}\n", token.display())).expect("it can be written");
    let daemon = &mut site.hosts[0].daemon;
    daemon.argument("--config");
    daemon.argument(file);
    daemon.restart();

    let watch = Watch::start();
    let given = site.folder.path().join("given");
    fs::write(&given, GIVEN).expect("the folder can be written");
    let set = site.master.run(&["secret", "set", DATACENTER, "given", "--file", given.to_str().expect("UTF-8")]);
    assert!(set.status.success(), "{}", text(&set));
    fs::remove_file(&given).expect("it is ours");

    let change = declared(&site, &key);
    let dry = change.option("--push-option=dry-run").push().text;
    assert!(dry.contains("<secret key>"), "{dry}");
    let mut said = vec![text(&set), dry, declared(&site, &key).land()];
    site.wait_applied(site.master.sequence());

    let first = site.hosts[0].file("services/web/latest/etc/key");
    let rotated = site.master.run(&["secret", "rotate", DATACENTER, "key"]);
    assert!(rotated.status.success(), "{}", text(&rotated));
    said.push(text(&rotated));
    site.wait_applied(site.master.sequence());
    let canary = site.hosts[0].file("services/web/latest/etc/key");
    assert_eq!((canary.len(), canary.bytes().all(|byte| byte.is_ascii_hexdigit())), (48, true));
    assert_ne!(canary, first);
    assert_eq!(site.hosts[0].file("services/web/latest/etc/given"), GIVEN);
    assert_eq!(site.hosts[0].file("services/web/latest/bin/login"), ON_HOST);
    let settings: Value = serde_json::from_str(&site.hosts[0].file("services/web/latest.json")).expect("JSON");
    assert_eq!(settings["password"], canary.as_str());
    let pem = site.hosts[0].file("services/web/latest/tls/key.pem");
    assert!(pem.starts_with("-----BEGIN"), "no key");
    let pem = pem.lines().nth(1).expect("a key has lines").to_owned();
    let canaries = [canary.as_str(), first.as_str(), ON_HOST, GIVEN, pem.as_str()];

    // What would say something of a value fails at the push, where the values are not at hand. There is
    // no error with the values at hand: a host renders without them, too.
    for refused in [
        "{{ secrets.key | int }}",
        "{{ secrets.nobody }}",
        "{{ secrets.key.x.y }}",
        "{% if secrets.key | length > 20 %}{{ secrets.key | int }}{% endif %}",
        "{{ secrets.key[3] }}",
        "{{ {}[secrets.token].x }}",
        "{{ secrets.tls.key + 1 }}",
    ] {
        said.push(site.work.change().file(WEB, "broken.j2", refused).push().refused(&["broken.j2:1"]));
    }
    let condition = "{% if secrets.key %}a{% endif %}";
    said.push(site.work.change().file(WEB, "broken.j2", condition).push().refused(&["asks whether a secret is true"]));
    site.wait_applied(site.master.sequence());
    // The restart opens everything anew.
    site.hosts[0].daemon.kill9_and_restart();
    site.hosts[0].wait_applied(site.master.sequence());

    said.extend(answers(&site));
    for (place, text) in said.iter().enumerate() {
        assert_clean(&format!("what was said, number {place}"), text.as_bytes(), &canaries);
    }
    let shown = ask_over_http(&site, "/v1/config/services/web");
    assert_eq!(shown, r#"{"password":{"$secret":"key"},"port":80}"#, "others see the name");
    assert!(ask(&site, &["get", "services/web", "password"]).contains(&canary), "root sees what it could read");

    for (key, value) in site.consul().values("") {
        assert_clean(&format!("the key {key}"), value.as_bytes(), &canaries);
    }
    let mut repositories = site.slave().repositories();
    repositories.extend([site.master.repo.clone(), site.hosts[0].repository(), site.work.folder().to_owned()]);
    assert!(repositories.len() >= 4);
    for repository in repositories {
        let mut git = command("git", &repository);
        git.args(["cat-file", "--batch-all-objects", "--batch", "--unordered"]).current_dir(&repository);
        let objects = run(git);
        assert!(objects.status.success() && objects.stdout.len() > 1000, "{}", text(&objects));
        assert_clean(&format!("the objects of {}", repository.display()), &objects.stdout, &canaries);
    }
    for (place, bytes) in watch.end() {
        assert_clean(&place, &bytes, &canaries);
    }
    let found = in_files(site.folder.path(), &canaries);
    let store = site.hosts[0].export().join("store");
    let expected = found.iter().filter(|path| **path != token);
    for path in expected.clone() {
        assert!(path.starts_with(&store), "{} holds a secret", path.display());
        let mode = fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert!(matches!(mode, 0o600 | 0o700), "{}: {mode:o}", path.display());
    }
    let names: BTreeSet<_> = expected.filter_map(|path| path.file_name()?.to_str()).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["given", "key", "key.pem", "login", "settings.json"]);
    assert!(site.master.daemon.log().contains("TRACE"), "the logs hold all that there is");
}

/// Declares secrets of every kind, and lets services/web ask for them in every way.
fn declared<'a>(site: &'a Site, key: &str) -> Change<'a> {
    let text = format!(
        "{}secrets:\n  key: {{generate: {{length: 24, encoding: hex}}, readers: [services/web]}}\n  \
         given: {{readers: [services/web]}}\n  token: {{from: own, readers: [services/web]}}\n  \
         tls: {{generate: {{x509: {{names: [web.example.com], days: 30}}}}, readers: [services/web]}}\n\
         inventories:\n  hosts:\n    web-1: {{key: {}}}\n",
        instance(),
        key.trim()
    );
    let change = site.work.change().file(OWN, "datacenter.yaml", text);
    let change = change.file(WEB, "config.yaml", "port: 80\npassword: {$secret: key}\n");
    let change = change.file(WEB, "etc/given.j2", "{{ secrets.given }}");
    let change =
        change.file(WEB, "etc/key.j2", "{{ secrets.key }}").executable(WEB, "bin/login.j2", "{{ secrets.token }}");
    change.file(WEB, "tls/key.pem.j2", "{{ secrets.tls.key }}").file(WEB, "plain.j2", "{{ settings.port }}")
}

/// Everything that anybody answers.
fn answers(site: &Site) -> Vec<String> {
    let mut answers = Vec::new();
    let mut ask = |address: &Address, path: &str| {
        let answer = address.get(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        answers.push(answer.text());
    };
    let datacenter = format!("/api/v1/datacenters/{DATACENTER}");
    for path in [
        "/metrics",
        "/readyz",
        "/api/v1/datacenters",
        &datacenter,
        &format!("{datacenter}/log"),
        &format!("{datacenter}/hosts"),
        &format!("{datacenter}/explain?component=services/web&host=web-1"),
        &format!("/conf/services/web?datacenter={DATACENTER}&host=web-1"),
        "/api/v1/refused",
        "/api/v1/config/services/web",
        &format!("/api/v1/config/{OWN}"),
    ] {
        ask(&site.master.http(), path);
    }
    for path in ["/metrics", "/readyz", "/api/v1/status", "/api/v1/hosts"] {
        ask(&site.slave().http(), path);
    }
    for path in
        ["/metrics", "/readyz", "/v1/status", "/v1/history", "/v1/explain/services/web", "/v1/schema/services/web"]
    {
        ask(&site.hosts[0].http(), path);
    }
    answers.push(text(&site.hosts[0].run(&["verify"])));
    answers.push(text(&site.hosts[0].run(&["explain", "services/web"])));
    answers.push(ask_over_http(site, "/v1/config/services/web"));
    answers
}

/// Asks conf-local over its socket, as root.
#[track_caller]
fn ask(site: &Site, arguments: &[&str]) -> String {
    let output = site.hosts[0].run(arguments);
    assert!(output.status.success(), "conf-local {arguments:?} failed:\n{}", text(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Asks conf-local over its port, where it cannot tell who asks.
fn ask_over_http(site: &Site, path: &str) -> String {
    let line = site.hosts[0].daemon.ready_line().to_owned();
    let address = line.split("http=").nth(1).expect("it listens").split_whitespace().next().expect("an address");
    Address::Tcp(address.parse().expect("an address")).get(path).expect("an answer").text()
}

#[track_caller]
fn assert_clean(place: &str, bytes: &[u8], canaries: &[&str]) {
    for canary in canaries {
        assert!(!holds(bytes, canary), "{place} holds a secret");
    }
}

fn holds(bytes: &[u8], canary: &str) -> bool {
    let first = canary.as_bytes()[0];
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|byte| *byte == first) {
        at += next;
        if bytes[at..].starts_with(canary.as_bytes()) {
            return true;
        }
        at += 1;
    }
    false
}

/// Looks at the words and the environment of every process that there is, again and again, until its end.
struct Watch {
    thread: JoinHandle<BTreeSet<(String, Vec<u8>)>>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = thread::spawn(move || {
            let mut found = BTreeSet::new();
            while !seen.load(Ordering::Relaxed) {
                for entry in fs::read_dir("/proc").expect("it is there").flatten() {
                    for file in ["cmdline", "environ"] {
                        // One that has ended meanwhile has neither.
                        if let Ok(bytes) = fs::read(entry.path().join(file)) {
                            found.insert((entry.path().join(file).display().to_string(), bytes));
                        }
                    }
                }
                thread::park_timeout(Duration::from_millis(20));
            }
            found
        });
        Watch { thread, stop }
    }

    fn end(self) -> BTreeSet<(String, Vec<u8>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        let found = self.thread.join().expect("it looks");
        let renders = |(_, bytes): &&(String, Vec<u8>)| holds(bytes, "render-templates");
        assert!(found.iter().any(|one| renders(&one)), "those that end soon were seen as well");
        found
    }
}

/// The files below a folder that hold one of them; links are not followed.
fn in_files(folder: &Path, canaries: &[&str]) -> Vec<PathBuf> {
    let (mut found, mut pending, mut read) = (Vec::new(), vec![folder.to_owned()], 0);
    while let Some(folder) = pending.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{}: {error}", folder.display()),
        };
        for entry in entries.flatten() {
            let kind = entry.file_type().expect("it has a type");
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file()
                && let Ok(bytes) = fs::read(entry.path())
            {
                read += 1;
                if canaries.iter().any(|canary| holds(&bytes, canary)) {
                    found.push(entry.path());
                }
            }
        }
    }
    assert!(read > 50, "only {read} files were read");
    found
}
