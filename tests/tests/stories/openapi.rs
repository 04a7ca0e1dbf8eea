//! The description of each API says what its daemon does: a tool made for that asks for all that
//! it allows, and for what it does not.

use std::path::Path;

use hyper::Method;
use serde_json::Value;
use tests::{
    Forwarder, Plan, Site,
    http::Address,
    own_address, program,
    site::{DATACENTER, Pointers},
};

/// Where schemathesis is: `$SCHEMATHESIS`, or what `get-schemathesis` finds.
fn schemathesis() -> String {
    if let Ok(path) = std::env::var("SCHEMATHESIS") {
        return path;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("get-schemathesis");
    let home = std::env::var_os("HOME").unwrap_or_default();
    let found = program::run(program::command(script, Path::new(&home)));
    assert!(found.status.success(), "{}", program::text(&found));
    String::from_utf8_lossy(&found.stdout).trim().to_owned()
}

/// How the tool writes what it makes for Git: as it is.
const OF_GIT: &str = r#"
import schemathesis


def as_it_is(context, value):
    return value if isinstance(value, bytes) else str(value).encode()


for program in ("upload-pack", "receive-pack"):
    schemathesis.serializer(f"application/x-git-{program}-request")(as_it_is)
"#;

/// What the tool cannot know from the description of conf-master.
const OF_MASTER: &str = r#"
hooks = "git"
# A configuration may be of the right shape and still not be good.
checks.positive_data_acceptance.expected-statuses = ["2xx", "304", "404", "409", "422"]

[[operations]]
include-operation-id = ["reportHosts", "addToken", "rotateToken"]
# To JSON Schema 328.0 is a whole number.
checks.positive_data_acceptance.enabled = false

[[operations]]
include-name = "POST /api/v1/sessions"
# A signature of the right shape proves no host.
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "404"]
checks.negative_data_rejection.expected-statuses = ["400", "401", "404", "413", "429"]

[[operations]]
include-path-regex = "^/conf.git/"
# The language of Git is more than bytes.
checks.positive_data_acceptance.enabled = false
"#;

/// The same of conf-slave.
const OF_SLAVE: &str = r#"
hooks = "git"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409"]

[parameters]
# Nobody waits for what does not come.
"query.timeout" = 0.01
"query.wait" = "10ms"

[[operations]]
include-name = "POST /api/v1/sessions"
# A signature of the right shape proves no host.
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "404"]
checks.negative_data_rejection.expected-statuses = ["400", "401", "404", "413", "429"]

[[operations]]
include-path-regex = "^/conf.git/"
# The language of Git is more than bytes.
checks.positive_data_acceptance.enabled = false

[[operations]]
include-operation-id = ["report", "reportHosts"]
# To JSON Schema 328.0 is a whole number.
checks.positive_data_acceptance.enabled = false

[[operations]]
include-name = "PUT /v1/txn"
# The same; and as of Consul, too many operations are 413.
checks.positive_data_acceptance.enabled = false
checks.negative_data_rejection.expected-statuses = ["400", "413"]
"#;

/// The same of conf-local.
const OF_LOCAL: &str = r#"
# Most changes and components are not there, or not yet.
checks.positive_data_acceptance.expected-statuses = ["2xx", "304", "403", "404", "409", "504"]

[parameters]
# Nobody waits for what does not come.
"query.timeout" = 0.01

[[operations]]
include-name = "GET /v1/at/{change}"
# Nobody knows a change of the future.
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", "504"]

[[operations]]
include-method = "POST"
# To JSON Schema 328.0 is a whole number, and not every number is a process.
checks.positive_data_acceptance.enabled = false
"#;

/// Has the tool ask a daemon, but not for its stream of events, which does not end and has stories
/// of its own.
#[track_caller]
fn expect_described(site: &Site, url: &str, settings: &str, events: &str) {
    let folder = tempfile::tempdir_in(site.folder.path()).expect("a folder can be made");
    for (name, text) in [("schemathesis.toml", settings), ("git.py", OF_GIT)] {
        std::fs::write(folder.path().join(name), text).expect("the folder can be written");
    }
    let mut tool = program::command(schemathesis(), site.folder.path());
    tool.current_dir(folder.path());
    tool.args(["run", &format!("{url}/api/v1/openapi.json")]);
    tool.args(["--exclude-path", events]);
    tool.args(["--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--seed", "7"]);
    // Some requests take part in a landing; what is asked for here is that it ends.
    tool.args(["--request-timeout", "60", "--continue-on-failure", "--no-color", "--warnings", "off"]);
    let output = program::run(tool);
    assert!(output.status.success(), "{}", program::text(&output));
}

/// Expects that the daemon has a route for all that its description says.
#[track_caller]
fn expect_routes(daemon: &Address) {
    let description = daemon.get_json("/api/v1/openapi.json").expect("a description");
    assert_eq!(description["openapi"], "3.1.0");
    for (path, item) in description["paths"].as_object().expect("paths") {
        let operations = item.as_object().expect("a path").iter();
        for (name, operation) in operations.filter(|(_, operation)| operation.get("operationId").is_some()) {
            let parameters = [&item["parameters"], &operation["parameters"]].into_iter().filter_map(Value::as_array);
            let mut filled = path.clone();
            for parameter in parameters.flatten() {
                let shared =
                    parameter["$ref"].as_str().and_then(|place| description.pointer(place.trim_start_matches('#')));
                let parameter = shared.unwrap_or(parameter);
                let value = parameter["example"].to_string();
                let name = parameter["name"].as_str().expect("a name");
                filled = filled.replace(&format!("{{{name}}}"), value.trim_matches('"'));
            }
            let method = name.to_uppercase().parse::<Method>().expect("a method");
            // A stream of events would not end: with this it does not begin.
            let answer = daemon.request(method, &filled, &[("last-event-id", "none")], "").expect("an answer");
            let is_known = answer.status != 405 && !answer.text().contains("there is nothing at this path");
            assert!(is_known, "{name} {filled}: {} {}", answer.status, answer.text());
        }
    }
}

#[test]
fn conf_master_does_what_its_description_says() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    expect_routes(&site.master.http());
    expect_described(&site, &site.master.url(), OF_MASTER, "/api/v1/events");
    site.master.expect_unbroken_ledger();
}

#[test]
fn conf_slave_does_what_its_description_says() {
    let site = Plan { pointers: Pointers::Embedded, hosts: 0, ..Plan::default() }.start();
    let slave = site.slave();
    slave.wait_at(site.master.sequence());
    expect_routes(&slave.http());
    expect_described(&site, &slave.url, OF_SLAVE, "/api/v1/events");
    // Whatever was asked, it goes on.
    slave.wait_at(site.push("services/web", "round", "1\n"));
    assert_eq!(slave.status().expect("a status")["datacenter"], DATACENTER);
}

#[test]
fn conf_local_does_what_its_description_says() {
    let port = own_address(7402);
    // It signals no process, whichever ones the tool names.
    let host_flags = ["--observe".to_owned(), format!("--listen={port}")].into();
    let site = Plan { pointers: Pointers::Embedded, host_flags, ..Plan::default() }.start();
    let host = site.host();
    expect_routes(&host.http());
    let socket = Forwarder::start(&host.socket);
    expect_described(&site, &socket.url(), OF_LOCAL, "/v1/events");
    expect_described(&site, &format!("http://{port}"), OF_LOCAL, "/v1/events");
    host.wait_applied(site.push("services/web", "round", "1\n"));
}
