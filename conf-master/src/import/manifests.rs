//! The two `datacenter.yaml` of a proposal, as text.

use std::fmt::Write as _;

use libconf::name::{ComponentName, Kind};

use crate::import::proposal::Proposal;

/// Writes the class: its components and secrets.
pub(crate) fn class(proposal: &Proposal<'_>) -> String {
    let mut text = String::new();
    for kind in Kind::ALL {
        let of_kind: Vec<_> = proposal.components.iter().filter(|one| one.name.kind == kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{kind}:");
        for one in of_kind {
            let raw = if one.raw.is_some() { ", raw: true" } else { "" };
            let (name, branch) = (scalar(one.name.name.as_str()), scalar(proposal.branch.as_str()));
            let _ = writeln!(text, "  - {{name: {name}, branch: {branch}, tag: latest{raw}}}");
        }
    }
    if !proposal.secrets.is_empty() {
        text.push_str("secrets:\n");
        for secret in &proposal.secrets {
            let _ = writeln!(text, "  {}: {{readers: [{}]}}", scalar(secret.name.as_str()), list(&secret.readers));
        }
    }
    text
}

/// Writes the datacenter: its class, roles, hosts and platform.
pub(crate) fn instance(proposal: &Proposal<'_>) -> String {
    let mut text = format!("conf: datacenter-configuration/{}/latest\ninventories:\n  roles:\n", proposal.class);
    for (role, components) in &proposal.roles {
        let _ = writeln!(text, "    {}: {{components: [{}]}}", scalar(role.as_str()), list(components));
    }
    if !proposal.hosts.is_empty() {
        text.push_str("  hosts:\n");
        for (host, (roles, key)) in &proposal.hosts {
            let roles: Vec<String> = roles.iter().map(|role| scalar(role.as_str())).collect();
            let _ = write!(text, "    {}: {{roles: [{}]", scalar(host.as_str()), roles.join(", "));
            if let Some(key) = key {
                let _ = write!(text, ", key: {}", quoted(&key.to_string()));
            }
            text.push_str("}\n");
        }
    }
    let applied: Vec<_> = proposal.variables.iter().filter(|variable| variable.applied).collect();
    if !applied.is_empty() {
        text.push_str("platform:\n");
        for variable in applied {
            let _ = writeln!(text, "  {}: {}", scalar(&variable.name), quoted(&variable.value));
        }
    }
    text
}

fn list<'a>(names: impl IntoIterator<Item = &'a ComponentName>) -> String {
    names.into_iter().map(ComponentName::to_string).collect::<Vec<_>>().join(", ")
}

/// Writes a name as YAML: plain where YAML reads it as text, quoted elsewhere.
fn scalar(name: &str) -> String {
    let word = ["true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf"];
    let plain = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !word.contains(&name.to_ascii_lowercase().as_str());
    if plain { name.to_owned() } else { quoted(name) }
}

/// A JSON string is a YAML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
