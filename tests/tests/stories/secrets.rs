//! Secrets at the centre: made once, sealed to those who may read them, kept, replaced when
//! somebody asks.

use std::{collections::BTreeMap, path::Path, process::Output};

use conf_core::secret::{self, Identity, OpenError, SecretValue};
use serde_json::Value;
use tests::{
    DEADLINE, Plan, Site, eventually,
    git::Change,
    program::{command, run, text},
    site::{CLASS, Pointers, instance},
};

const OWN: &str = "datacenters/us-west/v1";
const COOKIE: &str =
    "secrets:\n  cookie: {generate: {length: 32, encoding: hex}, readers: [services/web, services/api]}\n";

/// The central server alone, with hosts that have keys: `web` runs services/web, `api`
/// services/api, `shop` neither.
struct Centre {
    site: Site,
    identities: BTreeMap<&'static str, Identity>,
}

impl Centre {
    fn start() -> Self {
        let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
        site.populate();
        let identity = |name| (name, Identity::create(&site.folder.path().join(name)).expect("an identity"));
        let identities = ["web", "api", "shop", "late"].map(identity).into();
        Centre { site, identities }
    }

    /// The lines of hosts, each with its key.
    fn hosts(&self, hosts: &[(&str, &str)]) -> String {
        let line = |(host, components): &(&str, &str)| {
            let key = self.identities[host].recipient();
            format!("    {host}: {{components: ['{components}'], key: {key}}}\n")
        };
        format!("inventories:\n  hosts:\n{}", hosts.iter().map(line).collect::<String>())
    }

    fn usual(&self) -> String {
        self.hosts(&[("web", "services/web"), ("api", "services/api"), ("shop", "applications/*")])
    }

    /// The datacenter's text.
    fn own(&self, rest: &str) -> Change<'_> {
        let change = self.site.work.change().file(OWN, "datacenter.yaml", format!("{}{rest}", instance()));
        // Hosts ran everything before they were listed.
        change.option("--push-option=allow-shrink")
    }

    fn sealed(&self, id: &str, name: &str) -> Option<Vec<u8>> {
        let output = show(&self.site.master.repo, &format!("refs/heads/secrets/{id}:{name}/value.age"));
        output.status.success().then_some(output.stdout)
    }

    fn open(&self, host: &str, id: &str, name: &str) -> Result<String, OpenError> {
        let sealed = self.sealed(id, name).unwrap_or_else(|| panic!("{name} is not sealed for {id}"));
        let (id, name) = (id.parse().expect("an id"), name.parse().expect("a secret's name"));
        let value = secret::open(&self.identities[host], &sealed, &id, &name)?;
        match value {
            SecretValue::Text(text) => Ok((*text).clone()),
            SecretValue::Certificate { .. } => panic!("{name} is a certificate"),
        }
    }

    fn about(&self, id: &str, name: &str) -> Value {
        let output = show(&self.site.master.repo, &format!("refs/heads/secrets/{id}:{name}/about.json"));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// `conf-master secret …`
    fn secret(&self, arguments: &[&str]) -> Output {
        self.site.master.run(&[&["secret"], arguments].concat())
    }

    fn refs(&self) -> String {
        self.site.master.git(&["for-each-ref", "--format=%(refname) %(objectname)"])
    }
}

fn show(repo: &Path, what: &str) -> Output {
    let mut git = command("git", repo);
    git.args(["cat-file", "blob", what]).current_dir(repo);
    run(git)
}

