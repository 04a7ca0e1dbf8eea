//! What each machine may ask of AWS, and what stands in its user data.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::terraform::{Rendered, folder, render, variables};

/// The rights, written out: whoever changes one sees it here.
#[test]
fn each_machine_has_the_least_rights() {
    let rendered = render(&variables()).unwrap();
    let parameter = |path: &str| format!("arn:aws:ssm:eu-central-1:123456789012:parameter/conf/{path}");
    let object = |name: &str| format!("arn:aws:s3:::packages/{name}");
    let expected = |of: &str| -> BTreeSet<(String, String)> {
        let rights: Vec<(&str, String)> = match of {
            "master" => ["shared/*", "admin/*", "slave/*", "consul/*", "jobs/*"]
                .iter()
                .flat_map(|path| [("ssm:PutParameter", parameter(path)), ("kms:Encrypt", parameter(path))])
                .chain([("s3:GetObject", object("conf-master.deb"))])
                .collect(),
            "slave" | "consul" => vec![
                ("ssm:GetParameter", parameter("shared/*")),
                ("ssm:GetParameter", parameter(&format!("{of}/*"))),
                ("kms:Decrypt", parameter(&format!("{of}/*"))),
                ("s3:GetObject", object(if of == "slave" { "conf-slave.deb" } else { "consul.zip" })),
            ],
            _ => vec![
                ("ssm:GetParameter", parameter("shared/*")),
                ("ssm:GetParameter", parameter("jobs/*")),
                ("kms:Decrypt", parameter("jobs/*")),
                ("s3:GetObject", object("conf-local.deb")),
            ],
        };
        rights.into_iter().map(|(action, resource)| (action.to_owned(), resource)).collect()
    };
    for name in ["master", "slave", "consul", "job-1", "job-2"] {
        assert_eq!(rights(&rendered, name), expected(name), "{name}");
    }
    assert_eq!(rendered.policies.len(), 5);
}

/// Without the agent of SSM nobody may open a session, and packages by https need no right.
#[test]
fn rights_follow_from_what_is_asked_for() {
    let mut given = variables();
    given["ssm_agent"] = json!({"url": "https://example.org/agent.deb", "sha256": "a".repeat(64)});
    given["packages"]["conf_slave"]["url"] = json!("https://example.org/conf-slave.deb");
    let rendered = render(&given).unwrap();
    let of_slave = rights(&rendered, "slave");
    assert!(!of_slave.iter().any(|(action, _)| action.starts_with("s3:")), "{of_slave:?}");
    let sessions = of_slave.iter().filter(|(_, resource)| resource == "*").map(|(action, _)| action.as_str());
    assert!(
        sessions.clone().all(|action| action.starts_with("ssmmessages:") || action == "ssm:UpdateInstanceInformation")
    );
    assert_eq!(sessions.count(), 5);
}

/// The size that EC2 takes, and the words that would stand beside a secret.
#[test]
fn user_data_is_small_and_holds_no_secret() {
    let mut given = variables();
    given["job_hosts"] = json!(50);
    given["ssm_agent"] = json!({"url": "https://example.org/agent.deb", "sha256": "a".repeat(64)});
    let rendered = render(&given).unwrap();
    assert_eq!(rendered.user_data.len(), 53);
    for (name, user_data) in &rendered.user_data {
        // Packed it is less than half of this.
        assert!(user_data.len() < 24 * 1024, "{name} has {} bytes", user_data.len());
        assert!(
            !user_data.contains("BEGIN ") && !user_data.contains("conf_0") && !user_data.contains("ssh-ed25519"),
            "{name}"
        );
    }
}

/// Each parameter that somebody may read is one that conf-master's machine writes, and the other way.
#[test]
fn the_list_of_parameters_is_whole() {
    let rendered = render(&variables()).unwrap();
    let master = std::fs::read_to_string(folder().join("scripts/master.sh")).unwrap();
    for path in rendered.parameters.keys() {
        let part = path.split('/').next_back().unwrap();
        let part = if path.starts_with("consul/token-") { "token-$name" } else { part };
        assert!(master.contains(part), "nobody writes {path}");
    }
}

/// What the statements of a policy allow: the action, and the resource or the parameter that a
/// condition names.
fn rights(rendered: &Rendered, name: &str) -> BTreeSet<(String, String)> {
    let policy: Value = serde_json::from_str(&rendered.policies[name]).unwrap();
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        assert_eq!(statement["Effect"], "Allow");
        let on = match statement.get("Condition") {
            None => texts(&statement["Resource"]),
            Some(condition) => {
                assert_eq!(texts(&statement["Resource"]), [rendered.key.as_str()]);
                texts(&condition["StringLike"]["kms:EncryptionContext:PARAMETER_ARN"])
            }
        };
        for action in texts(&statement["Action"]) {
            rights.extend(on.iter().map(|resource| (action.clone(), resource.clone())));
        }
    }
    rights
}
