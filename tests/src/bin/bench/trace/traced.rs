//! Changes with strace at every daemon.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::process::Signal;
use tests::{
    Reader, Site, eventually,
    figures::{Spread, Work},
    program::{command, descendants, signal_pid, spawn},
};

use crate::{
    fleet::{self, CHANGED, settings},
    options::Size,
    pusher::{Pusher, end},
    trace::calls::Calls,
};

/// What waits for the disk.
const SYNCS: [&str; 4] = ["fsync", "fdatasync", "syncfs", "sync_file_range"];
/// How many names of calls are shown.
const FREQUENT: usize = 8;

/// Counts the work of each tier. Leaves what strace wrote in `raw`.
pub(super) fn measure(
    size: Size,
    site: &Site,
    pusher: &Pusher,
    reader: &Reader,
    strace: &Path,
    raw: &Path,
) -> std::io::Result<Vec<Work>> {
    let tiers = [
        ("conf-master", site.master.daemon.pid()),
        ("conf-slave", site.slave().daemon.pid()),
        ("conf-local", site.host().daemon.pid()),
    ];
    let mut counted: [Vec<Calls>; 3] = Default::default();
    for round in 0..size.rounds().min(5) {
        pusher.commit("config.yaml", &settings(CHANGED, 30_000 + round));
        let pids = tiers.map(|(_, pid)| pid);
        fleet::settle(size, &pids);
        let traces: Vec<(Child, PathBuf)> = tiers
            .iter()
            .map(|(name, pid)| {
                let file = raw.join(format!("{name}-{round}.strace"));
                (attach(strace, *pid, &file), file)
            })
            .collect();
        reader.all_told();
        let began = now();
        let (start, push) = pusher.start();
        let told = reader.told();
        end(push);
        let signal = began + told.when.saturating_duration_since(start).as_secs_f64();
        // What a tier does afterwards for the change: its history, reports, branches and tags.
        thread::sleep(size.pause());
        fleet::settle(size, &pids);
        for ((mut strace, file), counted) in traces.into_iter().zip(&mut counted) {
            signal_pid(strace.id(), Signal::INT);
            strace.wait()?;
            counted.push(Calls::read(&fs::read_to_string(file)?, began, signal));
        }
    }
    Ok(tiers.iter().zip(&counted).map(|((name, _), counted)| work(name, counted)).collect())
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Attaches strace to a daemon, and waits until it holds every thread.
fn attach(strace: &Path, pid: u32, file: &Path) -> Child {
    let mut command = command(strace, Path::new("/"));
    command.args(["-f", "-ttt", "-yy", "-s", "0", "-o"]).arg(file).args(["-p", &pid.to_string()]);
    for (child, _) in descendants(pid) {
        command.args(["-p", &child.to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = spawn(command).expect("strace can be started");
    let began = Instant::now();
    eventually("strace to hold every thread", || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| error.to_string())?;
        let free = tasks.flatten().filter(|task| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            status.lines().any(|line| line == "TracerPid:\t0")
        });
        match free.count() {
            0 => Ok(()),
            some => Err(format!("{some} threads are free after {:?}", began.elapsed())),
        }
    });
    // What was stopped by that has gone on.
    thread::sleep(Duration::from_millis(200));
    child
}

fn work(tier: &str, counted: &[Calls]) -> Work {
    let spread = |value: &dyn Fn(&Calls) -> u64| {
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
        let values = counted.iter().map(|calls| value(calls) as f64).collect();
        Spread::of(values)
    };
    let part = |names: &'static [&'static str], later: usize| spread(&move |calls: &Calls| calls.of(names)[later]);
    let mut names: Vec<&String> = counted.iter().flat_map(|calls| calls.by_name.keys()).collect();
    names.sort();
    names.dedup();
    let mut frequent: Vec<(String, f64)> = names
        .into_iter()
        .map(|name| {
            let of_one = spread(&|calls: &Calls| calls.of(&[name.as_str()]).iter().sum());
            (name.clone(), of_one.median)
        })
        .collect();
    frequent.sort_by(|one, other| other.1.total_cmp(&one.1));
    frequent.truncate(FREQUENT);
    Work {
        tier: tier.to_owned(),
        calls: part(&[], 0),
        calls_later: part(&[], 1),
        fsyncs: part(&SYNCS, 0),
        fsyncs_later: part(&SYNCS, 1),
        processes: spread(&|calls: &Calls| calls.programs[0]),
        processes_later: spread(&|calls: &Calls| calls.programs[1]),
        written: spread(&|calls: &Calls| calls.written),
        sent: spread(&|calls: &Calls| calls.sent),
        received: spread(&|calls: &Calls| calls.received),
        frequent,
    }
}
