use std::{collections::BTreeSet, sync::Arc, time::Duration};

use conf_core::api::Pointer;
use libconf::name::{CommitId, Sequence};
use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;

use crate::{
    notify::{Outbox, Registry, Relay, WatchRequest, WatcherId, WatcherState, Watchers as _},
    process::Running,
    state::{Agent, Status, View},
};

/// A registry with one registered process of the agent's own user.
struct Told {
    folder: tempfile::TempDir,
    agent: Agent,
    outbox: Arc<Outbox>,
    registry: Arc<Registry>,
    id: WatcherId,
}

impl Told {
    async fn new(process: &Running) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut status = Status::new("dc/v1".parse().unwrap(), "web-1".parse().unwrap(), folder.path());
        status.sequence = Sequence(4);
        let (agent, _requests) = Agent::new(View::new(status), Vec::new());
        let outbox = Arc::new(Outbox::open(folder.path(), Sequence(4)));
        let registry = Registry::open(folder.path(), &[], outbox.clone(), agent.clone(), false);
        let (components, pid) = (["services/web".parse().unwrap()].into(), process.pid());
        let request = WatchRequest { components, pid, start: None, signal: Signal::SIGHUP, delay: Duration::ZERO };
        let id = registry.register(request, rustix::process::geteuid().as_raw()).await.unwrap().id;
        Told { folder, agent, outbox, registry, id }
    }

    fn switch(&self, sequence: u64) {
        let at = Pointer { sequence: Sequence(sequence), commit: CommitId::ZERO };
        let web: BTreeSet<_> = ["services/web/latest".parse().unwrap()].into();
        self.outbox.switched(at, Sequence(sequence - 1), [(self.id.clone(), web)].into());
        self.agent.update(|view| view.status.sequence = Sequence(sequence));
        self.registry.tell();
    }

    /// The changes that it was not told of, as a wait for delivery sees them, and the reason.
    fn untold(&self) -> Option<(u64, u64, Option<String>)> {
        let untold = self.outbox.untold();
        untold.get(&self.id.0).map(|one| (one.about.after.0, one.about.through.0, one.error.clone()))
    }

    fn relay(&self, told: u64, waits: Option<&str>) {
        let relay = Relay { told: Sequence(told), waits: waits.map(str::to_owned) };
        self.registry.relay(&self.id, relay).unwrap();
    }
}

#[test]
fn commands_that_look_alike_without_their_logins_are_two_watchers() {
    let folder = tempfile::tempdir().unwrap();
    let status = Status::new("dc/v1".parse().unwrap(), "web-1".parse().unwrap(), folder.path());
    let (agent, _requests) = Agent::new(View::new(status), Vec::new());
    let outbox = Arc::new(Outbox::open(folder.path(), Sequence(0)));
    let entry = |component: &str, login: &str| {
        let text = format!("{{components: [{component}], command: [curl, 'http://{login}@127.0.0.1/reload']}}");
        conf_core::settings::from_yaml(&text).unwrap()
    };
    let entries = [("services/a", "jo:canary1"), ("services/b", "jo:canary2"), ("services/c", "jo:canary1")]
        .map(|(one, login)| entry(one, login));
    let registry = Registry::open(folder.path(), &entries, outbox, agent, false);
    let watchers: Vec<_> = registry.status().into_iter().map(|one| (one.id.0, one.components.len())).collect();
    let shown = "command curl http://…@127.0.0.1/reload";
    // Two equal entries are one watcher.
    assert_eq!(watchers, [(shown.to_owned(), 2), (format!("{shown} (2)"), 1)]);
}

#[tokio::test]
async fn a_registered_process_of_root_is_not_told_before_it_is() {
    let process = Running::new(&["bash", "-c", "echo ready; exec sleep 1000"]);
    let told = Told::new(&process).await;
    assert_eq!(told.untold(), None);
    told.switch(5);
    assert_eq!(told.untold(), Some((4, 5, None)), "at once, not when it has failed for a while");
}

#[tokio::test]
async fn what_a_process_has_to_pass_on_is_not_told_before_it_says_so() {
    let process = Running::new(&["bash", "-c", "trap : HUP; echo ready; while :; do sleep 1; done"]);
    let mut told = Told::new(&process).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(told.registry.clone().run(stop.clone()));
    told.relay(4, None);
    told.switch(5);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    // The process itself was signalled once nothing is owed.
    while !told.outbox.pending().is_empty() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(told.registry.status()[0].state, WatcherState::Telling);
    assert_eq!(told.untold(), Some((4, 5, None)));
    told.relay(4, Some("no handler"));
    assert_eq!(told.untold(), Some((4, 5, Some("no handler".to_owned()))));
    assert!(!told.agent.view().status.untold.is_empty(), "the report says it too");
    told.relay(5, None);
    assert_eq!(told.untold(), None);
    assert!(told.agent.view().status.untold.is_empty());
    stop.cancel();
    running.await.unwrap();

    // An agent that was started again learns it from the process.
    told.outbox = Arc::new(Outbox::open(told.folder.path(), Sequence(5)));
    told.registry = Registry::open(told.folder.path(), &[], told.outbox.clone(), told.agent.clone(), false);
    told.relay(4, Some("no handler"));
    assert_eq!(told.untold(), Some((4, 5, Some("no handler".to_owned()))));
    // Characters that turn the order of what follows are not shown.
    told.relay(4, Some("a\u{202e}b\u{2066}c\u{200f}d\ne"));
    assert_eq!(told.untold().unwrap().2.as_deref(), Some("a b c d e"));
}