#[test]
fn a_generated_secret_is_one_value_for_its_readers_and_is_kept() {
    let mut centre = Centre::start();
    let told = centre.own(&format!("{COOKIE}{}", centre.usual())).land();
    assert!(told.contains("cookie has a new value, for 2 hosts"), "{told}");
    let value = centre.open("web", "us-west", "cookie").unwrap();
    assert_eq!((value.len(), value.bytes().all(|byte| byte.is_ascii_hexdigit())), (64, true));
    assert_eq!(centre.open("api", "us-west", "cookie").unwrap(), value);
    assert_eq!(centre.open("shop", "us-west", "cookie"), Err(OpenError::NotForThisKey));
    assert!(!told.contains(&value) && !centre.site.master.daemon.log().contains(&value));
    // The snapshot carries it as it is sealed.
    let git = |name: &str| centre.site.master.git(&["rev-parse", name]);
    assert_eq!(git("refs/snapshots/us-west/v1:secrets"), git("refs/heads/secrets/us-west^{tree}"));

    let before = git("refs/heads/secrets/us-west");
    centre.site.push("services/web", "round", "1\n");
    centre.own(&format!("{COOKIE}platform: {{a: 1}}\n{}", centre.usual())).land();
    assert_eq!(git("refs/heads/secrets/us-west"), before, "what is sealed stays as it is");
    centre.site.master.daemon.kill9_and_restart();
    centre.own(&format!("{COOKIE}platform: {{a: 2}}\n{}", centre.usual())).land();
    assert_eq!(centre.open("web", "us-west", "cookie").unwrap(), value);

    // A second version of the datacenter has the same value, another datacenter another one.
    let with = |branch: &str| {
        let text = format!("{}{COOKIE}{}", instance(), centre.usual());
        centre.site.work.change().file(branch, "datacenter.yaml", text).land()
    };
    with("datacenters/us-west/v2");
    with("datacenters/us-east/v1");
    assert_eq!(centre.open("web", "us-west", "cookie").unwrap(), value);
    let other = centre.open("web", "us-east", "cookie").unwrap();
    assert_ne!(other, value);
    centre.site.master.expect_unbroken_ledger();
}

#[test]
fn what_is_sealed_follows_the_hosts() {
    let centre = Centre::start();
    centre.own(&format!("{COOKIE}{}", centre.hosts(&[("web", "services/web")]))).land();
    let value = centre.open("web", "us-west", "cookie").unwrap();
    assert!(centre.open("late", "us-west", "cookie").is_err());
    let both = centre.hosts(&[("web", "services/web"), ("late", "services/*")]);
    let told = centre.own(&format!("{COOKIE}{both}")).land();
    assert!(told.contains("cookie is sealed to 2 hosts"), "{told}");
    assert_eq!(centre.open("late", "us-west", "cookie").unwrap(), value);
    centre.own(&format!("{COOKIE}{}", centre.hosts(&[("late", "services/api")]))).land();
    assert_eq!(centre.open("late", "us-west", "cookie").unwrap(), value);
    assert_eq!(centre.open("web", "us-west", "cookie"), Err(OpenError::NotForThisKey));

    // Taken out by mistake, it is read by nobody; put back, it has the value that it had.
    let nobody = centre.hosts(&[("late", "services/api")]);
    centre.own(&nobody).land();
    assert_eq!(centre.open("late", "us-west", "cookie"), Err(OpenError::NotForThisKey));
    centre.own(&format!("{COOKIE}{nobody}")).land();
    assert_eq!(centre.open("late", "us-west", "cookie").unwrap(), value);
    // What is declared otherwise is another secret.
    centre.own(&format!("{}{nobody}", COOKIE.replace("32", "16"))).land();
    assert_eq!(centre.open("late", "us-west", "cookie").unwrap().len(), 32);
}

#[test]
fn what_a_host_could_open_that_left_is_to_be_rotated_until_it_is() {
    let centre = Centre::start();
    centre.own(&format!("{COOKIE}{}", centre.usual())).land();
    let left = || -> Vec<(String, u64)> {
        let listed = centre.secret(&["list", "us-west/v1", "--json"]);
        let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        let left = listed[0]["left"].as_array().expect("a list").iter();
        let host =
            |one: &Value| (one["host"].as_str().expect("a name").to_owned(), one["since"].as_u64().expect("a number"));
        left.map(host).collect()
    };
    assert!(left().is_empty());
    let without_api = centre.hosts(&[("web", "services/web"), ("shop", "applications/*")]);
    let told = centre.own(&format!("{COOKIE}{without_api}")).land();
    assert!(told.contains("the secret cookie should be rotated: api could open it until now"), "{told}");
    let sequence = centre.site.master.sequence();
    assert_eq!(left(), [("api".to_owned(), sequence)]);
    // The key of a host is another one: the one before it can open what it could.
    let other = centre.hosts(&[("web", "services/web"), ("shop", "applications/*")]);
    let [web, late] = ["web", "late"].map(|name| centre.identities[name].recipient().to_string());
    centre.own(&format!("{COOKIE}{}", other.replace(&web, &late))).land();
    assert_eq!(left(), [("api".to_owned(), sequence), ("web".to_owned(), sequence + 1)]);
    let shown = text(&centre.secret(&["list", "us-west/v1"]));
    assert!(shown.contains("TO BE ROTATED") && shown.contains(&format!("api left at #{sequence}")), "{shown}");
    let rotated = centre.secret(&["rotate", "us-west/v1", "cookie"]);
    assert!(rotated.status.success(), "{}", text(&rotated));
    assert!(left().is_empty());
}

