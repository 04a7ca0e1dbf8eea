//! A request for each operation that a daemon describes, inside the principals' patterns and outside
//! of them. An operation that has none here fails the story.

use hyper::Method;
use serde_json::{Value, json};

use crate::matrix::{
    model::{About, BRANCHES, DATACENTERS, Tier, policy},
    scene::{Joining, Scene},
};

const DOCUMENTS: [(Tier, &str); 2] = [
    (Tier::Master, include_str!("../../../../conf-master/src/http/openapi.json")),
    (Tier::Slave, include_str!("../../../../conf-slave/src/http/openapi.json")),
];

/// An operation of a description.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) tier: Tier,
    method: Method,
    path: String,
    /// The right that its requests need, as the description says.
    verb: String,
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    /// By events, without an end.
    Stream,
    /// By what became of each ref.
    Push,
    /// By a pack.
    Fetch,
    /// Who may do it is told that there is nothing to be done.
    Vain,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) tier: Tier,
    /// The operation, for people.
    pub(crate) operation: String,
    pub(crate) verb: String,
    pub(crate) about: About,
    pub(crate) method: Method,
    pub(crate) uri: String,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) body: Vec<u8>,
    pub(crate) form: Form,
}

impl Ask {
    /// Tells whether it changes something where it is allowed.
    pub(crate) fn changes(&self) -> bool {
        !["read", "none"].contains(&self.verb.as_str()) && self.method != Method::GET
    }

    fn needing(self, verb: &str) -> Self {
        Ask { verb: verb.to_owned(), ..self }
    }

    fn json(mut self, body: &Value) -> Self {
        self.headers.push(("content-type", "application/json"));
        Ask { body: body.to_string().into(), ..self }
    }

    fn bytes(self, body: &[u8]) -> Self {
        Ask { body: body.to_owned(), ..self }
    }

    fn fetching(mut self, request: &[u8]) -> Self {
        self.headers.extend([("content-type", "application/x-git-upload-pack-request"), ("git-protocol", "version=2")]);
        Ask { form: Form::Fetch, ..self.bytes(request) }
    }

    fn pushing(mut self, request: &[u8]) -> Self {
        self.headers.push(("content-type", "application/x-git-receive-pack-request"));
        Ask { form: Form::Push, ..self.bytes(request) }
    }

    /// In the versions of Git's protocol before, a server lists every ref unasked.
    fn in_version_2(mut self) -> Self {
        self.headers.push(("git-protocol", "version=2"));
        self
    }

    fn streaming(self) -> Self {
        Ask { form: Form::Stream, ..self }
    }
}

/// All operations of both descriptions.
pub(crate) fn operations() -> Vec<Operation> {
    let mut found = Vec::new();
    for (tier, document) in DOCUMENTS {
        let document: Value = serde_json::from_str(document).expect("JSON");
        for (path, item) in document["paths"].as_object().expect("paths") {
            let operations = item.as_object().expect("a path").iter();
            for (method, described) in operations.filter(|(_, one)| one.get("operationId").is_some()) {
                let verb = described["x-conf-verb"].as_str().expect("an operation names a right").to_owned();
                let method = method.to_uppercase().parse().expect("a method");
                found.push(Operation { tier, method, path: path.clone(), verb });
            }
        }
    }
    found
}

