//! File descriptors and memory: what daemons hold after many changes, and what they do when no
//! descriptor is left.

use std::{fmt::Write as _, fs, net::TcpStream};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tests::{Plan, eventually, site::Pointers};

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    /// Its own memory.
    kilobytes: u64,
    /// What it has mapped of files, which the kernel takes back when it needs room: the packs of a
    /// repository that grows.
    #[expect(dead_code, reason = "it is shown beside the rest")]
    mapped: u64,
}

impl Held {
    fn of(pid: u32) -> Self {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("its memory");
            line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
        };
        Held { descriptors, kilobytes: of("RssAnon:"), mapped: of("RssFile:") }
    }
}

/// Pushes so many changes one by one, and looks at all daemons after each tenth of them: what they
/// hold in the first half is all that they ever hold. The number of packs that are open goes up and
/// down with the changes since the last upkeep, so of descriptors the least count.
fn nothing_grows_over(pushes: usize) {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start();
    let tip = site.work.id("services/web/master");
    let mut script = String::new();
    for number in 1..=pushes {
        let from = if number == 1 { tip.clone() } else { format!(":{}", number - 1) };
        let content = format!("{number}\n");
        let _ = write!(
            script,
            "commit refs/heads/all\nmark :{number}\ncommitter a <a> {} +0000\ndata 2\nx\nfrom {from}\nM 100644 inline round\ndata {}\n{content}\n",
            1_800_000_000 + number,
            content.len()
        );
    }
    site.work.git_reading(&["fast-import", "--quiet", "--export-marks=marks"], script.as_bytes());
    let marks = fs::read_to_string(site.work.folder().join("marks")).expect("the marks");
    let mut commits = vec![String::new(); pushes];
    for line in marks.lines() {
        let (mark, commit) = line.split_once(' ').expect("a mark and a commit");
        let number: usize = mark.trim_start_matches(':').parse().expect("a number");
        commit.clone_into(&mut commits[number - 1]);
    }
    let daemons = [&site.master.daemon, &site.slaves[0].daemon, &site.hosts[0].daemon];
    let mut held: Vec<[Held; 3]> = Vec::new();
    for (number, commit) in commits.iter().enumerate() {
        site.work.push(&[&format!("{commit}:refs/heads/services/web/master")]).accepted();
        if (number + 1) % (pushes / 10) == 0 {
            site.wait_applied(site.master.sequence());
            held.push(daemons.map(|daemon| Held::of(daemon.pid())));
            println!("{} pushes: {:?}", number + 1, held.last().expect("one"));
        }
    }
    let bounds = |samples: &[[Held; 3]], daemon: usize| {
        let descriptors = samples.iter().map(|held| held[daemon].descriptors).min().unwrap_or_default();
        (descriptors, samples.iter().map(|held| held[daemon].kilobytes).max().unwrap_or_default())
    };
    for (daemon, name) in ["conf-master", "conf-slave", "conf-local"].into_iter().enumerate() {
        let (before, after) = (bounds(&held[..5], daemon), bounds(&held[5..], daemon));
        // A repository that is open holds the packs of up to 64 pushes.
        assert!(after.0 < before.0 + 80, "{name}: {} descriptors, then {}: {held:?}", before.0, after.0);
        assert!(after.1 < before.1 + (8 << 10), "{name}: {} KiB, then {}: {held:?}", before.1, after.1);
    }
    site.expect_whole();
}

#[test]
fn a_thousand_pushes_leave_no_descriptor_and_no_memory_behind() {
    nothing_grows_over(1000);
}

#[test]
#[ignore = "long: 10,000 pushes, one by one"]
fn ten_thousand_pushes_leave_no_descriptor_and_no_memory_behind() {
    nothing_grows_over(10_000);
}

/// Sets how many files a process may have open, and returns what was set before.
fn limit(pid: u32, files: u64) -> Rlimit {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(files), maximum }).expect("root may do that")
}

#[test]
fn a_centre_without_descriptors_says_so_and_recovers() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    let (pid, mark) = (site.master.daemon.pid(), site.master.daemon.log_mark());
    let before = limit(pid, 64);
    let connections: Vec<TcpStream> =
        (0..80).map(|_| TcpStream::connect(site.master.address).expect("the backlog takes it")).collect();
    let ready = || site.master.http().get("/readyz");
    eventually("/readyz to say that no descriptor is left", || {
        let answer = ready()?;
        let words = answer.text();
        if answer.status == 503 && words.contains("file descriptor") { Ok(()) } else { Err(words) }
    });
    let log = site.master.daemon.log_since(mark);
    assert_eq!(log.matches("cannot accept connections").count(), 1, "said once:\n{log}");
    assert_eq!(log.matches("hardly any file descriptor is left").count(), 1, "said once:\n{log}");
    drop(connections);
    limit(pid, before.current.unwrap_or(1 << 20));
    eventually("/readyz to be ready again", || {
        let answer = ready()?;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    });
    site.push("services/web", "round", "1\n");
    site.master.expect_unbroken_ledger();
}