#[test]
fn a_change_of_one_version_reaches_the_others_of_its_datacenter() {
    let centre = Centre::start();
    centre.own(&format!("{COOKIE}{}", centre.usual())).land();
    let before = centre.site.master.snapshot();
    let text = format!("{}{COOKIE}{}", instance(), centre.hosts(&[("late", "services/web")]));
    centre.site.work.change().file("datacenters/us-west/v2", "datacenter.yaml", text).land();
    assert_ne!(centre.site.master.snapshot(), before, "v1 has what is sealed anew as well");
    let git = |name: &str| centre.site.master.git(&["rev-parse", name]);
    assert_eq!(git("refs/snapshots/us-west/v1:secrets"), git("refs/snapshots/us-west/v2:secrets"));
    for host in ["web", "api", "late"] {
        assert!(centre.open(host, "us-west", "cookie").is_ok(), "{host}");
    }
}

#[test]
fn what_cannot_be_sealed_does_not_land() {
    let centre = Centre::start();
    let usual = centre.usual();
    let refused = |what: &str, change: Change<'_>, words: &[&str]| {
        let before = centre.refs();
        let told = change.push().refused(words);
        assert_eq!(centre.refs(), before, "{what} left something behind: {told}");
    };
    refused(
        "no value",
        centre.own(&format!("secrets:\n  adminKey: {{readers: [services/web]}}\n{usual}")),
        &["datacenter.yaml:3", "`adminKey` has no value", "conf-master secret set us-west/v1 adminKey --file FILE"],
    );
    refused(
        "no key",
        centre
            .own(&format!("{COOKIE}inventories:\n  hosts:\n    web: {{components: [services/web]}}\n    api: {{}}\n")),
        &[
            "datacenter.yaml:7",
            "`api`, `web` run a reader of the secret `cookie` and have no `key`",
            "conf-local identity",
        ],
    );
    refused(
        "a reader that nobody runs",
        centre.own(&format!("{}{usual}", COOKIE.replace("services/api", "services/none"))),
        &["datacenter.yaml:3", "`services/none`, a reader of the secret `cookie`, is run neither"],
    );
    refused("no reader", centre.own("secrets: {cookie: {generate: {length: 32}}}\n"), &["no component may read"]);
    let in_class = "services: [{name: web, branch: master}]\nsecrets: {tls: {readers: [services/nobody]}}\n";
    refused(
        "a class's reader that nobody runs",
        centre.site.work.change().file(CLASS, "datacenter.yaml", in_class).option("--push-option=allow-shrink"),
        &["datacenter.yaml:2", "`services/nobody`"],
    );
    refused("a dry run", centre.own(&format!("{COOKIE}{usual}")).option("--push-option=dry-run"), &["dry run"]);
    // By its own hands nobody writes what is sealed.
    let pushed = centre.site.work.push(&["refs/heads/services/web/master:refs/heads/secrets/us-west"]);
    pushed.refused(&["secrets/us-west is written by conf-master alone"]);
    // Two versions that declare it otherwise would take turns.
    centre.own(&format!("{COOKIE}{usual}")).land();
    let otherwise = format!("{}{}{usual}", instance(), COOKIE.replace("32", "64"));
    refused(
        "a version that disagrees",
        centre.site.work.change().file("datacenters/us-west/v2", "datacenter.yaml", otherwise),
        &["declares the secret `cookie` otherwise"],
    );
}

