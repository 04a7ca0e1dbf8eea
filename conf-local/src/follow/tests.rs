//! The worker without servers.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::Arc,
    time::{Duration, Instant},
};

use conf_core::{
    sign::KeptKeys,
    upstream::{Credentials, Upstreams},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    follow::{Sources, candidates::Candidates, fetch::Failure, worker::Worker},
    snapshot::{HostKeys, SnapshotServers},
    transaction::{
        Host,
        tests::{Site, take},
    },
};

/// Nobody answers; objects that are here need no answer.
fn nowhere(host: &Host) -> Sources {
    let servers = |urls: &[&str]| {
        Upstreams::new(urls.iter().map(|url| url.parse().unwrap()).collect(), &Credentials::none()).unwrap()
    };
    Sources {
        consul: Vec::new(),
        needs_consul: false,
        finders: Vec::new(),
        key: "pointer".to_owned(),
        datacenter: "us-west/v1".parse().unwrap(),
        servers: SnapshotServers::new(servers(&[]), servers(&["http://127.0.0.1:1"])),
        keys: HostKeys::new(Arc::new(KeptKeys::open(&host.state, host.keys.clone())), host.lock.clone()),
    }
}

#[tokio::test]
async fn what_fails_again_and_again_without_any_damage_ends_with_a_new_repository_once() {
    let mut site = Site::new();
    site.set("services/a/latest", &[("one", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    let sources = nowhere(&host);
    let candidates = Candidates::new(audience.agent.clone());
    let mut worker = Worker::new(host, &sources, &audience, &candidates);
    let aside = site.state().join("repo.git.damaged");
    for _ in 0..4 {
        worker.renew_after_many().await;
        assert!(!aside.exists(), "there was no damage");
    }
    worker.renew_after_many().await;
    assert!(aside.exists());
    assert_eq!(worker.host().known(), Some(first));
    assert_eq!(site.read("services/a/latest/one").as_deref(), Some("1"));
}

#[tokio::test]
async fn what_is_found_whole_is_not_thrown_away_however_often_servers_are_wrong() {
    let mut site = Site::new();
    site.set("services/a/latest", &[("one", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    let (sources, candidates) = (nowhere(&host), Candidates::new(audience.agent.clone()));
    let mut worker = Worker::new(host, &sources, &audience, &candidates);
    for _ in 0..10 {
        // What a corrupt answer leads to.
        worker.heal().await;
    }
    assert!(!site.state().join("repo.git.damaged").exists());
}

#[tokio::test]
async fn a_place_that_could_not_be_mended_is_tried_again_without_a_change() {
    let mut site = Site::new();
    fs::create_dir_all(site.place()).unwrap();
    site.configure("export: [{component: services/a, path: PLACE/a, mode: copy}]");
    site.set("services/a/latest", &[("one", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    let (sources, candidates) = (nowhere(&host), Candidates::new(audience.agent.clone()));
    let worker = Worker::new(host, &sources, &audience, &candidates);
    let stop = CancellationToken::new();
    let place = site.place().join("a");
    fs::remove_dir_all(&place).unwrap();
    fs::write(&place, "in the way").unwrap();
    let mending = async {
        let has_error = || audience.agent.view().status.placements.iter().any(|one| one.error.is_some());
        eventually("the error to be shown", has_error).await;
        fs::remove_file(&place).unwrap();
        eventually("the file to be placed", || place.join("one").exists()).await;
        stop.cancel();
    };
    let (_requests, served) = mpsc::channel(1);
    tokio::join!(worker.run(served, &stop), mending);
}

/// Waits for a state, 60 s at most.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_object_that_a_mend_needs_and_cannot_read_is_fetched_anew() {
    let mut site = Site::new();
    site.set("services/a/latest", &[("one", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    let id = git2::Oid::hash_object(git2::ObjectType::Blob, b"1").unwrap().to_string();
    let object = site.state().join("repo.git/objects").join(&id[..2]).join(&id[2..]);
    let whole = fs::read(&object).unwrap();
    fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&object, "damaged").unwrap();
    host.repository.pool.forget();
    fs::remove_dir_all(site.state().join("export/store")).unwrap();

    let (sources, candidates) = (nowhere(&host), Candidates::new(audience.agent.clone()));
    let mut worker = Worker::new(host, &sources, &audience, &candidates);
    let stop = CancellationToken::new();
    worker.look(&stop).await;
    let (repository, aside) = (site.state().join("repo.git"), site.state().join("repo.git.damaged"));
    assert!(aside.exists() && worker.is_unfinished());
    // As if the objects were fetched anew.
    fs::remove_dir_all(&repository).unwrap();
    fs::rename(&aside, &repository).unwrap();
    fs::write(&object, whole).unwrap();
    worker.host().repository.pool.forget();
    worker.look(&stop).await;
    let mended = worker.take(first, Instant::now(), &stop).await.map_err(Failure::words);
    assert_eq!(mended, Ok(()));
    assert!(!worker.is_unfinished());
    assert_eq!(site.read("services/a/latest/one").as_deref(), Some("1"));
}

#[tokio::test]
async fn content_that_is_damaged_here_is_mended_while_the_host_is_ahead_of_the_pointer() {
    let mut site = Site::new();
    site.set("services/a/latest", &[("one", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    site.set("services/a/latest", &[("one", "2")]);
    let second = site.land();
    let id = git2::Oid::hash_object(git2::ObjectType::Blob, b"2").unwrap().to_string();
    let object = site.state().join("repo.git/objects").join(&id[..2]).join(&id[2..]);
    let whole = fs::read(&object).unwrap();
    fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&object, "damaged").unwrap();

    let sources = nowhere(&host);
    let candidates = Candidates::new(audience.agent.clone());
    let mut worker = Worker::new(host, &sources, &audience, &candidates);
    let stop = CancellationToken::new();
    assert!(worker.take_early(second, &stop).await.is_err(), "the damage is told");
    assert!(worker.exported() == Some(second) && worker.host().lacks_content());
    // As if the objects were fetched anew.
    let repository = site.state().join("repo.git");
    fs::remove_dir_all(&repository).unwrap();
    fs::rename(site.state().join("repo.git.damaged"), &repository).unwrap();
    fs::write(&object, whole).unwrap();
    worker.host().repository.pool.forget();

    let mended = worker.take(first, Instant::now(), &stop).await.map_err(Failure::words);
    assert_eq!(mended, Ok(()));
    assert!(!worker.host().lacks_content());
    assert_eq!(site.read("services/a/latest/one").as_deref(), Some("2"));
    assert!(worker.take(first, Instant::now(), &stop).await.is_ok(), "a late pointer is no error");
    assert_eq!(worker.exported(), Some(second));
}
