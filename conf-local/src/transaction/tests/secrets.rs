//! Secrets that this host has itself: they come late, change, and cannot be read any more.

use crate::transaction::tests::*;

/// A host with a component that reads a secret from a file, and one that does not.
fn site() -> (Site, PathBuf) {
    let mut site = Site::new();
    let token = site.folder().join("token");
    "conf: datacenter-configuration/big/latest\nsecrets: {token: {from: own, readers: [services/a]}}\n"
        .clone_into(&mut site.instance);
    site.configure(&format!("secret-sources: {{own: {{file: {}}}}}\n", token.display()));
    site.set("services/a/latest", &[("config.yaml", "at: 1\nlogin: {$secret: token}\n")])
        .set("services/same/latest", &[("s", "s")]);
    (site, token)
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Looks at the files and renders as the agent does. Returns the components of which somebody is
/// told.
fn look(host: &mut Host, audience: &Audience) -> Vec<String> {
    host.outbox.forget(&WatcherId("everything".to_owned()));
    host.outbox.write().unwrap();
    host.secrets.look_at_files();
    if !host.secrets.stale().is_empty() {
        host.render_secrets(audience).unwrap();
    }
    host.outbox.pending().values().flat_map(|notice| notice.components.iter().map(ToString::to_string)).collect()
}

#[test]
fn a_secret_of_the_host_that_comes_late_or_changes_is_rendered_and_told() {
    let (mut site, token) = site();
    let login = |site: &Site| {
        let settings: serde_json::Value = serde_json::from_str(&site.read("services/a/latest.json")?).unwrap();
        Some(format!("{} {}", settings["at"], settings["login"].as_str().unwrap()))
    };
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    assert_eq!((login(&site), site.read("services/same/latest/s").as_deref()), (None, Some("s")));
    assert_eq!(audience.agent.view().status.faults.len(), 1);
    assert_eq!(look(&mut host, &audience), [""; 0]);

    write(&token, "one");
    assert_eq!(look(&mut host, &audience), ["services/a/latest"]);
    assert_eq!(login(&site).as_deref(), Some("1 one"));
    let status = audience.agent.view().status.clone();
    assert_eq!((status.sequence, status.faults.len()), (first.sequence, 0));
    assert_eq!(look(&mut host, &audience), [""; 0]);
    write(&token, "two");
    assert_eq!(look(&mut host, &audience), ["services/a/latest"]);
    write(&token, "six");
    assert_eq!(look(&mut host, &audience), ["services/a/latest"], "the same components, told again");
    assert_eq!(login(&site).as_deref(), Some("1 six"));

    // One that cannot be read keeps its last good value, also for a change of content.
    fs::remove_file(&token).unwrap();
    assert_eq!(look(&mut host, &audience), [""; 0]);
    site.set("services/a/latest", &[("config.yaml", "at: 2\nlogin: {$secret: token}\n")]);
    let second = site.land();
    take(&mut host, second, &audience).unwrap();
    assert_eq!(login(&site).as_deref(), Some("2 six"));
    assert_eq!(host.secrets.problems().len(), 1);

    // It changes while the agent is down, or cannot be read when the agent starts.
    drop(host);
    let (mut host, audience) = site.open();
    host.settle(&audience).unwrap();
    assert_eq!(look(&mut host, &audience), [""; 0]);
    assert_eq!((login(&site).as_deref(), host.secrets.problems().len()), (Some("2 six"), 1));
    assert!(audience.agent.view().status.faults.is_empty(), "what is in place is whole");
    write(&token, "ten");
    assert_eq!(look(&mut host, &audience), ["services/a/latest"]);
    assert_eq!(login(&site).as_deref(), Some("2 ten"));
    host.tidy(&audience, None);
    site.assert_tidy();
}

#[test]
fn a_command_that_prints_a_secret_does_not_run_to_verify_or_mend_the_export() {
    let (mut site, _) = site();
    let runs = site.folder().join("runs");
    let source = "{from: count, readers: [services/a]}";
    site.configure(&format!(
        "secret-sources: {{count: {{command: [/bin/sh, -c, 'echo $$ >>{0}; wc -l <{0}'], user: root}}}}\n",
        runs.display()
    ));
    site.instance = format!("conf: datacenter-configuration/big/latest\nsecrets:\n  one: {source}\n  two: {source}\n");
    let values = "one: {$secret: one}\ntwo: {$secret: two}\n";
    site.set("services/a/latest", &[("config.yaml", values)]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    let count = || fs::read_to_string(&runs).unwrap().lines().count();
    let settings = || site.read("services/a/latest.json").unwrap();
    let before = settings();
    assert_eq!(count(), 1, "two secrets of one command are one value: {before}");
    assert_eq!(host.verify().problems, [""; 0]);
    host.mend_export(true, &audience).unwrap();
    assert_eq!((count(), settings()), (1, before.clone()));
    // The command has printed another value, which is not exported yet.
    let (command, _) = host.secrets.next_command().unwrap();
    host.secrets.renew(&command, &|| false);
    assert_eq!(host.verify().problems, [""; 0]);
    host.render_secrets(&audience).unwrap();
    assert_eq!(count(), 2);
    assert_ne!(settings(), before);
}

#[test]
fn a_snapshot_chooses_nothing_of_this_host_and_a_source_that_is_not_offered_is_missing() {
    let (mut site, token) = site();
    write(&token, "canary");
    let ran = site.folder().join("ran");
    site.instance = format!(
        "conf: datacenter-configuration/big/latest\nsecrets:\n  f: {{file: {0}, readers: [services/a]}}\n  \
         c: {{command: [/bin/touch, {1}], readers: [services/b]}}\n  n: {{from: none, readers: [services/c]}}\n  \
         both: {{from: own, command: [/bin/touch, {1}], readers: [services/d]}}\n",
        token.display(),
        ran.display()
    );
    for (component, secret) in [("a", "f"), ("b", "c"), ("c", "n"), ("d", "both")] {
        let values = format!("x: {{$secret: {secret}}}\n");
        site.set(&format!("services/{component}/latest"), &[("config.yaml", &values)]);
    }
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    let faults = audience.agent.view().status.faults.clone();
    let words = ["its `file` counts no more", "its `command` counts no more", "this host offers no secret source none"];
    for (fault, words) in faults.values().zip(words.into_iter().chain(["its `command` counts no more"])) {
        assert!(fault.contains(words), "{fault}");
    }
    assert_eq!((faults.len(), ran.exists(), site.read("services/same/latest/s").as_deref()), (4, false, Some("s")));
    assert_eq!(host.secrets.next_command(), None);
}
