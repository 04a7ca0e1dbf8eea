//! Secrets at the centre: made once, sealed to those who may read them, kept, replaced when somebody asks.

use std::{collections::BTreeMap, path::Path, process::Output};

use libconf::tier::secret::{self, Identity, OpenError, SecretValue};
use serde_json::Value;
use tests::{
    Plan, Site,
    git::Change,
    program::{command, run, text},
    site::{CLASS, Pointers, instance},
};

const OWN: &str = "datacenters/us-west/v1";
const COOKIE: &str =
    "secrets:\n  cookie: {generate: {length: 32, encoding: hex}, readers: [services/web, services/api]}\n";

/// The central server alone, with hosts that have keys: `web` runs services/web, `api` services/api, `shop` neither.
struct Centre {
    site: Site,
    identities: BTreeMap<&'static str, Identity>,
}

impl Centre {
    fn start() -> Self {
        let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
        site.populate();
        let identity = |name| (name, Identity::create(&site.folder.path().join(name)).unwrap());
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
        self.site.work.change().file(OWN, "datacenter.yaml", format!("{}{rest}", instance()))
    }

    fn sealed(&self, id: &str, name: &str) -> Option<Vec<u8>> {
        let output = show(&self.site.master.repo, &format!("refs/heads/secrets/{id}:{name}/value.age"));
        output.status.success().then_some(output.stdout)
    }

    fn open(&self, host: &str, id: &str, name: &str) -> Result<String, OpenError> {
        let sealed = self.sealed(id, name).unwrap_or_else(|| panic!("{name} is not sealed for {id}"));
        let value = secret::open(&self.identities[host], &sealed, &id.parse().unwrap(), &name.parse().unwrap())?;
        match value {
            SecretValue::Text(text) => Ok((*text).clone()),
            SecretValue::Certificate { .. } => panic!("{name} is a certificate"),
        }
    }

    fn about(&self, id: &str, name: &str) -> Value {
        let output = show(&self.site.master.repo, &format!("refs/heads/secrets/{id}:{name}/about.json"));
        serde_json::from_slice(&output.stdout).expect("JSON")
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
        centre.site.work.change().file(CLASS, "datacenter.yaml", in_class).option("allow-shrink"),
        &["datacenter.yaml:2", "`services/nobody`"],
    );
    refused("a dry run", centre.own(&format!("{COOKIE}{usual}")).option("dry-run"), &["dry run"]);
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
fn a_given_secret_is_taken_from_the_environment() {
    let mut centre = Centre::start();
    let text = format!("secrets:\n  adminKey: {{readers: [services/web]}}\n{}", centre.usual());
    centre.own(&text).push().refused(&["CONF_SECRET_ADMINKEY"]);
    centre.site.master.daemon.environment("CONF_SECRET_ADMINKEY", "correct horse");
    centre.site.master.daemon.restart();
    centre.own(&text).land();
    assert_eq!(centre.open("web", "us-west", "adminKey").unwrap(), "correct horse");
    assert_eq!(centre.about("us-west", "adminKey")["source"], "given");
    assert!(!centre.site.master.daemon.log().contains("correct horse"));
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

fn text_of(output: &Output) -> String {
    text(output)
}
