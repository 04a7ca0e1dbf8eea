//! What a report says of failures.

use conf_core::api::{HostState, MOST_FAILURES, Pointer};
use libconf::name::{CommitId, Sequence};

use crate::state::{
    Status,
    status::{Changes, ProbeStatus, Untold},
};

fn status() -> Status {
    let mut status = Status::new("dc/v1".parse().unwrap(), "web-1".parse().unwrap(), std::path::Path::new("/export"));
    status.sequence = Sequence(7);
    status.pointer = Some(Pointer { sequence: Sequence(7), commit: CommitId::ZERO });
    status
}

fn about(status: &Status) -> String {
    let shown = |failure: &conf_core::api::HostFailure| {
        let through = failure.through.map_or_else(String::new, |through| through.to_string());
        format!("({}, {through}] {}", failure.after, failure.error)
    };
    status.failures().iter().map(shown).collect::<Vec<_>>().join("; ")
}

fn probe(after: u64, through: u64, passed: bool) -> ProbeStatus {
    ProbeStatus {
        component: "services/web".parse().unwrap(),
        target: "test".to_owned(),
        passed,
        sequence: Sequence(9),
        when: String::new(),
        error: Some("ill".to_owned()),
        about: Changes { after: Sequence(after), through: Sequence(through) },
    }
}

#[test]
fn each_failure_says_what_it_is_about() {
    let mut status = status();
    status.settle();
    assert_eq!(about(&status), "");
    status.probes = vec![probe(3, 5, false), probe(1, 2, true)];
    let web = "services/web/latest".parse().unwrap();
    status.faults.insert(web, "in the way".to_owned());
    status.settle();
    let both = "(0, ] services/web/latest is held back: in the way; (3, 5] services/web is not well: ill";
    assert_eq!(about(&status), both, "an earlier agent wrote since when");
    status.held.insert("services/web/latest".parse().unwrap(), Sequence(6));
    let untold = Untold { about: Changes { after: Sequence(5), through: Sequence(6) }, error: Some("no".to_owned()) };
    status.untold.insert("reload".to_owned(), untold);
    status.faults.insert("services/api/latest".parse().unwrap(), "bad".to_owned());
    status.held.insert("services/api/latest".parse().unwrap(), Sequence(6));
    status.settle();
    assert_eq!(
        about(&status),
        "(3, 5] services/web is not well: ill; (5, 6] reload could not be told: no; \
         (6, ] services/api/latest is held back: bad; and 1 more"
    );
}

#[test]
fn a_watcher_that_is_not_told_yet_is_named_and_is_no_failure() {
    let mut status = status();
    let about_it = Changes { after: Sequence(6), through: Sequence(7) };
    status.untold.insert("reload".to_owned(), Untold { about: about_it, error: None });
    status.settle();
    assert_eq!(about(&status), "(6, 7] reload is not told yet");
    assert_eq!((status.state, status.could_not_be_told()), (HostState::Current, None));
    // Of several about the same change, one that failed gives the words.
    status.untold.insert("restart".to_owned(), Untold { about: about_it, error: Some("no".to_owned()) });
    assert_eq!(about(&status), "(6, 7] restart could not be told: no; and 1 more");
    assert_eq!(status.could_not_be_told().as_deref(), Some("restart could not be told: no"));
}

#[test]
fn a_snapshot_that_could_not_be_taken_is_about_what_follows_the_exported_one() {
    let mut status = status();
    status.pointer = Some(Pointer { sequence: Sequence(8), commit: CommitId::ZERO });
    (status.state, status.error) = (HostState::Failed, Some("not signed".to_owned()));
    assert_eq!(about(&status), "(7, ] not signed");
    status.pointer = None;
    assert_eq!(about(&status), "(0, ] not signed", "what it is about is not known");
}

#[test]
fn too_many_failures_are_joined_and_none_is_lost() {
    let mut status = status();
    let count = u64::try_from(MOST_FAILURES).unwrap() + 1;
    status.probes = (1..=count).map(|one| probe(one, one + 1, false)).collect();
    assert_eq!(about(&status), format!("(1, {}] services/web is not well: ill; and {} more", count + 1, count - 1));
    status.faults.insert("services/web/latest".parse().unwrap(), "bad".repeat(1000));
    status.held.insert("services/web/latest".parse().unwrap(), Sequence(5));
    let failures = status.failures();
    assert_eq!((failures.len(), failures[0].after, failures[0].through), (1, Sequence(1), None));
}
