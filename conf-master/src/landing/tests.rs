//! Landings of which one fails, or waits for another.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use conf_core::access::Principal;
use conf_core::audit::AuditLog;
use conf_core::daemon::Metrics;
use conf_core::git;
use conf_core::git_http::{UploadLimits, UploadPack};
use conf_core::http::{Health, Who};
use git2::Repository;
use libconf::name::{HostName, ObjectId, RefName};
use parking_lot::Mutex;

use crate::fault::RefusalKind;
use crate::judge::{ChangeLimits, Judge, ProposalOptions, RefUpdate, ReportingHosts, Rights};
use crate::landing::{
    self, Draft, Expected, LANDING, Lander, Leader, Office, Outcome, Push, Pusher, Role, SectionChange, SyncRule, Told,
    Update,
};
use crate::secrets::SecretStore;
use crate::store;

/// A landing thread, and what it says of its health.
pub(crate) struct Room {
    pub(crate) lander: Lander,
    health: Health,
    thread: JoinHandle<()>,
}

impl Room {
    fn open(path: &Path) -> Self {
        Self::with(path, ReportingHosts::default())
    }

    fn with(path: &Path, reporting: ReportingHosts) -> Self {
        Self::under(path, reporting, Rights::open())
    }

    pub(crate) fn under(path: &Path, reporting: ReportingHosts, rights: Rights) -> Self {
        Self::standing(path, reporting, Role { rights, ..Role::default() })
    }

    fn standing(path: &Path, reporting: ReportingHosts, role: Role) -> Self {
        let metrics = Metrics::new("test", "0");
        let health = Health::new(metrics.clone());
        let secrets = SecretStore::open(path, &[]).unwrap();
        let judge = Arc::new(Judge::new(ChangeLimits::default(), secrets, reporting));
        let upload = UploadPack::new(path.to_owned(), UploadLimits::default());
        let told = Told::new(&metrics, AuditLog::default());
        let (lander, thread) =
            landing::start(path, &judge, &store::Landed::new(path), upload, told, health.clone(), role).unwrap();
        health.set_ready();
        Room { lander, health, thread }
    }

    pub(crate) async fn close(self) {
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
        let pusher = Pusher { principal: Principal::Anybody, through: "test".to_owned(), who: Who::User(1) };
        self.lander.land(Push::sections(update, &pusher, ProposalOptions::default())).await
    }
}

