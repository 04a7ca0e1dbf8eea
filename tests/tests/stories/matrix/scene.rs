//! The site on which the matrix is tried: two datacenters that run the same components, the first
//! with a conf-slave, and a token for each principal.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
};

use hyper::Method;
use serde_json::{Value, json};
use tests::{
    Plan, Site, eventually,
    http::Address,
    program::{built, run, text},
    site::{Pointers, instance, token_in},
    wire::{self, Claim},
};

use crate::matrix::{
    model::{About, DATACENTERS, Outcome, PRINCIPALS, Principal, Proof, Tier, policy},
    requests::{Ask, Form},
};
use crate::sessions;

const COOKIE: &str = "secrets:\n  cookie: {generate: {length: 32, encoding: hex}, readers: [services/web]}\n";
const SCHEMA: &str = r#"{"type": "object", "properties": {"port": {"type": "integer", "description": "Where"}}}"#;

/// The site, and what requests name.
pub(crate) struct Scene {
    pub(crate) site: Site,
    /// The sequence and the commit of the first datacenter's snapshot.
    pub(crate) sequence: u64,
    pub(crate) snapshot: String,
    /// The ids of tokens that nobody uses.
    pub(crate) unused: [String; 2],
    /// The hosts whose keys are asked for.
    pub(crate) joining: Vec<Joining>,
    pub(crate) doors: Doors,
    ssh: PathBuf,
}

/// A host that has a key, and a join token for its datacenter.
pub(crate) struct Joining {
    pub(crate) datacenter: &'static str,
    pub(crate) host: &'static str,
    pub(crate) body: Value,
}

/// The addresses of the daemons, and the tokens of those who ask.
pub(crate) struct Doors {
    master: SocketAddr,
    slave: SocketAddr,
    tokens: BTreeMap<&'static str, Option<String>>,
    /// Sessions are of one server.
    sessions: BTreeMap<(&'static str, Tier), String>,
    asked: AtomicU16,
}

/// A push of one commit.
pub(crate) struct Push {
    /// The commit.
    new: String,
    /// The body of its request.
    pub(crate) request: Vec<u8>,
}

impl Scene {
    pub(crate) fn start() -> Self {
        let plan = Plan { tokens: true, hosts: 0, pointers: Pointers::Embedded, ..Plan::default() };
        let site = plan.start();
        let text = format!("{}{COOKIE}", instance());
        let mut change = site.work.change().file("services/web/documented", "config.schema.json", SCHEMA);
        for datacenter in DATACENTERS {
            change = change.file(&format!("datacenters/{datacenter}"), "datacenter.yaml", &text);
        }
        change.land();
        for datacenter in DATACENTERS {
            let path = format!("/api/v1/datacenters/{datacenter}/secrets/leftover");
            expect_done(&site.master.http(), Method::PUT, &path, &json!({"value": "the first value"}).to_string());
        }
        let tokens = PRINCIPALS.map(|one| (one.name, token_of(&site, one))).into();
        let unused = ["unused", "rotated"].map(|name| id_of(&site, &token_in(&site.master.token(name, &[]))));
        site.work.change().file("policy", "policy.yaml", policy()).land();
        let (sequence, snapshot) = (site.master.sequence(), site.master.snapshot());
        let ssh = ssh_of(&site);
        let (master, slave) = (site.master.address, site.slave().address);
        let doors = Doors { master, slave, tokens, sessions: BTreeMap::new(), asked: AtomicU16::new(0) };
        let joining = joining(&site, &doors);
        let mut scene = Scene { site, sequence, snapshot, unused, joining, doors, ssh };
        scene.settle();
        scene
    }

    /// Waits until the conf-slave has all of it, and the expired token is over.
    fn settle(&mut self) {
        let slave = self.site.slave();
        slave.wait_at(self.sequence);
        self.site.wait_published(self.sequence);
        expect_done(&slave.http(), Method::PUT, "/v1/kv/matrix/key", "a value");
        eventually("the conf-slave to hear of the policy", || {
            self.doors.token("reader").map_or(Err("no token".to_owned()), |token| {
                slave.unproven().with(token).get_json("/api/v1/status").map(|_| ())
            })
        });
        for Principal { name, proof } in PRINCIPALS {
            let Proof::Joined(..) = proof else { continue };
            let (file, _) = sessions::identity(&self.site, name);
            let fleet = self.doors.token("fleet").expect("a token").to_owned();
            let joined = sessions::join(&slave.unproven(), name, &file, &fleet);
            assert_eq!(joined.status, 200, "{}", joined.text());
            for (tier, server) in [(Tier::Slave, slave.unproven()), (Tier::Master, self.site.master.unproven())] {
                let opened = sessions::join(&server, name, &file, &fleet).json();
                let bearer = opened["bearer"].as_str().expect("a bearer").to_owned();
                self.doors.sessions.insert((name, tier), bearer);
            }
        }
        eventually("the token to be over", || {
            let expired = self.site.master.unproven().with(self.doors.token("expired").unwrap_or_default());
            let answer = expired.get("/api/v1/principal")?;
            if answer.status == 401 { Ok(()) } else { Err(answer.text()) }
        });
    }

