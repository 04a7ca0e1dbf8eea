//! What is said while changes cannot be written.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use conf_core::daemon::Metrics;
use conf_core::git;
use conf_core::git_http::{UploadLimits, UploadPack};
use conf_core::http::Health;
use git2::Repository;
use libconf::name::RefName;

use crate::fault::RefusalKind;
use crate::judge::{ChangeLimits, Judge, ProposalOptions, ReportingHosts};
use crate::landing::{self, Draft, Expected, LANDING, Lander, Outcome, Push, Pusher, SectionChange, Update};
use crate::secrets::SecretStore;
use crate::store;

/// A landing thread, and what it says of its health.
struct Room {
    lander: Lander,
    health: Health,
    thread: JoinHandle<()>,
}

impl Room {
    fn open(path: &Path) -> Self {
        let metrics = Metrics::new("test", "0");
        let health = Health::new(metrics.clone());
        let judge = Arc::new(Judge::new(ChangeLimits::default(), SecretStore::default(), ReportingHosts::default()));
        let upload = UploadPack::new(path.to_owned(), UploadLimits::default());
        let (lander, thread) = landing::start(path, judge, upload, &metrics, health.clone()).unwrap();
        health.set_ready();
        Room { lander, health, thread }
    }

    async fn close(self) {
        drop(self.lander);
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap();
    }

    /// Updates a component, from any version or from this one.
    async fn update(&self, section: &str, config: &str, version: Option<i64>) -> Outcome {
        let change = SectionChange {
            section: section.parse().unwrap(),
            draft: Ok(Draft::from_text(config.to_owned()).unwrap()),
            schema_version: 1,
            expected: Expected { version, commit: None },
        };
        let update = Update { changes: vec![change], key: None, breaking: None };
        let pusher = Pusher { by: None, through: "test".to_owned() };
        self.lander.land(Push::sections(update, &pusher, ProposalOptions::default())).await
    }
}

fn kind(outcome: &Outcome) -> Option<RefusalKind> {
    outcome.refusals[0].as_ref().map(|refusal| refusal.kind)
}

#[tokio::test]
async fn what_keeps_changes_from_being_written_is_said_until_it_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("central.git");
    store::init(&path).unwrap();
    let room = Room::open(&path);
    assert_eq!(kind(&room.update("services/web", r#"{"a": 1}"#, None).await), None);
    // A program of Git was killed.
    let lock = path.join("refs/conf/ledger.lock");
    fs::write(&lock, "").unwrap();
    assert_eq!(kind(&room.update("services/web", r#"{"a": 2}"#, None).await), Some(RefusalKind::Failed));
    let says = |words: &str| room.health.reason().is_some_and(|reason| reason.contains(words));
    assert!(says("ledger.lock") && says("remove it"), "{:?}", room.health.reason());
    // Nothing was written since.
    room.lander.recover().await;
    assert!(room.health.has(LANDING), "the lock is still there");
    assert_eq!(kind(&room.update("services/web", r#"{"a": 2}"#, Some(7)).await), Some(RefusalKind::Stale));
    assert!(room.health.has(LANDING), "a push that is refused writes nothing");
    fs::remove_file(&lock).unwrap();
    room.lander.recover().await;
    assert_eq!(room.health.reason(), None);
    assert_eq!(kind(&room.update("services/web", r#"{"a": 2}"#, Some(0)).await), None);
    room.close().await;
}

#[tokio::test]
async fn what_fails_for_one_push_keeps_the_server_ready() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("central.git");
    store::init(&path).unwrap();
    let room = Room::open(&path);
    for (section, config) in [("services/web", r#"{"a": 1}"#), ("services/api", r#"{"b": 1}"#)] {
        assert_eq!(kind(&room.update(section, config, None).await), None);
    }
    room.close().await;
    // One component loses its files.
    let repo = Repository::open_bare(&path).unwrap();
    let name: RefName = "refs/heads/services/web/master".parse().unwrap();
    let tip = repo.find_reference(&name.to_string()).unwrap().peel_to_commit().unwrap();
    let tree = tip.tree_id().to_string();
    fs::remove_file(path.join("objects").join(&tree[..2]).join(&tree[2..])).unwrap();
    let room = Room::open(&path);
    let outcome = room.update("services/web", r#"{"b": 2}"#, None).await;
    assert_eq!(kind(&outcome), Some(RefusalKind::Failed), "{outcome:?}");
    assert_eq!(room.health.reason(), None, "all others land");
    assert_eq!(kind(&room.update("services/api", r#"{"b": 2}"#, None).await), None);
    room.close().await;
}

#[tokio::test]
async fn a_ledger_whose_ref_falls_back_loses_no_change_to_a_push_or_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("central.git");
    store::init(&path).unwrap();
    let room = Room::open(&path);
    let update = |room: Room, version: i64| async move {
        let outcome = room.update("services/web", &format!(r#"{{"a": {version}}}"#), Some(version)).await;
        assert_eq!(kind(&outcome), None, "{version}: {outcome:?}");
        room
    };
    let room = update(room, -1).await;
    // An older value is packed, and the loose ref is lost.
    assert!(git::command(&path).args(["pack-refs", "--all"]).status().unwrap().success());
    let room = update(room, 0).await;
    let reference = path.join(RefName::Ledger.to_string());
    fs::remove_file(&reference).unwrap();
    let room = update(room, 1).await;
    let landed = room.lander.durable().ledger;
    fs::remove_file(&reference).unwrap();
    room.close().await;
    let room = Room::open(&path);
    assert_eq!(room.lander.durable().ledger, landed);
    update(room, 2).await.close().await;
}

#[test]
fn what_cannot_be_written_into_is_named_and_a_try_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("central.git");
    store::init(&path).unwrap();
    let repo = store::open(&path).unwrap();
    let objects = path.join("objects");
    let list = |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let (before, refs) = (list(&objects), list(&path.join("refs/conf")));
    store::try_to_write(&repo).unwrap();
    assert_eq!((list(&objects), list(&path.join("refs/conf"))), (before, refs));
    // Root may write everywhere, but not into what is no folder.
    fs::rename(&objects, path.join("elsewhere")).unwrap();
    fs::write(&objects, "").unwrap();
    let words = format!("{:#}", store::try_to_write(&repo).unwrap_err());
    assert!(words.contains("cannot write into") && words.contains("objects"), "{words}");
}
