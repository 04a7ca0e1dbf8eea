//! The worker without servers.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Instant};

use conf_core::{
    consul::{Consul, ConsulCredentials},
    upstream::{Credentials, Upstreams},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    follow::{Sources, fetch::Failure, worker::Worker},
    snapshot::SnapshotServers,
    transaction::tests::{Site, take},
};

/// Nobody answers; objects that are here need no answer.
fn nowhere() -> Sources {
    let servers = |urls: &[&str]| {
        Upstreams::new(urls.iter().map(|url| url.parse().unwrap()).collect(), &Credentials::none()).unwrap()
    };
    Sources {
        consul: Consul::new(&["http://127.0.0.1:1".to_owned()], ConsulCredentials::default()).unwrap(),
        key: "pointer".to_owned(),
        servers: SnapshotServers::new(servers(&[]), servers(&["http://127.0.0.1:1"])),
    }
}

#[tokio::test]
async fn what_fails_again_and_again_without_any_damage_ends_with_a_new_repository_once() {
    let mut site = Site::new();
    site.set("services/a/latest", &[("one", "1")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    let sources = nowhere();
    let mut worker = Worker::new(host, &sources, &audience, watch::channel(None).1);
    let aside = site.state().join("repo.git.damaged");
    for _ in 0..4 {
        worker.heal().await;
        assert!(!aside.exists(), "there was no damage");
    }
    worker.heal().await;
    assert!(aside.exists());
    assert_eq!(worker.host().known(), Some(first));
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

    let sources = nowhere();
    let mut worker = Worker::new(host, &sources, &audience, watch::channel(None).1);
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