pub(crate) fn kind(outcome: &Outcome) -> Option<RefusalKind> {
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

/// A lock that is held, and whose list nobody can change.
#[derive(Debug)]
struct Silent;

impl Office for Silent {
    fn is_held(&self) -> bool {
        true
    }

    fn keep_only(&self, _: BTreeSet<HostName>) -> bool {
        false
    }
}

#[tokio::test]
async fn what_is_held_is_told_to_nobody_until_this_server_leads_for_sure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("central.git");
    store::init(&path).unwrap();
    let sync = SyncRule { standbys: 1, strict: false };
    let role = Role { rights: Rights::open(), sync, ..Role::default() };
    let room = Room::standing(&path, ReportingHosts::default(), role);
    let (lander, name) = (&room.lander, "b".parse().unwrap());
    lander.standbys.elected_by(Arc::new(Silent));
    let (ledger, sequence) = *lander.newest.borrow();
    lander.standbys.hear(&name, ledger, sequence).unwrap();
    let told = || (lander.published.borrow().sequence, lander.published.borrow().leader.clone());
    // The standby takes it not, and cannot be taken off the list.
    let outcome = room.update("services/web", r#"{"a": 1}"#, None).await;
    assert_eq!((kind(&outcome), outcome.sequence), (Some(RefusalKind::Busy), None), "{outcome:?}");
    assert!(outcome.update.is_none(), "it has no answer made before");
    assert_eq!(lander.durable().sequence, sequence.next());
    assert_eq!(told(), (sequence, None));
    assert!(room.health.reason().is_some_and(|reason| reason.contains("nobody is told")));
    // Another one may lead: this server says so, and no more.
    lander.stand(Some(Leader::Unknown)).await;
    assert_eq!(told(), (sequence, Some(Leader::Unknown)));
    // It leads again, and nobody did meanwhile.
    lander.stand(None).await;
    assert_eq!(told(), (sequence, None));
    lander.recover().await;
    assert_eq!((told(), room.health.reason()), ((sequence.next(), None), None));
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

/// A push of one branch, whose next commit holds this file alone.
fn push(path: &Path, branch: &str, file: &str, text: &str) -> Push {
    let repo = Repository::open_bare(path).unwrap();
    let name = format!("refs/heads/{branch}");
    let parent = repo.find_reference(&name).ok().map(|reference| reference.peel_to_commit().unwrap());
    let mut tree = repo.treebuilder(None).unwrap();
    tree.insert(file, repo.blob(text.as_bytes()).unwrap(), 0o100_644).unwrap();
    let tree = repo.find_tree(tree.write().unwrap()).unwrap();
    let who = git2::Signature::now("a", "a@b").unwrap();
    let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
    let commit = repo.commit(None, &who, &who, text, &tree, &parents).unwrap();
    let old = parent.as_ref().map_or(ObjectId::ZERO, |parent| parent.id().into());
    let update = RefUpdate { name, old, new: commit.into() };
    let pusher = Pusher { principal: Principal::Anybody, through: "test".to_owned(), who: Who::User(1) };
    Push::commits(vec![update], false, &pusher, ProposalOptions::default())
}

#[tokio::test]
async fn others_land_while_a_push_is_judged_which_is_not_judged_twice_without_need() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("central.git");
    store::init(&path).unwrap();
    // All objects are as if they had come with the push.
    let new = Some(path.join("objects"));
    // Each judgement of another list of hosts asks which ones report.
    let (reporting, mut judging, go_on) = held_judgements();
    let room = Room::with(&path, reporting);
    assert_eq!(kind(&room.update("services/web", r#"{"a": 1}"#, None).await), None);
    let datacenter = |host: &str| {
        let text = format!("conf: datacenter-configuration/a/latest\ninventories: {{hosts: {{{host}: {{}}}}}}\n");
        push(&path, "datacenters/lab/v1", "datacenter.yaml", &text)
    };
    let class = "services: [{name: web, branch: master}]\n";
    let class = push(&path, "datacenter-configuration/a", "datacenter.yaml", class);
    for first in [class, datacenter("one")] {
        assert!(room.lander.land(first).await.sequence.is_some());
    }
    let change = datacenter("two");
    let checking = tokio::spawn({
        let (lander, change, new) = (room.lander.clone(), change.clone(), new.clone());
        async move { lander.check(change, new).await }
    });
    judging.recv().await.unwrap();
    let update = room.update("services/web", r#"{"a": 2}"#, Some(0));
    let update = tokio::time::timeout(Duration::from_secs(60), update).await.expect("it lands meanwhile");
    assert_eq!(kind(&update), None);
    drop(go_on);
    assert_eq!(checking.await.unwrap().refusals, [None]);
    // What it was judged against is not the newest any more.
    assert!(room.lander.land(change).await.sequence.is_some());
    assert!(judging.try_recv().is_ok(), "it is judged again");
    let change = datacenter("three");
    assert_eq!(room.lander.check(change.clone(), new.clone()).await.refusals, [None]);
    judging.recv().await.unwrap();
    let landed = room.lander.land(change).await;
    assert!(landed.sequence.is_some() && landed.refusals == [None], "{landed:?}");
    assert!(judging.try_recv().is_err(), "nothing has landed since it was judged");
    room.close().await;
}

/// The list of hosts that report, of which each question is told, and held until the other end is
/// dropped.
fn held_judgements() -> (ReportingHosts, tokio::sync::mpsc::UnboundedReceiver<()>, std::sync::mpsc::Sender<()>) {
    let (asked, judging) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let reporting = ReportingHosts::new(move |_| {
        asked.send(()).unwrap();
        let _ = held.lock().recv();
        Vec::new()
    });
    (reporting, judging, go_on)
}

/// Lands a component, a class of it, and a datacenter of the class; returns a push that lists
/// another host there.
async fn with_datacenter(room: &Room, path: &Path) -> Push {
    assert_eq!(kind(&room.update("services/web", r#"{"a": 1}"#, None).await), None);
    let datacenter = |host: &str| {
        let text = format!("conf: datacenter-configuration/a/latest\ninventories: {{hosts: {{{host}: {{}}}}}}\n");
        push(path, "datacenters/lab/v1", "datacenter.yaml", &text)
    };
    let class = "services: [{name: web, branch: master}]\n";
    assert!(
        room.lander.land(push(path, "datacenter-configuration/a", "datacenter.yaml", class)).await.sequence.is_some()
    );
    assert!(room.lander.land(datacenter("one")).await.sequence.is_some());
    datacenter("two")
}

#[tokio::test]
async fn a_judgement_keeps_its_place_when_its_client_goes_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("central.git");
    store::init(&path).unwrap();
    let (reporting, mut judging, go_on) = held_judgements();
    let room = Room::with(&path, reporting);
    let change = with_datacenter(&room, &path).await;
    let judging_now = |room: &Room| room.lander.checker.judging_now();
    assert_eq!(judging_now(&room), 0);
    let checking = tokio::spawn({
        let (lander, new) = (room.lander.clone(), path.join("objects"));
        // All objects are as if they had come with the push.
        async move { lander.check(change, Some(new)).await }
    });
    judging.recv().await.unwrap();
    checking.abort();
    assert!(checking.await.unwrap_err().is_cancelled());
    assert_eq!(judging_now(&room), 1, "it goes on");
    drop(go_on);
    let free = async {
        while judging_now(&room) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), free).await.expect("it ends");
    room.close().await;
}

#[tokio::test]
async fn a_push_that_is_refused_in_part_is_not_judged_again_to_land() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("central.git");
    store::init(&path).unwrap();
    // All objects are as if they had come with the push.
    let new = Some(path.join("objects"));
    let (reporting, mut judging, go_on) = held_judgements();
    drop(go_on);
    let room = Room::with(&path, reporting);
    let mut change = with_datacenter(&room, &path).await;
    change.updates.extend(push(&path, "services/bad", "config.json", "{").updates);
    let checked = room.lander.check(change.clone(), new.clone()).await;
    assert!(matches!(&*checked.refusals, [None, Some(_)]), "{checked:?}");
    judging.recv().await.unwrap();
    while judging.try_recv().is_ok() {}
    let landed = room.lander.land(change).await;
    assert!(landed.sequence.is_some() && landed.refusals == checked.refusals, "{landed:?}");
    assert!(judging.try_recv().is_err(), "nothing has landed since it was judged");
    room.close().await;
}

#[tokio::test]
async fn a_change_is_not_landed_whose_losses_cannot_be_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("central.git");
    store::init(&path).unwrap();
    // All objects are as if they had come with the push.
    let new = Some(path.join("objects"));
    let room = Room::open(&path);
    with_datacenter(&room, &path).await;
    // Settings of a datacenter win over those of the component.
    let overrides = |text: &str| {
        let mut change = push(&path, "datacenters/lab/v1", "unused", text);
        let repo = Repository::open_bare(&path).unwrap();
        let before = repo.find_reference("refs/heads/datacenters/lab/v1").unwrap().peel_to_commit().unwrap();
        let mut tree = repo.treebuilder(Some(&before.tree().unwrap())).unwrap();
        let mut services = repo.treebuilder(None).unwrap();
        services.insert("web.yaml", repo.blob(text.as_bytes()).unwrap(), 0o100_644).unwrap();
        let mut folder = repo.treebuilder(None).unwrap();
        folder.insert("services", services.write().unwrap(), 0o040_000).unwrap();
        tree.insert("overrides", folder.write().unwrap(), 0o040_000).unwrap();
        let tree = repo.find_tree(tree.write().unwrap()).unwrap();
        let who = git2::Signature::now("a", "a@b").unwrap();
        let commit = repo.commit(None, &who, &who, text, &tree, &[&before]).unwrap();
        change.updates[0].new = commit.into();
        change
    };
    let many = "b: 1\nc: 1\nd: 1\ne: 1\nf: 1\n";
    let landed = room.lander.land(overrides(many)).await;
    assert!(landed.sequence.is_some(), "{landed:?}");
    let few = overrides("b: 1\n");
    assert!(room.lander.check(few.clone(), new.clone()).await.refusals[0].is_some(), "it removes too much");
    room.close().await;
    let lost = git2::Oid::hash_object(git2::ObjectType::Blob, many.as_bytes()).unwrap().to_string();
    fs::remove_file(path.join("objects").join(&lost[..2]).join(&lost[2..])).unwrap();
    let room = Room::open(&path);
    let outcome = room.lander.land(few).await;
    assert!(outcome.sequence.is_none(), "{outcome:?}");
    room.close().await;
}
