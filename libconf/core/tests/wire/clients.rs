//! The plain git client against our servers.

use conf_core::git_http::{HookEnvironment, ReceivePack, UploadLimits, UploadPack};

use crate::site::{Repo, Server, client, gits, succeeded};

/// Runs a client where blocking does no harm to the server beside it.
async fn run(mut command: std::process::Command) -> std::process::Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clone_and_fetch() {
    let central = Repo::new();
    let server = Server::of(&central).await;
    let mut last = central.snapshot(None, &[("web", "port: 0")]);
    for git in gits() {
        for protocol in ["0", "1", "2"] {
            let folder = tempfile::tempdir().unwrap();
            let version = format!("protocol.version={protocol}");
            let mut clone = client(&git, folder.path());
            clone.args(["-c", &version, "clone", "-q", &format!("{}/conf.git", server.url), "work"]);
            succeeded(run(clone).await);
            last = central.snapshot(Some(last), &[("web", &format!("{git:?} {protocol}"))]);
            let work = folder.path().join("work");
            let mut fetch = client(&git, &work);
            fetch.args(["-c", &version, "fetch", "-q", "origin"]);
            succeeded(run(fetch).await);
            let mut show = client(&git, &work);
            show.args(["rev-parse", "origin/main"]);
            assert_eq!(succeeded(run(show).await).trim(), last.to_string());
            let mut fsck = client(&git, &work);
            fsck.args(["fsck", "--full"]);
            succeeded(run(fsck).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn push_with_options_and_packs_larger_than_any_buffer() {
    let central = Repo::new();
    central.git(&["config", "receive.advertisePushOptions", "true"]);
    let hook = central.path.join("hooks/pre-receive");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    let script = "#!/bin/sh\necho \"$WHO said $GIT_PUSH_OPTION_0\"\n";
    std::fs::write(&hook, script).unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let upload = UploadPack::new(central.path.clone(), UploadLimits::default());
    let receive = ReceivePack::new(central.path.clone(), upload.spools().clone(), 4, |_| HookEnvironment {
        variables: vec![("WHO".to_owned(), "ann".to_owned())],
        ..HookEnvironment::default()
    });
    let server = Server::with(upload, Some(receive)).await;
    for (number, git) in gits().into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        succeeded(client(&git, folder.path()).args(["init", "-q", "."]).output().unwrap());
        // Twenty megabytes that do not compress: far beyond http.postBuffer, so the push is chunked.
        let noise: Vec<u8> = (0..20 << 20).map(|_| rand::random::<u8>()).collect();
        std::fs::write(folder.path().join("noise"), &noise).unwrap();
        succeeded(client(&git, folder.path()).args(["add", "noise"]).output().unwrap());
        succeeded(client(&git, folder.path()).args(["commit", "-qm", "noise"]).output().unwrap());
        let mut push = client(&git, folder.path());
        let target = format!("HEAD:refs/heads/services/web/b{number}");
        push.args(["push", "-o", "hello", &format!("{}/conf.git", server.url), &target]);
        let output = run(push).await;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words}");
        assert!(words.contains("ann said hello"), "{words}");
        let mut head = client(&git, folder.path());
        head.args(["rev-parse", "HEAD"]);
        let pushed = central.git(&["rev-parse", &format!("refs/heads/services/web/b{number}")]);
        assert_eq!(pushed, succeeded(run(head).await));
    }
    central.fsck();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_takes_no_push() {
    let central = Repo::new();
    central.snapshot(None, &[("web", "port: 0")]);
    let server = Server::of(&central).await;
    let git = &gits()[0];
    let folder = tempfile::tempdir().unwrap();
    let mut clone = client(git, folder.path());
    clone.args(["clone", "-q", &format!("{}/conf.git", server.url), "."]);
    succeeded(run(clone).await);
    let mut push = client(git, folder.path());
    push.args(["push", "origin", "HEAD:refs/heads/other"]);
    let output = run(push).await;
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("403"));
}
