//! The audit log: who asked for what from where, and what became of it.

use std::{fs, path::Path};

use serde_json::Value;
use tests::{Plan, eventually, program::text, site::token_in};

const WRONG: &str = "conf_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The lines of an audit log.
fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("the log is there");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// Waits for a line, and returns it.
#[track_caller]
fn line(file: &Path, what: &str, is_such: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let lines = lines(file);
        lines.iter().find(|line| is_such(line)).cloned().ok_or_else(|| format!("{lines:?}"))
    })
}

#[test]
fn every_verdict_is_a_line_and_a_flood_is_a_few() {
    let site = Plan { hosts: 0, tokens: true, ..Plan::default() }.start();
    let file = site.master.repo.join("audit.jsonl");
    let policy = "rights: [{group: administrators, may: [administer]}]\n";
    site.work.change().file("policy", "policy.yaml", policy).land();
    let policy = site.master.git(&["rev-parse", "refs/heads/policy"]).trim().to_owned();
    let (bob, admin) = (site.master.token("bob", &[]), site.master.http());
    let own = admin.get_json("/api/v1/principal").expect("it is good")["token"].clone();
    let sequence = site.push("services/web", "round", "1\n");
    let landed = line(&file, "the change to be noted", |line| line["sequence"] == sequence);
    assert_eq!((&landed["verdict"], &landed["by"], &landed["token"]), (&"landed".into(), &"admin".into(), &own));
    assert!(landed["from"].as_str().is_some_and(|from| from.starts_with("http 127.")), "{landed}");
    assert_eq!((&landed["refs"][0], &landed["policy"]), (&"refs/heads/services/web/master".into(), &policy.into()));
    site.work.change().file("services/web/master", "config.yaml", "a: [\n").push().refused(&["config.yaml"]);
    let refused = line(&file, "the refusal to be noted", |line| line["verdict"] == "refused");
    assert!(refused["reason"].as_str().is_some_and(|reason| reason.contains("config.yaml")), "{refused}");
    let answer = site.master.unproven().with(&token_in(&bob)).get("/api/v1/tokens?x=secret").expect("an answer");
    assert_eq!(answer.status, 403);
    let denied = line(&file, "who may not to be noted", |line| line["verdict"] == "denied");
    assert_eq!((&denied["by"], &denied["request"]), (&"bob".into(), &"GET /api/v1/tokens".into()), "{denied}");
    // A stranger tries many tokens on many paths, at both servers.
    for (file, address) in
        [(&file, site.master.unproven()), (&site.slave().state.join("audit.jsonl"), site.slave().unproven())]
    {
        let address = address.with(WRONG);
        for number in 0..70 {
            let answer = address.get(&format!("/api/v1/{number}")).expect("an answer");
            assert!(matches!(answer.status.as_u16(), 401 | 429), "{}", answer.text());
        }
        let last = line(file, "the flood to be counted", |line| line["again"] == 64);
        assert_eq!((&last["verdict"], &last["reason"]), (&"unproven".into(), &"the token is not known here".into()));
        let of_strangers = lines(file).iter().filter(|line| line["verdict"] == "unproven").count();
        assert_eq!(of_strangers, 1 + 7, "the first, and each time that their number has doubled");
    }
    let of_slave = lines(&site.slave().state.join("audit.jsonl"));
    let last = of_slave.last().expect("a line");
    assert!(last["policy"].as_str().is_some_and(|list| list.starts_with('#')), "{of_slave:?}");
}

#[test]
fn the_log_goes_where_somebody_wants_it_and_holds_its_last_line_at_the_stop() {
    let mut site = Plan { slaves: 0, hosts: 0, tokens: true, ..Plan::default() }.start();
    let file = site.folder.path().join("elsewhere.jsonl");
    site.master.daemon.stop();
    site.master.daemon.argument("--audit-log");
    site.master.daemon.argument(&file);
    site.master.daemon.start();
    let sequence = site.push("services/web", "round", "1\n");
    site.master.daemon.stop();
    let last = lines(&file).pop().expect("a line");
    assert_eq!((&last["verdict"], &last["sequence"]), (&"landed".into(), &sequence.into()));
    // It is named at the start that a place cannot be written.
    let mut wrong = site.master.client(&["serve", "--listen", "127.0.0.1:0", "--audit-log", "/nowhere/x", "--repo"]);
    wrong.arg(&site.master.repo);
    let said = tests::program::run(wrong);
    assert!(!said.status.success() && text(&said).contains("--audit-log"), "{}", text(&said));
}
