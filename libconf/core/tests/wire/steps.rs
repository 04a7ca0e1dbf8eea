//! Steps by object id, from a server to hosts.

use std::{
    io,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use conf_core::{
    git::{self, Depth, RepositoryPool, Step},
    git_http::{UploadLimits, UploadPack},
    upstream::{self, FetchError},
};

use crate::site::{Repo, Server, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_host_starts_with_the_newest_snapshot_and_steps_on() {
    let (central, host) = (Repo::new(), Repo::new());
    let server = Server::of(&central).await;
    let first = central.snapshot(None, &[("web", "port: 1"), ("db", "size: 1")]);
    let second = central.snapshot(Some(first), &[("web", "port: 2")]);
    let third = central.snapshot(Some(second), &[("web", "port: 3")]);

    let fetched = host.step(&server, None, second).await.unwrap();
    assert_eq!((fetched.requests, fetched.packs), (1, 1));
    assert!(fetched.answer.is_none());
    assert!(host.open().is_shallow());
    assert!(host.open().find_commit(first.into()).is_err(), "only the newest is fetched");
    host.fsck();

    let fetched = host.step(&server, Some(second), third).await.unwrap();
    assert_eq!((fetched.requests, fetched.packs), (1, 1));
    let (request, response) = fetched.answer.unwrap();
    assert_eq!(Step::parse(&request), Some(Step { have: Some(second), want: third, depth: Depth::Full }));
    assert_eq!(response.len() as u64, fetched.wire_bytes);
    git::complete(&host.open(), None, third).unwrap();
    host.fsck();

    let again = host.step(&server, Some(second), third).await.unwrap();
    assert_eq!((again.requests, again.wire_bytes), (0, 0), "what is here is not asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_stores_nothing_once_its_owner_may_not_write() {
    let (central, host) = (Repo::new(), Repo::new());
    let server = Server::of(&central).await;
    let first = central.snapshot(None, &[("web", "port: 1")]);
    let second = central.snapshot(Some(first), &[("web", "port: 2")]);
    host.step(&server, None, first).await.unwrap();
    let files = || {
        let mut files: Vec<PathBuf> = host.files();
        files.sort();
        files
    };
    let before = files();
    // It is so before the fetch begins, and in the middle of it.
    for allowed in [0, 1] {
        let asked = AtomicUsize::new(0);
        let pool = RepositoryPool::at(host.path.clone());
        pool.behind(move || {
            let is_allowed = asked.fetch_add(1, Ordering::Relaxed) < allowed;
            is_allowed.then_some(()).ok_or_else(|| io::Error::other("another agent may have it"))
        });
        let step = Step { have: Some(first), want: second, depth: Depth::One };
        let refused = upstream::fetch(&server.upstreams.in_order()[0], pool, step).await.unwrap_err();
        let FetchError::Repository { reason, .. } = refused else { panic!("{refused:?}") };
        assert!(reason.contains("another agent may have it"), "{reason}");
        assert_eq!(files(), before, "{allowed}");
    }
    host.step(&server, Some(first), second).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_has_all_history() {
    let (central, mirror) = (Repo::new(), Repo::new());
    let server = Server::of(&central).await;
    let first = central.snapshot(None, &[("web", "port: 1")]);
    let second = central.snapshot(Some(first), &[("web", "port: 2")]);
    let third = central.snapshot(Some(second), &[("web", "port: 3")]);
    let upstream = &server.upstreams.in_order()[0];
    let step = |have, want| upstream::fetch(upstream, mirror.path.clone(), Step { have, want, depth: Depth::Full });
    assert_eq!(step(None, second).await.unwrap().requests, 1);
    assert_eq!(step(Some(second), third).await.unwrap().requests, 1);
    assert!(!mirror.open().is_shallow());
    git::complete_history(&mirror.open(), &[], &[third]).unwrap();
    mirror.open().find_commit(first.into()).unwrap();
    mirror.open().reference("refs/heads/main", third.into(), true, "test").unwrap();
    mirror.fsck();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_serves_everyone_who_makes_a_step() {
    let central = Repo::new();
    let server = Server::of(&central).await;
    let first = central.snapshot(None, &[("web", "port: 1")]);
    let second = central.snapshot(Some(first), &[("web", "port: 2")]);
    let hosts: Vec<Repo> = (0..12).map(|_| Repo::new()).collect();
    for host in &hosts {
        host.step(&server, None, first).await.unwrap();
    }
    let before = server.upload.counts();
    let steps = hosts.iter().map(|host| host.step(&server, Some(first), second));
    for fetched in futures_util::future::join_all(steps).await {
        assert_eq!(fetched.unwrap().requests, 1);
    }
    let after = server.upload.counts();
    assert_eq!(after.processes - before.processes, 1);
    assert_eq!(after.cached - before.cached, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_among_three_thousand_services_fits_in_two_kibibytes() {
    let (central, host) = (Repo::new(), Repo::new());
    let server = Server::of(&central).await;
    let names: Vec<String> = (0..3000).map(|number| format!("service-{number}")).collect();
    let all: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let mut last = central.snapshot(None, &all);
    host.step(&server, None, last).await.unwrap();
    for round in 0..3 {
        let next = central.snapshot(Some(last), &[("service-1234", &format!("port: {round}"))]);
        let since = Instant::now();
        let fetched = host.step(&server, Some(last), next).await.unwrap();
        let took = since.elapsed();
        assert_eq!(fetched.requests, 1);
        assert!(fetched.wire_bytes <= 2048, "{} bytes", fetched.wire_bytes);
        let repeated = {
            let other = Repo::new();
            other.step(&server, None, last).await.unwrap();
            let since = Instant::now();
            other.step(&server, Some(last), next).await.unwrap();
            since.elapsed()
        };
        println!("{} bytes, {took:?}; from the cache {repeated:?}", fetched.wire_bytes);
        last = next;
    }
    host.fsck();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_host_gets_a_rollback_whole_from_a_server_with_bitmaps() {
    let (central, host) = (Repo::new(), Repo::new());
    let server = Server::of(&central).await;
    let first = central.snapshot(None, &[("web", "port: 1"), ("db", "size: 1")]);
    let second = central.snapshot(Some(first), &[("web", "port: 2")]);
    central.git(&["repack", "-adb"]);
    host.step(&server, None, second).await.unwrap();
    let third = central.rollback(second, first);
    central.git(&["repack", "-adb"]);
    assert!(central.git(&["count-objects", "-v"]).contains("packs: 1"));
    let fetched = host.step(&server, Some(second), third).await.unwrap();
    assert_eq!(fetched.requests, 1, "the answer was not complete");
    git::complete(&host.open(), None, third).unwrap();
    host.fsck();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_leaves_objects_out_is_asked_again() {
    let (central, host) = (Repo::new(), Repo::new());
    let server = Server::of(&central).await;
    let first = central.snapshot(None, &[("web", "port: 1")]);
    let second = central.snapshot(Some(first), &[("db", "size: 2")]);
    let third = central.snapshot(Some(second), &[("web", "port: 3")]);
    host.step(&server, None, first).await.unwrap();
    // The answer to another step, whose have this host never had.
    let other = Repo::new();
    other.step(&server, None, second).await.unwrap();
    let (_, short) = other.step(&server, Some(second), third).await.unwrap().answer.unwrap();
    let step = Step { have: Some(first), want: third, depth: Depth::One };
    server.upload.prime(step.request(), short).await;

    let fetched = host.step(&server, Some(first), third).await.unwrap();
    assert_eq!(fetched.requests, 2);
    assert!(fetched.answer.is_none(), "a short answer must not travel on");
    git::complete(&host.open(), None, third).unwrap();
    host.fsck();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_alone_brings_nothing_of_the_snapshots_between() {
    let (central, host) = (Repo::new(), Repo::new());
    let server = Server::of(&central).await;
    let first = central.snapshot(None, &[("web", "port: 1")]);
    host.step(&server, None, first).await.unwrap();
    let noise: String = (0..50_000).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect();
    let second = central.snapshot(Some(first), &[("web", &noise)]);
    let third = central.snapshot(Some(second), &[("web", "port: 3")]);
    let (whole, alone) = (Repo::new(), Step { have: Some(first), want: third, depth: Depth::Alone });
    whole.step(&server, None, first).await.unwrap();
    let fetched = whole.step(&server, Some(first), third).await.unwrap();
    assert!(fetched.wire_bytes > 25_000, "a plain step brings it: {}", fetched.wire_bytes);

    let fetched = upstream::fetch(&server.upstreams.in_order()[0], host.path.clone(), alone).await.unwrap();
    assert!(fetched.wire_bytes < 5_000, "{}", fetched.wire_bytes);
    git::complete(&host.open(), None, third).unwrap();
    host.fsck();
    let fourth = central.snapshot(Some(third), &[("db", "size: 4")]);
    host.step(&server, Some(third), fourth).await.unwrap();
    host.fsck();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_was_emptied_relays_steps_it_cannot_answer() {
    let (central, emptied, host) = (Repo::new(), Repo::new(), Repo::new());
    let master = Server::of(&central).await;
    let first = central.snapshot(None, &[("web", "port: 1")]);
    let second = central.snapshot(Some(first), &[("web", "port: 2")]);
    host.step(&master, None, first).await.unwrap();
    emptied.step(&master, None, second).await.unwrap();
    let limits = UploadLimits { relay_patience: Duration::from_secs(60), ..UploadLimits::default() };
    let upload = UploadPack::relaying(emptied.path.clone(), limits, master.upstreams.clone());
    let slave = Server::with(upload, None).await;

    let fetched = host.step(&slave, Some(first), second).await.unwrap();
    assert_eq!(fetched.requests, 1);
    assert_eq!((slave.upload.counts().relayed, slave.upload.counts().processes), (1, 0));
    host.fsck();

    let late = Repo::new();
    late.step(&master, None, first).await.unwrap();
    master.end().await;
    let fetched = late.step(&slave, Some(first), second).await.unwrap();
    assert_eq!(slave.upload.counts().processes, 1, "computed here while upstream is away");
    assert_eq!(fetched.requests, 1);
    late.fsck();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_server_lacks_is_not_found() {
    let (central, host) = (Repo::new(), Repo::new());
    let server = Server::of(&central).await;
    let first = central.snapshot(None, &[("web", "port: 1")]);
    host.step(&server, None, first).await.unwrap();
    let elsewhere = "0123456789012345678901234567890123456789".parse().unwrap();
    for have in [None, Some(first)] {
        let error = host.step(&server, have, elsewhere).await.unwrap_err();
        assert!(matches!(error, FetchError::NotFound { .. }), "{error:?}");
    }
    host.fsck();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_packs_become_one() {
    let (central, host) = (Repo::new(), Repo::new());
    let server = Server::of(&central).await;
    let mut kept = vec![central.snapshot(None, &[("web", "port: 0"), ("db", "size: 1")])];
    host.step(&server, None, kept[0]).await.unwrap();
    for round in 1..=70 {
        let last = *kept.last().unwrap();
        kept.push(central.snapshot(Some(last), &[("web", &format!("port: {round}"))]));
        host.step(&server, Some(last), *kept.last().unwrap()).await.unwrap();
        if round == 30 {
            let early = git::consolidate(&host.path, &kept[30..]).unwrap();
            assert!(!early, "a few small packs are no growth, however little is kept");
        }
    }
    let keep = &kept[60..];
    assert_eq!(host.packs(), 71);
    assert!(git::consolidate(&host.path, keep).unwrap());
    assert_eq!(host.packs(), 1);
    host.fsck();
    for commit in keep {
        git::complete(&host.open(), None, *commit).unwrap();
    }
    assert!(host.open().find_commit(kept[59].into()).is_err());
    assert!(!git::consolidate(&host.path, keep).unwrap(), "nothing is left to do");

    let last = *kept.last().unwrap();
    let next = central.snapshot(Some(last), &[("db", "size: 2")]);
    assert_eq!(host.step(&server, Some(last), next).await.unwrap().requests, 1);
    host.fsck();
}

#[tokio::test(flavor = "multi_thread")]
async fn much_that_is_not_kept_goes_early() {
    let (central, host) = (Repo::new(), Repo::new());
    let server = Server::of(&central).await;
    let mut last = central.snapshot(None, &[("web", "a: 0")]);
    host.step(&server, None, last).await.unwrap();
    for _ in 0..6 {
        let noise: Vec<String> = (0..100_000).map(|_| format!("a{:08x}: 0\n", rand::random::<u32>())).collect();
        let next = central.snapshot(Some(last), &[("web", &noise.concat())]);
        host.step(&server, Some(last), next).await.unwrap();
        last = next;
    }
    assert!(git::consolidate(&host.path, &[last]).unwrap());
    assert_eq!(host.packs(), 1);
    host.fsck();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_with_refs_of_others_is_not_consolidated() {
    let (central, host) = (Repo::new(), Repo::new());
    let server = Server::of(&central).await;
    let mut last = central.snapshot(None, &[("web", "port: 0")]);
    let first = last;
    host.step(&server, None, first).await.unwrap();
    host.open().reference("refs/heads/mine", first.into(), true, "test").unwrap();
    for round in 1..=64 {
        let next = central.snapshot(Some(last), &[("web", &format!("port: {round}"))]);
        host.step(&server, Some(last), next).await.unwrap();
        last = next;
    }
    assert!(!git::consolidate(&host.path, &[last]).unwrap());
    assert_eq!(host.packs(), 65);
    until("the ref is there", || host.open().find_reference("refs/heads/mine").is_ok()).await;
}
