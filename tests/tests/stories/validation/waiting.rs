//! Who waits for whom while a schema is worked out.

use std::{fmt::Write as _, thread};

use hyper::Method;
use serde_json::json;
use tests::{Master, program::descendants, usage::processor_time, wait::eventually};

use super::{WEB, central};

const API: &str = "services/api/master";

/// A schema of a comment's own that takes 2^60 steps.
fn doubling(comment: usize) -> String {
    let mut schema = format!(r##"{{"$comment": "{comment}", "$ref": "#/$defs/s0", "$defs": {{"##);
    for number in 0..60 {
        let next = format!(r##"{{"$ref": "#/$defs/s{}"}}"##, number + 1);
        let _ = write!(schema, r#""s{number}": {{"allOf": [{next}, {next}]}}, "#);
    }
    schema + r#""s60": {"minProperties": 0}}}"#
}

/// The processes that work schemas out and have been busy for a while.
fn busy(master: &Master) -> Vec<u32> {
    let workers = descendants(master.daemon.pid()).into_iter().filter(|(_, words)| words.contains("schema-worker"));
    let is_busy = |pid: &u32| processor_time(&[*pid]).as_millis() > 200;
    workers.map(|(pid, _)| pid).filter(is_busy).collect()
}

#[test]
fn an_update_lands_while_somebody_elses_schema_is_worked_out() {
    let mut site = central();
    let schema = r#"{"properties": {"round": {"type": "integer"}}}"#;
    site.work.change().file(API, "config.yaml", "round: 0\n").file(API, "config.schema.json", schema).land();
    let (master, stranger) = (&site.master, &mut site.work);
    // On a busy machine a question may end before the update has come to its turn.
    let beside = (0..5).any(|round| {
        let stranger = &mut *stranger;
        thread::scope(|scope| {
            let push = scope.spawn(move || stranger.change().file(WEB, "config.schema.json", doubling(round)).push());
            let asked = eventually("a busy process", || busy(master).first().copied().ok_or("none is busy".to_owned()));
            let request = json!({"section": "services/api", "config": {"round": round + 1}, "ifMatch": "*"});
            let body = json!({"request": request}).to_string();
            let answer = master.http().request(Method::POST, "/api/v1/config/update", &[], body);
            let beside = busy(master).contains(&asked);
            let answer = answer.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
            push.join().expect("the push ends").refused(&["took more time or memory than there is"]);
            beside
        })
    });
    assert!(beside, "every update waited until the question of a stranger was over");
}
