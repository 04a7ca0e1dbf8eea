//! What breaks, and what it costs.

use std::{
    io::{BufRead as _, Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
};

use conf_core::{
    git::{self, LockError},
    git_http::{HookEnvironment, ReceivePack, UploadLimits, UploadPack},
};
use libconf::name::CommitId;
use rustix::process::{Pid, Signal, kill_process};

use crate::site::{Repo, Server, client, gits, processes, succeeded, until};

/// The most clones that are begun until one is met at work: the server takes an answer that nobody
/// reads off its process, which may have ended before anybody looks.
const MOST_CLONES: usize = 20;

/// A repository whose clone fills every buffer on the way many times, and takes Git a while.
fn large() -> (Repo, CommitId) {
    let central = Repo::new();
    let noise: String = (0..32 << 20).map(|_| char::from(rand::random_range(b' '..b'~'))).collect();
    let last = central.snapshot(None, &[("noise", &noise), ("web", "port: 1")]);
    (central, last)
}

/// Asks for a whole clone and reads only its beginning.
fn begin_clone(server: &Server, want: CommitId) -> std::io::BufReader<TcpStream> {
    let request = conf_core::git::Step { have: None, want, depth: conf_core::git::Depth::Full }.request();
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    let head = format!(
        "POST /conf.git/git-upload-pack HTTP/1.1\r\nHost: localhost\r\nGit-Protocol: version=2\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        request.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&request).unwrap();
    let mut reader = std::io::BufReader::new(stream);
    let mut status = String::new();
    reader.read_line(&mut status).unwrap();
    assert!(status.contains("200"), "{status}");
    reader
}

fn serving(repo: &Repo) -> Vec<i32> {
    processes(repo.path.to_str().unwrap())
        .into_iter()
        .filter(|pid| *pid != i32::try_from(std::process::id()).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_upload_pack_tears_the_connection_down() {
    let (central, last) = large();
    let server = Server::of(&central).await;
    for _ in 0..MOST_CLONES {
        let mut reader = begin_clone(&server, last);
        let serving = serving(&central);
        if serving.is_empty() {
            continue;
        }
        for pid in serving {
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
        let mut rest = Vec::new();
        let _ = reader.read_to_end(&mut rest);
        if !rest.ends_with(b"0\r\n\r\n") {
            return;
        }
    }
    panic!("the body must not end cleanly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_process_along() {
    let (central, last) = large();
    let server = Server::of(&central).await;
    for _ in 0..MOST_CLONES {
        let reader = begin_clone(&server, last);
        let is_served = !serving(&central).is_empty();
        drop(reader);
        if is_served {
            return until("its process is gone", || serving(&central).is_empty()).await;
        }
    }
    panic!("no process was met at work");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_holds_no_process_and_others_wait_their_turn() {
    let (central, last) = large();
    let upload = UploadPack::new(central.path.clone(), UploadLimits { processes: 1, ..UploadLimits::default() });
    let server = Server::with(upload, None).await;
    let host = Repo::new();
    host.step(&server, None, last).await.unwrap();
    let next = central.snapshot(Some(last), &[("web", "port: 2")]);
    let reader = begin_clone(&server, next);
    host.step(&server, Some(last), next).await.unwrap();
    // Its reader takes nothing more, and its process ends all the same.
    Repo::new().step(&server, None, next).await.unwrap();
    assert_eq!(server.upload.counts().refused, 0);
    until("every process has ended", || serving(&central).is_empty()).await;
    drop(reader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_ends_when_receive_pack_is_killed() {
    let central = Repo::new();
    let hook = central.path.join("hooks/pre-receive");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    // It says that it runs, and then waits for somebody to open the other end.
    let script = "#!/bin/sh\necho working\nmkfifo \"$GIT_DIR/never\"\necho $$ > \"$GIT_DIR/pid\"\nmv \"$GIT_DIR/pid\" \"$GIT_DIR/started\"\nread line < \"$GIT_DIR/never\"\n";
    std::fs::write(&hook, script).unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let upload = UploadPack::new(central.path.clone(), UploadLimits::default());
    let spools = upload.spools().clone();
    let receive = ReceivePack::new(central.path.clone(), spools, 4, |_| HookEnvironment::default());
    let server = Server::with(upload, Some(receive)).await;
    let git = &gits()[0];
    let folder = tempfile::tempdir().unwrap();
    succeeded(client(git, folder.path()).args(["init", "-q", "."]).output().unwrap());
    succeeded(client(git, folder.path()).args(["commit", "-q", "--allow-empty", "-m", "one"]).output().unwrap());
    let mut push = client(git, folder.path());
    push.args(["push", &format!("{}/conf.git", server.url), "HEAD:refs/heads/services/web/master"]);
    let mut push = push.stderr(Stdio::piped()).spawn().unwrap();
    let started = central.path.join("started");
    until("the hook runs", || started.exists()).await;
    let receivers = processes("receive-pack").into_iter().filter(|pid| serving(&central).contains(pid));
    for pid in receivers {
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
    until("the push has ended", || push.try_wait().unwrap().is_some()).await;
    assert!(!push.wait().unwrap().success());
    until("nobody receives any more", || serving(&central).is_empty()).await;
    // Its hook, which Git does not end, is let go.
    let pid: i32 = std::fs::read_to_string(started).unwrap().trim().parse().unwrap();
    let mut never = std::fs::File::options().read(true).write(true).open(central.path.join("never")).unwrap();
    never.write_all(b"now\n").unwrap();
    until("the hook is gone", || !processes("hooks/pre-receive").contains(&pid)).await;
    assert_eq!(central.git(&["for-each-ref"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_of_gzip_is_refused() {
    use async_compression::tokio::write::GzipEncoder;
    use tokio::io::AsyncWriteExt as _;

    let (central, url, _server) = {
        let central = Repo::new();
        central.snapshot(None, &[("web", "port: 1")]);
        let server = Server::of(&central).await;
        (central, server.url.clone(), server)
    };
    let mut encoder = GzipEncoder::new(Vec::new());
    for _ in 0..200 {
        encoder.write_all(&vec![b'0'; 1 << 20]).await.unwrap();
    }
    encoder.shutdown().await.unwrap();
    let bomb = encoder.into_inner();
    assert!(bomb.len() < 1 << 20);
    let output = post(&url, &bomb);
    assert!(output.starts_with("HTTP/1.1 413"), "{output}");
    assert_eq!(serving(&central), Vec::<i32>::new());
    let output = post(&url, b"this is not gzip");
    assert!(output.starts_with("HTTP/1.1 400"), "{output}");
}

fn post(url: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    let head = format!(
        "POST /conf.git/git-upload-pack HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The server may answer before it has read everything.
    let _ = stream.write_all(body);
    let mut output = Vec::new();
    let _ = stream.read_to_end(&mut output);
    String::from_utf8_lossy(&output).into_owned()
}

#[test]
fn children_hold_the_lock_and_leftovers_are_swept() {
    let repo = Repo::new();
    let lock = git::lock(&repo.path).unwrap();
    assert!(matches!(git::lock(&repo.path), Err(LockError::Held { .. })));
    let mut child: std::process::Child = {
        let mut command: Command = git::command(&repo.path);
        command.args(["cat-file", "--batch"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    };
    drop(lock);
    assert!(matches!(git::lock_alone(&repo.path), Err(LockError::Held { .. })), "the child holds it");
    drop(child.stdin.take());
    child.wait().unwrap();

    let leftovers =
        ["HEAD.lock", "refs/heads/a/b.lock", "objects/tmp_obj_1", "objects/pack/pack_git2_x", "shallow.lock"];
    for name in leftovers {
        let path = repo.path.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    std::fs::create_dir_all(repo.path.join("objects/tmp_pack_1/x")).unwrap();
    std::fs::create_dir_all(repo.path.join("export")).unwrap();
    std::fs::write(repo.path.join("export/Cargo.lock"), "").unwrap();
    let _lock = git::lock_alone(&repo.path).unwrap();
    for name in leftovers {
        assert!(!repo.path.join(name).exists(), "{name}");
    }
    assert!(!repo.path.join("objects/tmp_pack_1").exists());
    assert!(repo.path.join("export/Cargo.lock").exists(), "not Git's");
    repo.fsck();
}
