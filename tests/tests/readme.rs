//! What the README tells people to paste, pasted; and whether the manual says what is true.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::{fs, path::Path};

use conf_core::manifest::{ClassManifest, InstanceManifest, Strictness, pins};
use hyper::Method;
use tests::{
    Daemon, Plan,
    http::Address,
    own_address, page,
    program::{built, command, run, text},
    site::{DATACENTER, Pointers},
};

const README: &str = include_str!("../../README.md");
const MANUAL: &str = include_str!("../../docs/operating.md");
const UPDATE_API: &str = include_str!("../../docs/update-api.md");

#[test]
fn the_five_minutes() {
    let folder = tempfile::Builder::new().prefix("conf-readme-").tempdir().unwrap();
    let address = own_address(7400).ip().to_string();
    let reader = page::Reader { folder: folder.path(), address, seconds: 120, path: Vec::new() };
    let (script, expected) = (blocks("## Five minutes", "sh"), blocks("## Five minutes", "text"));
    reader.paste(&script, &expected, &["master.log", "slave.log", "local.log"]);
}

#[test]
fn the_consul_policies_and_the_metrics() {
    let mut site = Plan { pointers: Pointers::DenyingConsul, ..Plan::default() }.start_empty();
    site.populate();
    let slave_token = site.consul().token("conf-slave", &blocks("#### conf-slave", "hcl"));
    let local_token = site.consul().token("conf-local", &blocks("#### conf-local", "hcl"));

    let mut slave = site.make_slave(1);
    slave.daemon.environment("CONSUL_HTTP_TOKEN", slave_token.clone());
    slave.daemon.start();
    site.slaves.push(slave);
    let mut host = site.make_host(1);
    host.daemon.environment("CONSUL_HTTP_TOKEN", local_token.clone());
    host.daemon.start();
    site.hosts.push(host);
    let sequence = site.push_and_wait("services/web", "round", "1\n");
    assert_eq!(site.host().file("services/web/latest/round"), "1\n");
    assert!(site.consul().get("configurations/services/web/latest").is_some());

    for server in [site.master.http(), site.slave().http(), site.host().http()] {
        let metrics = server.get("/metrics").unwrap().text();
        for name in metrics.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()) {
            assert!(MANUAL.contains(&format!("`{name}`")), "docs/operating.md does not say what {name} is");
        }
    }

    // And no more than that.
    let consul = Address::Tcp(site.consul().address());
    let ask = |method: Method, key: &str, token: &str| {
        let headers = [("x-consul-token", token)];
        consul.request(method, &format!("/v1/kv/{key}"), &headers, "1").unwrap().status.as_u16()
    };
    let own = format!("configurations/snapshots/{DATACENTER}");
    assert_eq!(ask(Method::GET, &own, &local_token), 200);
    assert_eq!(ask(Method::PUT, &own, &local_token), 403);
    assert_eq!(ask(Method::GET, "configurations/services/web/latest", &local_token), 403);
    assert_eq!(ask(Method::PUT, "configurations/snapshots/elsewhere/v1", &slave_token), 403);
    assert_eq!(ask(Method::PUT, "else", &slave_token), 403);
    site.wait_applied(sequence);
}

#[test]
fn the_links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for page in [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/architecture.md",
        "docs/operating.md",
        "docs/decisions.md",
        "docs/moving-in.md",
    ] {
        let text = fs::read_to_string(root.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !target.is_empty() && !target.contains("://") {
                let path = root.join(page).with_file_name(target);
                assert!(path.exists(), "{page} links to {target}, which is not there");
            }
        }
    }
}

/// The fenced blocks of one language under a heading, one after the other.
fn blocks(heading: &str, language: &str) -> String {
    fenced(heading, language).concat()
}

/// The same, one by one.
fn fenced(heading: &str, language: &str) -> Vec<String> {
    page::fenced(README, heading, language)
}

#[test]
fn the_examples_of_datacenter_yaml() {
    let examples = fenced("## What goes where", "yaml");
    let [class, instance] = examples.as_slice() else { panic!("two examples are expected") };
    let class = ClassManifest::parse(class, Strictness::Strict).expect("the class's example lands");
    let instance = InstanceManifest::parse(instance, Strictness::Strict).expect("the datacenter's example lands");
    assert_eq!(instance.dangling(&class), []);
    assert_eq!(pins(&class, &instance).len(), 4);
}