    /// Starts conf-master again as one that asks nobody for a token.
    pub(crate) fn open(&mut self) {
        self.site.master.daemon.stop();
        self.site.master.daemon.argument("--open");
        self.site.master.daemon.start();
        let slave = self.site.slave().unproven();
        eventually("the conf-slave to be open too", || slave.get_json("/api/v1/status").map(|_| ()));
    }

    /// Has a principal fetch, or push, by a key of SSH.
    pub(crate) fn send_over_ssh(&self, about: About, principal: Principal) -> Outcome {
        let work = &self.site.work;
        let mut git = work.command();
        git.env("WHO", principal.name);
        git.args(["-c", &format!("core.sshCommand='{}'", self.ssh.display()), "-c", "ssh.variant=simple"]);
        let remote = "git@central:conf.git";
        match about {
            About::Branch(name) => {
                git.args(["push", "-q", remote, &format!("{}:refs/heads/{name}", self.push(name).new)])
            }
            _ => git.args(["ls-remote", remote]),
        };
        let output = run(git);
        let said = text(&output).replace("remote:", " ");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        if output.status.success() {
            Outcome::Allowed
        } else if said.contains("lacks the right") {
            Outcome::Denied
        } else {
            Outcome::Other(said)
        }
    }

    /// A fetch of a datacenter's snapshot.
    pub(crate) fn fetch(&self, datacenter: &str) -> Vec<u8> {
        let snapshot = self.site.master.git(&["rev-parse", &format!("refs/snapshots/{datacenter}")]);
        let want = wire::line(&format!("want {}\n", snapshot.trim()));
        [wire::line("command=fetch\n"), b"0001".to_vec(), want, wire::line("done\n"), b"0000".to_vec()].concat()
    }

    /// A push of one more commit to a branch.
    pub(crate) fn push(&self, branch: &str) -> Push {
        let (work, name) = (&self.site.work, format!("refs/heads/{branch}"));
        let old = self.site.master.git(&["rev-parse", &name]).trim().to_owned();
        work.git(&["fetch", "-q", "origin", &name]);
        let new = work.git(&["commit-tree", "-p", &old, "-m", "next", &format!("{old}^{{tree}}")]);
        let pack = work.git_pack(&[&new, &format!("^{old}")]);
        let claim = Claim { old: &old, new: &new, name: &name };
        let request = wire::push_request(&[claim], "report-status side-band-64k", Some(&pack));
        Push { new, request }
    }

    /// An update of a component.
    pub(crate) fn update(&self, branch: &str) -> Value {
        let section = branch.trim_end_matches("/master");
        let now = self.site.master.http().get_json(&format!("/api/v1/config/{section}")).expect("it is there");
        let version = now["version"].as_i64().expect("a number");
        let config = json!({"component": section, "round": version + 1});
        json!({"request": {"section": section, "config": config, "schemaVersion": 1, "version": version}})
    }

    /// All that a request could change, as an administrator sees it.
    pub(crate) fn state(&self) -> BTreeMap<&'static str, String> {
        let master = self.site.master.http();
        let slave = self.site.slave().http();
        let json = |server: &Address, path: &str| server.get_json(path).unwrap_or_else(|error| panic!("{error}"));
        let tokens = json(&master, "/api/v1/tokens");
        let tokens = tokens["tokens"].as_array().expect("a list").iter().map(|one| {
            ["id", "name", "groups", "scope", "created", "expires", "revoked"].map(|key| one[key].to_string()).join(" ")
        });
        let tokens: Vec<String> = tokens.collect();
        let reports =
            DATACENTERS.map(|one| json(&master, &format!("/api/v1/datacenters/{one}/hosts"))["hosts"].to_string());
        let reports = format!("{} {}", reports.join("\n"), json(&slave, "/api/v1/hosts"));
        BTreeMap::from([
            ("refs", self.site.work.git(&["ls-remote", "origin"])),
            ("refs on the disk", self.site.master.git(&["for-each-ref"])),
            ("landed changes", self.site.master.git(&["log", "--format=%H %s", "refs/conf/ledger"])),
            ("tokens", tokens.join("\n")),
            ("reports", reports),
            ("keys", json(&slave, "/v1/kv/?recurse").to_string()),
        ])
    }
}

impl Doors {
    fn token(&self, name: &str) -> Option<&str> {
        self.tokens.get(name).and_then(Option::as_deref)
    }