#[test]
fn a_prefix_that_is_the_beginning_of_another_ones_is_refused_at_the_start() {
    let mut site = Plan { hosts: 0, slaves: 0, pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    let daemon = &mut site.master.daemon;
    daemon.stop();
    for argument in ["--secrets-for=eu=CONF_", "--secrets-for=us-west=CONF_US_"] {
        daemon.argument(argument);
    }
    daemon.start_unready();
    assert!(!daemon.wait_for_end(DEADLINE).success());
    let words = "--secrets-for eu=CONF_ would also get the variables of us-west=CONF_US_";
    assert!(daemon.log().contains(words), "{}", daemon.log());
    // Of its own beginning each one is told apart.
    daemon.arguments().pop();
    daemon.argument("--secrets-for=us-west=OF_US_");
    daemon.start();
}

#[test]
fn a_given_secret_is_taken_from_the_environment() {
    let mut centre = Centre::start();
    let text = format!("secrets:\n  adminKey: {{readers: [services/web]}}\n{}", centre.usual());
    centre.own(&text).push().refused(&["--secrets-for us-west", "CONF_SECRET_ADMINKEY"]);
    centre.site.master.daemon.environment("CONF_SECRET_ADMINKEY", "correct horse");
    centre.site.master.daemon.restart();
    // Whoever may push a datacenter may declare this name in it.
    centre.own(&text).push().refused(&["--secrets-for us-west"]);
    centre.site.master.daemon.argument("--secrets-for=us-west");
    centre.site.master.daemon.argument("--secrets-for=eu=OF_EU_");
    centre.site.master.daemon.restart();
    centre.own(&text).land();
    let other = |id: &str, text: &str| {
        let text = format!("{}{text}", instance());
        centre.site.work.change().file(&format!("datacenters/{id}/v1"), "datacenter.yaml", text).push()
    };
    other("sandbox", &text).refused(&["--secrets-for sandbox"]);
    other("eu", &text).refused(&["OF_EU_ADMINKEY in its environment"]);
    assert_eq!(centre.open("web", "us-west", "adminKey").unwrap(), "correct horse");
    assert_eq!(centre.about("us-west", "adminKey")["source"], "given");
    assert!(!centre.site.master.daemon.log().contains("correct horse"));
}

#[test]
fn a_value_that_cannot_be_read_holds_up_its_own_datacenter_alone() {
    let mut centre = Centre::start();
    let tls = "secrets:\n  tls: {generate: {x509: {names: [a.example.com], days: 30}}, readers: [services/web]}\n";
    centre.own(&format!("{tls}{}", centre.usual())).land();
    let other = format!("{}{tls}{}", instance(), centre.usual());
    centre.site.work.change().file("datacenters/us-east/v1", "datacenter.yaml", other).land();
    let damage = |centre: &Centre, file: &str| {
        let id = centre.site.master.git(&["rev-parse", &format!("refs/heads/secrets/us-east:tls/{file}")]);
        let id = id.trim();
        let path = centre.site.master.repo.join("objects").join(&id[..2]).join(&id[2..]);
        let whole = std::fs::read(&path).expect("it is loose");
        std::fs::write(&path, "no object").expect("root writes what is read-only");
        (path, whole)
    };
    let (path, whole) = damage(&centre, "value.age");
    // What has landed lately is still in memory.
    centre.site.master.daemon.restart();
    let hosts = centre.hosts(&[("web", "services/web"), ("late", "services/web")]);
    let joined = format!("{}{tls}{hosts}", instance());
    let change = || centre.site.work.change().file("datacenters/us-east/v1", "datacenter.yaml", &joined);
    change().push().refused(&["the secrets that it needs cannot be sealed"]);
    centre.site.push("services/web", "round", "1\n");
    std::fs::write(&path, whole).expect("it is put back");

    let sequence = |id: &str| centre.about(id, "tls")["sequence"].clone();
    let (path, whole) = damage(&centre, "about.json");
    let before = sequence("us-west");
    let mark = centre.site.master.daemon.log_mark();
    centre.site.master.daemon.argument("--renew-ahead=30");
    centre.site.master.daemon.restart();
    let sequence = |id: &str| centre.about(id, "tls")["sequence"].clone();
    eventually("the other's certificate is issued anew", || {
        if sequence("us-west") == before { Err(format!("it is of {before}")) } else { Ok(()) }
    });
    assert!(centre.site.master.daemon.log_since(mark).contains("certificates cannot be renewed"), "the log says so");
    std::fs::write(&path, whole).expect("it is put back");
}

#[test]
fn what_stands_beside_a_secret_is_held_against_the_schema() {
    let centre = Centre::start();
    centre.own(&format!("{COOKIE}{}", centre.usual())).land();
    let schema = r#"{"properties": {"cook": {"minLength": 99}, "cookies": {"minLength": 3}}}"#;
    let change = |settings: &str| {
        let change = centre.site.work.change().file("services/web/master", "config.schema.json", schema);
        change.file("services/web/master", "config.yaml", settings).option("--push-option=allow-shrink")
    };
    change("cook: {$secret: cookie}\ncookies: 'a'\n").push().refused(&["config.yaml:2", "/cookies"]);
    change("$secret: cookie\n").push().refused(&["it stands in the place of all settings"]);
    change("cook: {$secret: cookie}\ncookies: 'abc'\n").land();
}

#[test]
fn check_says_which_values_would_be_needed() {
    let centre = Centre::start();
    let text = format!("{}secrets:\n  adminKey: {{readers: [services/web]}}\n{}", instance(), centre.usual());
    centre.site.work.change().file(OWN, "datacenter.yaml", text).commit();
    let clone = centre.site.work.folder().to_str().unwrap().to_owned();
    let output = centre.site.master.run(&["check", "--repo", &clone]);
    assert!(output.status.success(), "{}", text_of(&output));
    assert!(
        text_of(&output)
            .contains("note: datacenters/us-west/v1: datacenter.yaml:3: the secret `adminKey` has no value")
    );
    let text = format!("{}{COOKIE}inventories: {{hosts: {{web: {{}}}}}}\n", instance());
    centre.site.work.change().file(OWN, "datacenter.yaml", text).commit();
    let output = centre.site.master.run(&["check", "--repo", &clone]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text_of(&output).contains("`web` runs a reader of the secret `cookie`"), "{}", text_of(&output));
}

#[test]
fn what_is_given_is_set_and_replaced_and_forgotten() {
    let centre = Centre::start();
    let declared = format!("secrets:\n  adminKey: {{readers: [services/web]}}\n{}", centre.usual());
    let file = centre.site.folder.path().join("value");
    let set = |value: &str| {
        std::fs::write(&file, value).unwrap();
        let output = centre.secret(&["set", "us-west/v1", "adminKey", "--file", file.to_str().unwrap()]);
        assert!(output.status.success(), "{}", text_of(&output));
        text_of(&output)
    };
    // Before it is declared nobody but conf-master can open it.
    assert!(set("correct horse\n").contains("adminKey has the value that was given, for 0 hosts"));
    assert_eq!(centre.open("web", "us-west", "adminKey"), Err(OpenError::NotForThisKey));
    centre.own(&declared).land();
    assert_eq!(centre.open("web", "us-west", "adminKey").unwrap(), "correct horse");
    let before = centre.site.master.snapshot();
    set("two\nlines\n");
    assert_ne!(centre.site.master.snapshot(), before);
    assert_eq!(centre.open("web", "us-west", "adminKey").unwrap(), "two\nlines\n");

    let refused = |arguments: &[&str], words: &str| {
        let output = centre.secret(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text_of(&output).contains(words), "{arguments:?}: {}", text_of(&output));
    };
    refused(&["rotate", "us-west/v1", "adminKey"], "is given; run `conf-master secret set");
    refused(&["rotate", "us-west/v1", "other"], "declares no secret `other`; it declares: adminKey");
    refused(&["rotate", "us-east/v1", "other"], "there is no datacenter us-east/v1");
    refused(&["remove", "us-west/v1", "adminKey"], "is declared; take it out of datacenter.yaml first");
    refused(&["remove", "us-west/v1", "other"], "no value of the secret `other` is kept");
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    let path = file.to_str().unwrap();
    refused(&["set", "us-west/v1", "adminKey", "--file", path], "is not UTF-8");
    std::fs::write(&file, "x".repeat(65_537)).unwrap();
    refused(&["set", "us-west/v1", "adminKey", "--file", path], "1 to 65536 bytes");
    std::fs::write(&file, "x").unwrap();
    refused(&["set", "us-west/v1", "ADMINKEY", "--file", path], "only in case");

    centre.own(&centre.usual()).land();
    let output = centre.secret(&["remove", "us-west/v1", "adminKey"]);
    assert!(output.status.success(), "{}", text_of(&output));
    assert!(centre.sealed("us-west", "adminKey").is_none());
    let log = centre.site.master.daemon.log();
    assert!(!log.contains("correct horse") && !log.contains("two\nlines"));
    centre.site.master.expect_unbroken_ledger();
}

#[test]
fn a_rotated_secret_has_a_new_value_and_the_list_says_so() {
    let centre = Centre::start();
    centre.own(&format!("{COOKIE}{}", centre.usual())).land();
    let value = centre.open("web", "us-west", "cookie").unwrap();
    let listed = || {
        let output = centre.secret(&["list", "us-west/v1", "--json"]);
        assert!(output.status.success(), "{}", text_of(&output));
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let before = listed();
    assert_eq!(before[0]["source"], "generated: 32 bytes, hex");
    assert_eq!(before[0]["hosts"], serde_json::json!(["api", "web"]));
    let output = centre.secret(&["rotate", "us-west/v1", "cookie"]);
    assert!(text_of(&output).contains("cookie has a new value, for 2 hosts"), "{}", text_of(&output));
    let new = centre.open("api", "us-west", "cookie").unwrap();
    assert_ne!(new, value);
    let after = listed();
    assert_eq!(after[0]["sequence"].as_u64().unwrap(), centre.site.master.sequence());
    assert_ne!(after[0]["sequence"], before[0]["sequence"]);
    let table = text_of(&centre.secret(&["list", "us-west/v1"]));
    assert!(table.contains("cookie") && table.contains("services/api") && table.contains("api, web"), "{table}");
    let log = text_of(&centre.site.master.run(&["log", "us-west/v1"]));
    assert!(log.contains("the secret cookie has a new value"), "{log}");
    for shown in [table, log, after.to_string(), centre.site.master.daemon.log()] {
        assert!(!shown.contains(&value) && !shown.contains(&new));
    }
}

#[test]
fn a_certificate_is_issued_anew_without_a_push() {
    let mut centre = Centre::start();
    let tls = "secrets:\n  tls: {generate: {x509: {names: [web.example.com], days: 90}}, readers: [services/web]}\n";
    centre.own(&format!("{tls}{}", centre.usual())).land();
    let certificate = |centre: &Centre| {
        let sealed = centre.sealed("us-west", "tls").expect("it is sealed");
        let opened =
            secret::open(&centre.identities["web"], &sealed, &"us-west".parse().unwrap(), &"tls".parse().unwrap());
        match opened.expect("web opens it") {
            SecretValue::Certificate { certificate, .. } => certificate,
            SecretValue::Text(_) => panic!("it is a certificate"),
        }
    };
    let (first, sequence) = (certificate(&centre), centre.site.master.sequence());
    centre.site.master.daemon.argument("--renew-ahead=59");
    centre.site.master.daemon.restart();
    // A landing that comes after the look at the start: by then it would have been issued anew.
    centre.site.push("services/web", "round", "1\n");
    assert_eq!(certificate(&centre), first, "not due yet");
    assert_eq!(centre.site.master.sequence(), sequence + 1);
    *centre.site.master.daemon.arguments().last_mut().unwrap() = "--renew-ahead=61".into();
    centre.site.master.daemon.restart();
    eventually("a new certificate", || {
        let now = centre.site.master.sequence();
        if now == sequence + 2 { Ok(()) } else { Err(format!("#{now}")) }
    });
    assert_ne!(certificate(&centre), first);
    let log: Value =
        serde_json::from_slice(&centre.site.master.run(&["log", "us-west/v1", "--json"]).stdout).expect("JSON");
    assert_eq!(
        (log[0]["by"].as_str(), log[0]["secrets"][0]["change"].as_str()),
        (Some("conf-master"), Some("new-value"))
    );
    let listed: Value = serde_json::from_slice(&centre.secret(&["list", "us-west/v1", "--json"]).stdout).expect("JSON");
    assert!(listed[0]["valid_until"].as_str().is_some_and(|until| until.ends_with('Z')), "{listed}");
}

#[test]
fn a_cache_carries_what_it_cannot_open() {
    let site = Plan { slaves: 1, hosts: 0, pointers: Pointers::Embedded, ..Plan::default() }.start();
    let identity = Identity::create(&site.folder.path().join("web")).unwrap();
    let text = format!(
        "{}{COOKIE}inventories: {{hosts: {{web: {{components: [services/web], key: {}}}}}}}\n",
        instance(),
        identity.recipient()
    );
    site.work.change().file(OWN, "datacenter.yaml", text).option("--push-option=allow-shrink").land();
    site.slave().wait_at(site.master.sequence());
    let what = "refs/snapshots/us-west/v1:secrets/cookie/value.age";
    let [mirror] = site.slave().repositories().try_into().expect("one mirror");
    let carried = show(&mirror, what).stdout;
    assert_eq!(carried, show(&site.master.repo, what).stdout);
    let opened = secret::open(&identity, &carried, &"us-west".parse().unwrap(), &"cookie".parse().unwrap());
    let SecretValue::Text(value) = opened.expect("the host opens what the cache carries") else { panic!("it is text") };
    assert_eq!(value.len(), 64);
    assert!(!site.slave().daemon.log().contains(value.as_str()));
}

fn text_of(output: &Output) -> String {
    text(output)
}