impl Operation {
    /// Its requests. They name what is there at this time.
    pub(crate) fn asks(&self, scene: &Scene) -> Vec<Ask> {
        match self.tier {
            Tier::Master => self.asks_of_master(scene),
            Tier::Slave => self.asks_of_slave(scene),
        }
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn ask(&self, about: About, uri: &str) -> Ask {
        assert!(!uri.contains('{'), "{uri} lacks the value of a parameter");
        Ask {
            tier: self.tier,
            operation: format!("{:?}: {}", self.tier, self.name()),
            verb: self.verb.clone(),
            about,
            method: self.method.clone(),
            uri: uri.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            form: Form::Whole,
        }
    }

    /// One request for each datacenter: in the path, or in the query.
    fn of_datacenters(&self, query: &str) -> Vec<Ask> {
        let path = self.path.replace("{kind}/{name}", "services/web");
        let of = |datacenter| {
            let path = path.replace("{id}/{version}", datacenter).replace("{version}", "latest");
            self.ask(About::Datacenter(datacenter), &format!("{path}{}", query.replace("DATACENTER", datacenter)))
        };
        DATACENTERS.map(of).into()
    }

    fn of_secret(&self, name: &str) -> Vec<Ask> {
        let of = |datacenter| {
            let path = self.path.replace("{id}/{version}", datacenter).replace("{name}", name);
            self.ask(About::Datacenter(datacenter), &path)
        };
        DATACENTERS.map(of).into()
    }

    fn asks_of_master(&self, scene: &Scene) -> Vec<Ask> {
        let one = |about: About, uri: &str| vec![self.ask(about, uri)];
        let all = |uri: &str| one(About::Everything, uri);
        let with = |asks: Vec<Ask>, body: &Value| -> Vec<Ask> { asks.into_iter().map(|ask| ask.json(body)).collect() };
        match self.name().as_str() {
            "GET /healthz" | "GET /readyz" => one(About::Health, &self.path),
            "GET /api/v1/principal" | "GET /api/v1/openapi.json" | "GET /api/v1/keys" => {
                one(About::Oneself, &self.path)
            }
            "GET /api/v1/datacenters" | "GET /api/v1/tokens" | "GET /api/v1/standby" | "GET /metrics" => {
                all(&self.path)
            }
            // One that has nothing is told at once.
            "POST /api/v1/standby" => {
                with(all(&self.path), &json!({"name": "another", "ledger": "0".repeat(40), "sequence": 0}))
            }
            // Nobody leads in the place of this one.
            "POST /api/v1/succession" => with(all(&self.path), &json!({"statements": []})),
            "GET /conf.git/info/refs" => vec![
                self.ask(About::Repository, "/conf.git/info/refs?service=git-upload-pack").in_version_2(),
                // The first request of a push.
                self.ask(About::RefsBeforePush, "/conf.git/info/refs?service=git-receive-pack").needing("push"),
            ],
            "POST /conf.git/git-upload-pack" => {
                let fetch = |one| self.ask(About::Snapshot(one), &self.path).fetching(&scene.fetch(one));
                DATACENTERS.map(fetch).into()
            }
            "POST /api/v1/sessions" => with(one(About::Health, &self.path), &first_of_session()),
            "POST /conf.git/git-receive-pack" => {
                let push = |name| self.ask(About::Branch(name), &self.path).pushing(&scene.push(name).request);
                BRANCHES.map(push).into()
            }
            "POST /api/v1/config/update" => {
                let update = |name| self.ask(About::Branch(name), &self.path).json(&scene.update(name));
                BRANCHES.map(update).into()
            }
            "GET /api/v1/config/{section}" => all("/api/v1/config/services/web"),
            "GET /api/v1/doc/{kind}/{name}" => all("/api/v1/doc/services/web?branch=documented"),
            "GET /api/v1/where" => all(&format!("/api/v1/where?object={}", scene.snapshot)),
            "GET /api/v1/policy" => all("/api/v1/policy?as=pusher&ref=services/web/master"),
            "POST /api/v1/policy/test" => with(all(&self.path), &json!({"policy": policy()})),
            "POST /api/v1/tokens" => with(all(&self.path), &json!({"name": "another"})),
            "DELETE /api/v1/tokens/{id}" => all(&self.path.replace("{id}", &scene.unused[0])),
            "POST /api/v1/tokens/{id}/resume" => {
                // A restore alone suspends tokens, and this one is good.
                let resume = |ask| Ask { form: Form::Vain, ..ask };
                all(&self.path.replace("{id}", &scene.unused[1])).into_iter().map(resume).collect()
            }
            "POST /api/v1/tokens/{id}/rotate" => with(all(&self.path.replace("{id}", &scene.unused[1])), &json!({})),
            "GET /api/v1/datacenters/{id}/{version}"
            | "GET /api/v1/datacenters/{id}/{version}/freshness"
            | "GET /api/v1/datacenters/{id}/{version}/log"
            | "GET /api/v1/datacenters/{id}/{version}/hosts"
            | "GET /api/v1/datacenters/{id}/{version}/secrets" => self.of_datacenters(""),
            "GET /api/v1/datacenters/{id}/{version}/access" => {
                let readers = |ask: Ask| match ask.about {
                    About::Datacenter(datacenter) => Ask { about: About::Readers(datacenter), ..ask },
                    _ => ask,
                };
                self.of_datacenters("").into_iter().map(readers).collect()
            }
            "GET /api/v1/datacenters/{id}/{version}/explain" => self.of_datacenters("?component=services/web"),
            "POST /api/v1/datacenters/{id}/{version}/plan" => with(self.of_datacenters(""), &json!({})),
            "POST /api/v1/datacenters/{id}/{version}/hosts" => {
                let [west, north] = DATACENTERS;
                let report = |(datacenter, host): (&'static str, &'static str)| {
                    let path = self.path.replace("{id}/{version}", datacenter);
                    let body = json!({"sequence": 1, "hosts": [report_of(datacenter, host)]});
                    self.ask(About::Host(datacenter, host), &path).json(&body)
                };
                let hosts = [(west, "web-1"), (west, "web-2"), (west, "joined-1"), (north, "far-1"), (north, "web-1")];
                hosts.map(report).into()
            }
            "POST /api/v1/datacenters/{id}/{version}/hosts/{host}/key" => {
                let join = |joining: &Joining| {
                    let Joining { datacenter, host, body } = joining;
                    let path = self.path.replace("{id}/{version}", datacenter).replace("{host}", host);
                    self.ask(About::Host(datacenter, host), &path).json(body)
                };
                scene.joining.iter().map(join).collect()
            }
            "PUT /api/v1/datacenters/{id}/{version}/secrets/{name}" => {
                with(self.of_secret("leftover"), &json!({"value": "a new value"}))
            }
            "DELETE /api/v1/datacenters/{id}/{version}/secrets/{name}" => self.of_secret("leftover"),
            "POST /api/v1/datacenters/{id}/{version}/secrets/{name}/rotate" => self.of_secret("cookie"),
            "GET /conf/{kind}/{name}" | "GET /conf/{kind}/{name}/{version}" => {
                self.of_datacenters("?datacenter=DATACENTER&host=web-1")
            }
            "GET /api/v1/delivery" => self.of_datacenters("?datacenter=DATACENTER"),
            "GET /api/v1/at" => self.of_datacenters(&format!("?datacenter=DATACENTER&sequence={}", scene.sequence)),
            "GET /api/v1/events" => {
                self.of_datacenters("?datacenter=DATACENTER").into_iter().map(Ask::streaming).collect()
            }
            "GET /api/v1/refused" => [all(&self.path), self.of_datacenters("?datacenter=DATACENTER")].concat(),
            other => panic!("the matrix has no request for {other} of conf-master; give it one here"),
        }
    }

    fn asks_of_slave(&self, scene: &Scene) -> Vec<Ask> {
        let [own, _] = DATACENTERS;
        let one = |uri: &str| self.ask(About::Cache, uri);
        match self.name().as_str() {
            "GET /healthz" | "GET /readyz" => vec![self.ask(About::Health, &self.path)],
            "GET /api/v1/status"
            | "GET /api/v1/hosts"
            | "GET /api/v1/keys"
            | "GET /api/v1/openapi.json"
            | "GET /metrics"
            | "GET /v1/status/leader" => vec![one(&self.path)],
            "GET /api/v1/access" => vec![self.ask(About::Readers(own), &self.path)],
            "GET /api/v1/datacenters/{id}/{version}" | "GET /api/v1/datacenters/{id}/{version}/freshness" => {
                vec![one(&self.path.replace("{id}/{version}", own))]
            }
            "GET /api/v1/datacenters/{id}/{version}/access" => {
                vec![self.ask(About::Readers(own), &self.path.replace("{id}/{version}", own))]
            }
            "POST /api/v1/datacenters/{id}/{version}/hosts" => {
                let body = json!({"sequence": 1, "hosts": [report_of(own, "web-1")]});
                vec![self.ask(About::WayUp, &self.path.replace("{id}/{version}", own)).json(&body)]
            }
            "POST /api/v1/datacenters/{id}/{version}/hosts/{host}/key" => {
                let join = |joining: &&Joining| joining.datacenter == own;
                let ask = |Joining { host, body, .. }: &Joining| {
                    let path = self.path.replace("{id}/{version}", own).replace("{host}", host);
                    self.ask(About::WayUp, &path).json(body)
                };
                scene.joining.iter().filter(join).map(ask).collect()
            }
            "GET /conf.git/info/refs" => vec![
                one("/conf.git/info/refs?service=git-upload-pack"),
                one("/conf.git/info/refs?service=git-receive-pack").needing("push"),
            ],
            "POST /conf.git/git-upload-pack" => vec![one(&self.path).fetching(&scene.fetch(own))],
            "POST /api/v1/sessions" => vec![self.ask(About::Health, &self.path).json(&first_of_session())],
            "POST /conf.git/git-receive-pack" => vec![one(&self.path).pushing(&scene.push(BRANCHES[0]).request)],
            "GET /api/v1/at" => {
                let sequence = scene.sequence;
                vec![one(&format!("/api/v1/at?datacenter={own}&sequence={sequence}&timeout=0"))]
            }
            "GET /api/v1/events" => vec![
                one(&format!("/api/v1/events?datacenter={own}")).streaming(),
                self.ask(About::WayUp, &format!("/api/v1/events?datacenter={own}&relay=true")).streaming(),
            ],
            "POST /api/v1/reports" => {
                let report = |host| self.ask(About::Host(own, host), &self.path).json(&report_of(own, host));
                ["web-1", "web-2", "joined-1"].map(report).into()
            }
            "GET /v1/kv/{key}" | "DELETE /v1/kv/{key}" => vec![one("/v1/kv/matrix/key")],
            "PUT /v1/kv/{key}" => vec![one("/v1/kv/matrix/key").bytes(b"another value")],
            "PUT /v1/txn" => {
                let set = json!([{"KV": {"Verb": "set", "Key": "matrix/more", "Value": "MQ=="}}]);
                vec![one(&self.path).json(&set)]
            }
            other => panic!("the matrix has no request for {other} of conf-slave; give it one here"),
        }
    }
}

/// What a host says first who has no token: it is given a nonce.
fn first_of_session() -> Value {
    json!({"datacenter": DATACENTERS[0], "host": "web-1"})
}

fn report_of(datacenter: &str, host: &str) -> Value {
    json!({
        "host": host, "datacenter": datacenter, "sequence": 1, "commit": null, "state": "current", "agent": "0"
    })
}
