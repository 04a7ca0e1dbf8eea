//! The commands, as real processes.

use std::{
    path::Path,
    process::{Command, Output},
};

use conf_local::WatcherState;
use serde_json::{Value, json};

use super::host::{Host, Script, commit};

const WEB: &str = "services/web/latest";

pub fn conf_local(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conf-local"));
    command.args(arguments).env("CONF_LOCAL_SOCKET", socket).env_remove("CONF_EXPORT_DIR");
    command
}

/// Runs a command. Returns its exit code, standard output and standard error.
async fn run(host: &Host, arguments: &[&str]) -> (i32, String, String) {
    let mut command = conf_local(&host.socket(), arguments);
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn get_prints_settings_and_single_values() {
    let host = Host::start(Vec::new()).await;
    let (code, _, said) = run(&host, &["get", "services/web"]).await;
    assert!(code == 1 && said.contains("nothing is exported on this host yet"), "{said}");
    host.switch(1, &[(WEB, r#"{"db":{"host":"a","ports":[1,2]},"a/b":3}"#)]);
    host.switch(2, &[(WEB, r#"{"db":{"host":"b","ports":[1,2]},"a/b":3}"#)]);
    let value = async |arguments: &[&str]| {
        let (code, out, said) = run(&host, &[&["get", "services/web"], arguments].concat()).await;
        assert_eq!(code, 0, "{said}");
        serde_json::from_str::<Value>(&out).unwrap()
    };
    assert_eq!(value(&[]).await, json!({"db": {"host": "b", "ports": [1, 2]}, "a/b": 3}));
    assert_eq!(value(&["db.host"]).await, json!("b"));
    assert_eq!(value(&["--key", "db.ports.1"]).await, json!(2));
    assert_eq!(value(&["/a~1b"]).await, json!(3));
    assert_eq!(value(&["db.host", "--sequence", "1"]).await, json!("a"));
    let (code, _, said) = run(&host, &["get", "services/web", "db.port"]).await;
    assert!(code == 1 && said.contains("known in db are host, ports"), "{said}");
    let (code, _, said) = run(&host, &["get", "services/nope"]).await;
    assert!(code == 1 && said.contains("conf-local status"), "{said}");
    assert_eq!(run(&host, &["get", "nope"]).await.0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_the_error_says_what_to_do() {
    let mut host = Host::start(Vec::new()).await;
    host.end().await;
    for arguments in [
        &["get", "services/web"][..],
        &["status"],
        &["history"],
        &["verify"],
        &["wait", "services/web", "--timeout", "0.1"],
    ] {
        let (code, _, said) = run(&host, arguments).await;
        assert_eq!(code, 1, "{arguments:?}");
        assert!(said.contains("conf-local run") && said.contains("agent.sock"), "{arguments:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_ends_at_or_past_the_goal() {
    let mut host = Host::start(Vec::new()).await;
    let mut waiting = conf_local(&host.socket(), &["wait", "services/web", "--sequence", "2"]).spawn().unwrap();
    host.switch(1, &[(WEB, "1")]);
    // The command waits through a restart of the agent.
    host.end().await;
    host.begin().await;
    host.switch(2, &[(WEB, "2")]);
    assert!(tokio::task::spawn_blocking(move || waiting.wait()).await.unwrap().unwrap().success());
    let at = |sequence| format!("master/{}", commit(sequence));
    assert_eq!(run(&host, &["wait", "services/web"]).await.0, 0);
    assert_eq!(run(&host, &["wait", "services/web", "--at", &at(2), "--timeout", "0"]).await.0, 0);
    let (code, _, said) = run(&host, &["wait", "services/web", "--at", &at(9), "--timeout", "0.1"]).await;
    assert!(code == 1 && said.contains("services/web"), "{said}");
    let (code, _, said) = run(&host, &["wait", "services/web", "--sequence", "3", "--timeout", "0.1"]).await;
    assert!(code == 1 && said.contains("change 2 is exported, 3 is not yet"), "{said}");
    let (code, _, said) = run(&host, &["wait", "services/nope", "--sequence", "1", "--timeout", "0.1"]).await;
    assert!(code == 1 && said.contains("has no services/nope"), "{said}");
    assert_eq!(run(&host, &["wait", "services/web", "--at", "master"]).await.0, 2);
    // A component that could not be rendered has not arrived, whatever the sequence.
    host.agent.update(|view| drop(view.status.faults.insert(WEB.parse().unwrap(), "it is broken".to_owned())));
    let (code, _, said) = run(&host, &["wait", "services/web", "--sequence", "2", "--timeout", "0.1"]).await;
    assert!(code == 1 && said.contains("it is broken"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_knows_the_commits_that_the_host_skipped() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    host.switch(3, &[(WEB, "3")]);
    // The chain: the exported snapshot, one that was never exported here, and the first.
    let repository = git2::Repository::init_bare(host.state.path().join("repo.git")).unwrap();
    let who = git2::Signature::new("a", "a@example.com", &git2::Time::new(0, 0)).unwrap();
    let mut parent: Option<git2::Oid> = None;
    for sequence in 1..=3 {
        let pin = repository.blob(format!("master/{}", commit(100 + sequence)).as_bytes()).unwrap();
        let folder = format!("services/{}/web/@latest", conf_core::snapshot::fan_out("web"));
        let base = repository.find_tree(repository.treebuilder(None).unwrap().write().unwrap()).unwrap();
        let tree = git2::build::TreeUpdateBuilder::new()
            .upsert(folder, pin, git2::FileMode::Blob)
            .create_updated(&repository, &base)
            .unwrap();
        let parents: Vec<_> = parent.iter().map(|parent| repository.find_commit(*parent).unwrap()).collect();
        let tree = repository.find_tree(tree).unwrap();
        let parents: Vec<_> = parents.iter().collect();
        parent = Some(repository.commit(None, &who, &who, "us-west/v1: x", &tree, &parents).unwrap());
    }
    let head: libconf::name::CommitId = parent.unwrap().into();
    host.agent.update(|view| {
        let mut exported = (**view.exported.as_ref().unwrap()).clone();
        exported.commit = head;
        view.exported = Some(std::sync::Arc::new(exported));
    });
    for (commit_of, expected) in [(101, 0), (102, 0), (103, 0), (104, 1)] {
        let at = format!("master/{}", commit(commit_of));
        assert_eq!(run(&host, &["wait", "services/web", "--at", &at, "--timeout", "0.1"]).await.0, expected, "{at}");
    }
    let other = format!("other/{}", commit(102));
    assert_eq!(run(&host, &["wait", "services/web", "--at", &other, "--timeout", "0.1"]).await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_registers_a_running_process() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let mut web = Script::bash("trap 'echo told' USR1; echo ready; while :; do sleep 1 & wait $!; done");
    assert_eq!(web.line(), "ready");
    let pid = web.pid().to_string();
    let (code, out, said) =
        run(&host, &["watch", "services/web", "services/later", "--pid", &pid, "--signal", "usr1"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(out.contains("SIGUSR1") && said.contains("does not run services/later"), "{out}{said}");
    host.switch(2, &[(WEB, "2")]);
    assert_eq!(web.line(), "told");
    web.end();
    let (code, _, said) = run(&host, &["watch", "services/web", "--pid", &pid]).await;
    assert!(code == 1 && said.contains("no process"), "{said}");
    assert_eq!(run(&host, &["watch", "services/web", "--pid", "1"]).await.0, 1);
    assert_eq!(run(&host, &["watch", "services/web", "--pid", &pid, "--signal", "KILL"]).await.0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_history_are_tables_and_json() {
    let host = Host::start(Vec::new()).await;
    let (_, out, _) = run(&host, &["status"]).await;
    assert!(out.contains("nothing yet"), "{out}");
    host.switch(1, &[(WEB, "1")]);
    let web = Script::with_handler();
    assert_eq!(run(&host, &["watch", "services/web", "--pid", &web.pid().to_string()]).await.0, 0);
    host.switch(2, &[(WEB, "2"), ("devices/a/v1", "1")]);
    host.until_state(WatcherState::Told, 2).await;
    let (code, out, _) = run(&host, &["status"]).await;
    assert_eq!(code, 0);
    for part in ["us-west/v1", "web-1", "change 2", "SIGHUP to", "services/web", "told", "no problems"] {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
    let status: Value = serde_json::from_str(&run(&host, &["status", "--json"]).await.1).unwrap();
    assert_eq!((&status["sequence"], &status["watchers"][0]["state"]), (&json!(2), &json!("told")));
    let (_, out, _) = run(&host, &["history"]).await;
    assert!(out.contains("services/web/latest changed") && out.contains("devices/a/v1 added"), "{out}");
    let history: Value = serde_json::from_str(&run(&host, &["history", "--json"]).await.1).unwrap();
    assert_eq!((&history[0]["sequence"], &history[1]["sequence"]), (&json!(2), &json!(1)));
}