#[test]
fn the_example_of_conf_local_yaml() {
    let site = Plan { hosts: 0, slaves: 0, pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    let folder = site.folder.path().to_str().unwrap();
    let file = blocks("### systemd", "yaml")
        .replace("/var/lib/conf-local", &format!("{folder}/state"))
        .replace("/run/conf-local/", &format!("{folder}/"))
        .replace("/etc/conf-master.pub", site.master.trusted_key().to_str().unwrap());
    let path = site.folder.path().join("conf-local.yaml");
    fs::write(&path, file).unwrap();
    // Nothing that it names answers, so it waits for a first snapshot, and says so.
    let arguments = ["run", "--config", path.to_str().unwrap()];
    let mut agent = Daemon::new("conf-local", built("conf-local"), site.folder.path(), arguments);
    agent.start();
    let status = Address::Unix(site.folder.path().join("conf-local.sock")).get_json("/v1/status").unwrap();
    assert_eq!((status["host"].as_str(), status["watchers"].as_array().map(Vec::len)), (Some("web-1"), Some(2)));
    agent.stop();
}

/// What `--help` says and what the manual says are the same flags.
#[test]
fn the_manual_knows_every_flag() {
    let manual = &[MANUAL, UPDATE_API].concat();
    let home = tempfile::tempdir().unwrap();
    let mut known = String::new();
    for arguments in [
        vec!["conf-master", "init"],
        vec!["conf-master", "serve"],
        vec!["conf-master", "check"],
        vec!["conf-master", "import"],
        vec!["conf-master", "log"],
        vec!["conf-master", "plan"],
        vec!["conf-master", "explain"],
        vec!["conf-master", "doc"],
        vec!["conf-master", "update"],
        vec!["conf-master", "show"],
        vec!["conf-master", "wait"],
        vec!["conf-master", "secret", "list"],
        vec!["conf-master", "secret", "set"],
        vec!["conf-master", "secret", "rotate"],
        vec!["conf-master", "secret", "remove"],
        vec!["conf-slave", "run"],
        vec!["conf-local", "run"],
        vec!["conf-local", "get"],
        vec!["conf-local", "explain"],
        vec!["conf-local", "wait"],
        vec!["conf-local", "watch"],
        vec!["conf-local", "exec"],
        vec!["conf-local", "status"],
        vec!["conf-local", "verify"],
        vec!["conf-local", "history"],
        vec!["conf-local", "diff"],
    ] {
        let mut help = command(built(arguments[0]), home.path());
        help.args(&arguments[1..]).arg("--help");
        let output = run(help);
        let help = text(&output);
        assert!(output.status.success(), "{arguments:?} --help: {help}");
        for flag in flags(&help) {
            let documented = flag == "--help" || flag == "--version" || flags(manual).any(|known| known == flag);
            assert!(documented, "docs/operating.md does not say what {flag} of {arguments:?} is");
        }
        known.push_str(&help);
    }
    let of_others = ["--some-flag", "--atomic", "--mirror", "--unix-socket"];
    for flag in flags(manual).filter(|flag| !of_others.contains(flag)) {
        assert!(flags(&known).any(|known| known == flag), "no command has {flag}");
    }
}

/// Every `--flag` in a text.
fn flags(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '-'))
        .filter(|word| word.len() > 2 && word.starts_with("--") && !word[2..].starts_with('-'))
}

/// The messages that the manual explains are messages that some program has.
#[test]
fn the_manual_quotes_what_programs_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources = String::new();
    for folder in ["libconf/src", "conf-master/src", "conf-slave/src", "conf-local/src"] {
        gather(&root.join(folder), &mut sources);
    }
    // A message that goes on in the next line of its source is one line when it is said.
    let sources = sources.replace("\\\n", " ");
    let sources = sources.split_whitespace().collect::<Vec<_>>().join(" ");
    let (mut quoted, mut unknown) = (0, Vec::new());
    for heading in ["## What a refusal means", "## What an outage says"] {
        let section = MANUAL.split_once(heading).unwrap().1.split("\n## ").next().unwrap();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        for words in rows.filter_map(|row| row.split(" | ").next()).flat_map(|cell| cell.split('`').skip(1).step_by(2))
        {
            let parts = words.split('…').map(|part| part.trim().trim_end_matches([';', ':', ',']));
            for part in parts.filter(|part| part.len() > 3 && !part.starts_with("datacenter.yaml")) {
                quoted += 1;
                if !sources.contains(part) {
                    unknown.push(part);
                }
            }
        }
    }
    assert!(unknown.is_empty(), "the manual explains what no program says: {unknown:#?}");
    assert!(quoted > 40, "only {quoted} messages were found in the manual");
}

fn gather(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            gather(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}
