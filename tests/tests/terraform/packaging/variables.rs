//! Variables that make no sense: each gets a message that says what would.

use serde_json::{Value, json};
use tests::terraform::{render, variables};

/// Variables that are wrong all at once, each with a part of the message for it.
type Wrong<'a> = &'a [(&'a str, Value, &'a str)];

#[test]
#[ignore = "packaging: renders it many times"]
fn what_makes_no_sense_is_refused_with_what_would() {
    let none: Wrong<'_> = &[
        ("job_hosts", json!(0), "job_hosts is a whole number from 1 to 50: without a host, no change arrives anywhere"),
        ("vpc_cidr", json!("10.64.0.0"), "vpc_cidr is an IPv4 network as CIDR"),
        ("push_from", json!(["10.8.0.0/16", "office"]), "push_from is IPv4 as CIDR"),
        ("kms_key_arn", json!(""), "kms_key_arn is the ARN of a key"),
        ("region", json!(""), "The region is a name such as eu-central-1"),
        ("name", json!(""), "The name has 2 to 20 lower-case letters"),
        ("datacenter", json!("main"), "The datacenter is ID/VERSION"),
        ("subnet_ids", json!(["10.0.0.0/24"]), "subnet_ids is an id such as"),
        ("domain", json!("conf"), "The domain is a DNS name of two parts"),
        ("push_names", json!(["https://conf.example.org"]), "push_names is a DNS name"),
        ("architecture", json!("x86_64"), "The architecture is amd64 or arm64"),
        ("ami_id", json!(""), "The ami_id is an id such as"),
        ("master_volume_gib", json!(0), "master_volume_gib is a whole number"),
        ("master_snapshot_id", json!(""), "The master_snapshot_id is an id such as"),
        ("slave_volume_gib", json!(-1), "slave_volume_gib is 0 for none"),
        ("snapshot_hours", json!(5), "snapshot_hours are 1, 2, 3, 4, 6, 8, 12 or 24"),
        ("snapshots_kept", json!(0), "snapshots_kept is a whole number"),
        ("ssm_agent", json!({"url": "s3://packages/agent.deb", "sha256": ""}), "ssm_agent has the url of a .deb file"),
        (
            "instance_types",
            json!({"master": "", "slave": "t3.micro", "consul": "t3.micro", "job": "t3.micro"}),
            "instance_types is a name such as t3.micro",
        ),
        (
            "packages",
            packages("conf_local", json!({"url": "s3://packages/a.deb", "sha256": ""})),
            "sha256 of each package",
        ),
    ];
    let other: Wrong<'_> = &[
        ("job_hosts", json!(1.5), "job_hosts is a whole number"),
        ("vpc_cidr", json!("10.0.0.0/8"), "from /16 to /26"),
        ("push_from", json!(["0.0.0.0/0"]), "'/0' is the whole Internet"),
        ("kms_key_arn", json!("alias/mine"), "kms_key_arn is the ARN of a key"),
        ("region", json!("Frankfurt"), "The region is a name"),
        ("name", json!("aws-conf"), "which AWS keeps for itself"),
        ("datacenter", json!("main/v1/x"), "The datacenter is ID/VERSION"),
        ("subnet_ids", json!(["subnet-01234567", "subnet-01234567"]), "stands there once"),
        ("domain", json!("conf.internal'; rm -rf /"), "The domain is a DNS name"),
        (
            "instance_types",
            json!({"master": "t2.small", "slave": "t3.micro", "consul": "t3.micro", "job": "t3.micro"}),
            "before the Nitro generation",
        ),
        (
            "packages",
            packages("conf_master", json!({"url": "http://example.org/a.deb", "sha256": "0".repeat(64)})),
            "begins with https:// or with s3://",
        ),
    ];
    let third: Wrong<'_> = &[
        ("job_hosts", json!(51), "job_hosts is a whole number"),
        ("vpc_cidr", json!("fd00::/64"), "vpc_cidr is an IPv4 network"),
        ("push_from", json!(["fd00::/8"]), "push_from is IPv4"),
        (
            "packages",
            packages("consul", json!({"url": "https://example.org/consul.deb", "sha256": "0".repeat(64)})),
            "consul is a .zip file",
        ),
        (
            "ssm_agent",
            json!({"url": "https://example.org/a b.deb", "sha256": "0".repeat(64)}),
            "ssm_agent has the url of a .deb file",
        ),
    ];
    for wrong in [none, other, third] {
        let mut given = variables();
        for (name, value, _) in wrong {
            given[name] = value.clone();
        }
        let said = render(&given).unwrap_err();
        for (name, value, message) in wrong {
            assert!(said.contains(message), "{name} = {value} is not refused with “{message}”:\n{said}");
        }
        let refused = said.matches("Invalid value for variable").count();
        assert_eq!(refused, wrong.len(), "each once: {said}");
    }
}

#[test]
#[ignore = "packaging: renders it many times"]
fn what_makes_sense_is_taken() {
    let mut given = variables();
    let good = [
        ("job_hosts", json!(50)),
        ("vpc_cidr", json!("172.20.0.0/16")),
        ("push_from", json!(["10.8.0.0/16", "192.0.2.7/32"])),
        ("push_names", json!(["conf.example.org", "conf"])),
        (
            "kms_key_arn",
            json!("arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"),
        ),
        ("region", json!("us-gov-west-1")),
        ("name", json!("my-conf")),
        ("datacenter", json!("us_west.a/v1.2")),
        ("subnet_ids", json!(["subnet-0123456789abcdef0", "subnet-01234567"])),
        ("domain", json!("conf.example.org")),
        ("architecture", json!("arm64")),
        ("ami_id", json!("ami-0123456789abcdef0")),
        ("master_volume_gib", json!(16384)),
        ("slave_volume_gib", json!(1)),
        ("master_snapshot_id", json!("snap-0123456789abcdef0")),
        ("snapshot_hours", json!(24)),
        ("snapshots_kept", json!(1000)),
        (
            "ssm_agent",
            json!({"url": "https://s3.eu-central-1.amazonaws.com/amazon-ssm-eu-central-1/3.3.1611.0/debian_amd64/amazon-ssm-agent.deb", "sha256": "a".repeat(64)}),
        ),
        (
            "instance_types",
            json!({"master": "m7g.large", "slave": "t4g.small", "consul": "c6gn.medium", "job": "u-6tb1.metal"}),
        ),
    ];
    for (name, value) in good {
        given[name] = value;
    }
    let rendered = render(&given).unwrap_or_else(|said| panic!("{said}"));
    assert_eq!(rendered.user_data.len(), 53);
    // People of a network of their own are told the name that they reach conf-master by, and others
    // the end of a session.
    assert!(rendered.push.contains("git clone") && rendered.push.contains(" https://conf.example.org:7400/conf.git "));
    let rendered = render(&variables()).unwrap_or_else(|said| panic!("{said}"));
    assert!(rendered.push.contains(" https://localhost:7400/conf.git "));
}

fn packages(name: &str, package: Value) -> Value {
    let mut packages = variables()["packages"].clone();
    packages[name] = package;
    packages
}
