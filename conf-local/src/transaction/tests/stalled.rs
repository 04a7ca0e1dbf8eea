//! A disk that takes nothing for a while, and answers nothing.

use std::{sync::mpsc, thread};

use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;

use crate::{
    notify::{Outbox, Registry, WatchRequest},
    process::Running,
    transaction::tests::{
        power::{Disk, run},
        *,
    },
};

/// A file system that is frozen, until this is dropped.
struct Frozen(PathBuf);

/// FIFREEZE and FITHAW.
const IOCTL: &str = "import fcntl, os, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), int(sys.argv[2], 16), 0)";

impl Frozen {
    fn new(root: PathBuf) -> Self {
        run("python3", &["-c".as_ref(), IOCTL.as_ref(), &root, "0xc0045877".as_ref()]);
        Frozen(root)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        run("python3", &["-c".as_ref(), IOCTL.as_ref(), &self.0, "0xc0045878".as_ref()]);
    }
}

fn request(process: &Running) -> WatchRequest {
    let (components, pid) = (["services/web".parse().unwrap()].into(), process.pid());
    WatchRequest { components, pid, start: None, signal: Signal::SIGHUP, delay: Duration::ZERO }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_disk_that_stalls_keeps_no_process_waiting_for_its_signal() {
    let disk = Disk::new();
    disk.mount();
    let state = disk.root().join("state");
    fs::create_dir(&state).unwrap();
    let script = ["bash", "-c", "trap : HUP; echo ready; while :; do sleep 1; done"];
    let (process, late) = (Running::new(&script), Running::new(&script));
    let me = rustix::process::geteuid().as_raw();
    let (to_freeze, freeze) = mpsc::channel();
    let (frozen, is_frozen) = tokio::sync::oneshot::channel();
    let (to_thaw, thaw) = mpsc::channel();
    let folder = state.clone();
    // The one thread of the agent.
    let agent = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut status = Status::new("dc/v1".parse().unwrap(), "web-1".parse().unwrap(), &folder);
            status.sequence = Sequence(4);
            let (agent, _requests) = Agent::new(View::new(status), Vec::new());
            let outbox = Arc::new(Outbox::open(&folder, Sequence(4)));
            let registry = Registry::open(&folder, &[], outbox.clone(), agent, false);
            let id = registry.register(request(&process), me).await.unwrap().id;
            let stop = CancellationToken::new();
            let running = tokio::spawn(registry.clone().run(stop.clone()));
            to_freeze.send(()).unwrap();
            is_frozen.await.unwrap();

            let web: BTreeSet<_> = ["services/web/latest".parse().unwrap()].into();
            let at = Pointer { sequence: Sequence(5), commit: CommitId::ZERO };
            outbox.switched(at, Sequence(4), [(id, web)].into());
            registry.tell();
            until("the process is told", || outbox.pending().is_empty()).await;
            let registering = tokio::spawn({
                let registry = registry.clone();
                let request = request(&late);
                async move { registry.register(request, me).await }
            });
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!registering.is_finished(), "what is registered is on the disk");
            assert_eq!(registry.status().len(), 1);
            to_thaw.send(()).unwrap();

            registering.await.unwrap().unwrap();
            assert_eq!(registry.status().len(), 2);
            stop.cancel();
            running.await.unwrap();
            assert!(Outbox::open(&folder, Sequence(5)).pending().is_empty(), "it is written down now");
            let text = fs::read_to_string(folder.join("watchers.json")).unwrap();
            assert_eq!(text.matches("SIGHUP").count(), 2, "{text}");
        });
    });
    freeze.recv().unwrap();
    let freezer = Frozen::new(disk.root());
    frozen.send(()).unwrap();
    let answered = thaw.recv_timeout(Duration::from_secs(20));
    drop(freezer);
    agent.join().unwrap();
    answered.expect("the agent goes on while the disk stalls");
    disk.unmount();
}