    /// Sends a request for a principal. Each comes from an address of its own, since who tries many
    /// wrong tokens is told no more than that.
    pub(crate) fn send(&self, ask: &Ask, principal: Principal) -> Outcome {
        let [high, low] = self.asked.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let source = Ipv4Addr::new(127, 252, high, low).into();
        let server = match ask.tier {
            Tier::Master => self.master,
            Tier::Slave => self.slave,
        };
        let address = Address::From { source, server };
        let session = self.sessions.get(&(principal.name, ask.tier)).map(String::as_str);
        let address = session.or_else(|| self.token(principal.name)).into_iter().fold(address, Address::with);
        let (method, body) = (ask.method.clone(), ask.body.clone());
        if ask.form == Form::Stream {
            let status = address.status(method, &ask.uri, &ask.headers, body);
            return status.map_or_else(Outcome::Other, |status| outcome(ask.form, status.as_u16(), ""));
        }
        let answer = address.request(method, &ask.uri, &ask.headers, body);
        answer.map_or_else(Outcome::Other, |answer| outcome(ask.form, answer.status.as_u16(), &answer.text()))
    }
}

/// What an answer means.
fn outcome(form: Form, status: u16, said: &str) -> Outcome {
    match status {
        401 => Outcome::Unproven,
        403 => Outcome::Denied,
        200 if form == Form::Push && said.contains("ng refs/") && said.contains("lacks the right") => Outcome::Denied,
        200 if form == Form::Push && !said.contains("ok refs/") => Outcome::Other(said.to_owned()),
        200 if form == Form::Fetch && said.contains("not our ref") => Outcome::Denied,
        200 if form == Form::Fetch && !said.contains("PACK") => Outcome::Other(said.to_owned()),
        422 if form == Form::Vain => Outcome::Allowed,
        200..=299 => Outcome::Allowed,
        _ => Outcome::Other(format!("{status} {said}")),
    }
}

#[track_caller]
fn expect_done(server: &Address, method: Method, path: &str, body: &str) {
    let headers = [("content-type", "application/json")];
    let answer = server.request(method, path, &headers, body.to_owned()).expect("an answer");
    assert!(answer.status.is_success(), "{path}: {} {}", answer.status, answer.text());
}

fn id_of(site: &Site, token: &str) -> String {
    let about = site.master.unproven().with(token).get_json("/api/v1/principal").expect("it is good");
    about["token"].as_str().expect("an id").to_owned()
}

/// The token that a principal shows. Those that prove nothing were, or seem, an administrator's.
fn token_of(site: &Site, principal: Principal) -> Option<String> {
    let make = |flags: &[&str]| Some(token_in(&site.master.token(principal.name, flags)));
    match (principal.name, principal.proof) {
        ("nobody", _) => None,
        ("wrong", _) => Some("conf_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned()),
        ("truncated", _) => Some(token_in(&site.master.token_file())[..30].to_owned()),
        ("admin", _) => Some(token_in(&site.master.token_file())),
        ("expired", _) => make(&["--group", "administrators", "--expires", "1s"]),
        ("revoked", _) => {
            let token = make(&["--group", "administrators"]).expect("it was made");
            let revoked = site.master.run(&["token", "revoke", &id_of(site, &token)]);
            assert!(revoked.status.success(), "{}", text(&revoked));
            Some(token)
        }
        (_, Proof::Slave(pattern)) => make(&["--slave", pattern]),
        (_, Proof::Joins(datacenter)) => make(&["--join", datacenter]),
        // It has none, but a key.
        (_, Proof::Joined(..)) => None,
        (_, Proof::Host(datacenter, host)) => make(&["--host", &format!("{datacenter}/{host}")]),
        (_, Proof::Nothing | Proof::Policy(_)) => make(&[]),
    }
}

/// Keys for hosts of both datacenters, and what each shows with its own.
fn joining(site: &Site, doors: &Doors) -> Vec<Joining> {
    let [west, north] = DATACENTERS;
    let far = token_in(&site.master.token("far-fleet", &["--join", north]));
    let fleet = doors.token("fleet").expect("a token").to_owned();
    let hosts = [(west, "web-3", &fleet), (west, "web-2", &fleet), (north, "far-2", &far), (north, "web-1", &far)];
    let joining = |(datacenter, host, token): (&'static str, &'static str, &String)| {
        let (_, key) = sessions::identity(site, &format!("{}-{host}", datacenter.replace('/', "-")));
        Joining { datacenter, host, body: json!({"key": key, "join": token}) }
    };
    hosts.map(joining).into()
}

/// What sshd does with a forced command for the key of `$WHO`.
fn ssh_of(site: &Site) -> PathBuf {
    let ssh = site.folder.path().join("ssh");
    let (program, repo) = (built("conf-master"), &site.master.repo);
    let script = format!(
        "#!/bin/sh\nshift $(($# - 1))\nexport SSH_ORIGINAL_COMMAND=\"$1\" SSH_CONNECTION='10.9.8.7 4711 10.0.0.1 22'\n\
         exec '{}' receive --repo '{}' --as \"$WHO\"\n",
        program.display(),
        repo.display()
    );
    fs::write(&ssh, script).expect("it can be written");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    ssh
}
