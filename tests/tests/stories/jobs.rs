//! A job that a manager restarts, woken by the component's key in Consul alone.

use std::{collections::BTreeMap, fs};

use tests::{
    Site,
    http::Address,
    program::{run, text},
};

/// The key moves before the host has the files; `conf-local wait` stands between.
#[test]
fn a_job_restarted_by_its_key_and_wait_never_starts_on_older_files_in_100_changes() {
    let site = Site::start();
    site.wait_published(site.master.sequence());
    let consul = Address::Tcp(site.consul().address());
    let file = site.host().export().join("current/services/web/latest/round");
    // What each commit holds: a job that was woken by one must find that or later.
    let mut rounds: BTreeMap<String, u32> = BTreeMap::new();
    rounds.insert(site.work.id("services/web/master"), 0);
    let (mut index, mut started) = (0, 0);
    std::thread::scope(|scope| {
        let (sender, commits) = std::sync::mpsc::channel();
        // The engineer does not wait for anybody.
        let (folder, remote) = (site.work.folder().with_extension("jobs"), site.work.remote().to_owned());
        scope.spawn(move || {
            let work = tests::Work::new(&folder, &remote);
            work.git(&["fetch", "-q", "origin", "+refs/heads/*:refs/heads/*"]);
            for round in 1..=100 {
                work.change().file("services/web/master", "round", format!("{round}\n")).commit();
                sender.send((work.id("services/web/master"), round)).expect("the job listens");
                work.push(&["refs/heads/services/web/master"]).accepted();
            }
        });
        let mut seen = 0;
        while seen < 100 {
            let path = format!("/v1/kv/configurations/services/web/latest?index={index}&wait=30s&raw");
            let answer = consul.get(&path).expect("Consul answers");
            let new = answer
                .headers
                .get("x-consul-index")
                .expect("an index")
                .to_str()
                .expect("text")
                .parse()
                .expect("a number");
            if new == index {
                continue;
            }
            index = new;
            let value = answer.text();
            let waited = run(site.host().client(&["wait", "services/web", "--at", &value, "--timeout", "60"]));
            assert!(waited.status.success(), "after {value}:\n{}", text(&waited));
            // The job starts.
            let found: u32 = fs::read_to_string(&file).expect("the export is there").trim().parse().expect("a number");
            rounds.extend(commits.try_iter());
            let commit = value.rsplit('/').next().expect("a commit");
            let wanted = rounds[commit];
            assert!(found >= wanted, "woken by round {wanted}, the job started on the files of round {found}");
            assert!(found >= seen, "the job went back from {seen} to {found}");
            seen = found.max(wanted);
            started += 1;
        }
    });
    println!("100 changes, the job was started {started} times");
    assert!(started >= 10, "only {started} starts");
}
