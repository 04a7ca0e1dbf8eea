//! The description of the API says what the server does: a tool made for that asks for all that it allows, and for what it
//! does not.

use std::path::Path;

use tests::{Plan, program, site::Pointers};

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

/// What the tool cannot know from the description.
const SETTINGS: &str = r#"
[checks]
# The router does not say which methods a path takes, so a 405 has no `Allow`.
unsupported_method.enabled = false
# A configuration may be of the right shape and still not be good.
positive_data_acceptance.expected-statuses = ["2xx", "304", "404", "409", "422"]

[[operations]]
include-name = "POST /api/v1/datacenters/{id}/{version}/hosts"
# To JSON Schema 328.0 is a whole number.
checks.positive_data_acceptance.enabled = false
"#;

#[test]
fn the_server_does_what_its_description_says() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    let description = site.master.http().get_json("/api/v1/openapi.json").expect("a description");
    assert_eq!(description["openapi"], "3.1.0");
    std::fs::write(site.folder.path().join("schemathesis.toml"), SETTINGS).expect("the folder can be written");
    let mut tool = program::command(schemathesis(), site.folder.path());
    tool.current_dir(site.folder.path());
    tool.args(["run", &format!("{}/api/v1/openapi.json", site.master.url())]);
    // A stream does not end, which the tool would wait for; it has stories of its own.
    tool.args(["--exclude-path", "/api/v1/events"]);
    tool.args(["--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--seed", "7"]);
    // Every request takes part in a landing; what is asked for here is that it ends.
    tool.args(["--request-timeout", "60", "--continue-on-failure", "--no-color", "--warnings", "off"]);
    let output = program::run(tool);
    assert!(output.status.success(), "{}", program::text(&output));
    site.master.expect_unbroken_ledger();
}
