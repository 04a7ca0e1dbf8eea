//! Moving in: what `docs/moving-in.md` tells people to paste, pasted.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tests::{
    Daemon, own_address, page,
    program::{built, command, run, text},
};

const PAGE: &str = include_str!("../../../docs/moving-in.md");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace")
}

/// The program: what `tests/run` names, or the one that `tests/get-nginx` finds.
fn nginx() -> PathBuf {
    if let Some(named) = std::env::var_os("NGINX") {
        return named.into();
    }
    let output = run(command(root().join("tests/get-nginx"), Path::new("/")));
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().into()
}

/// Copies a folder; the addresses in its files become `address`.
fn copy(from: &Path, to: &Path, address: &str) {
    fs::create_dir_all(to).expect("the folder can be made");
    for entry in fs::read_dir(from).expect("the folder can be read").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to, address);
        } else {
            let text = fs::read_to_string(&path).expect("the example can be read");
            fs::write(to, text.replace("127.0.0.1", address)).expect("the file can be written");
        }
    }
}

#[test]
fn from_folders_to_hosts() {
    let folder = tempfile::Builder::new().prefix("conf-moving-").tempdir().expect("a folder can be made");
    let nginx = nginx();
    let address = own_address(7400).ip().to_string();
    let path = vec![nginx.parent().expect("it is in a folder").to_owned()];
    let reader = page::Reader { folder: folder.path(), address, seconds: 240, path };
    copy(&root().join("docs/examples/installation"), &reader.trial().join("installation"), &reader.address);
    let all = |language| page::fenced(PAGE, "# Moving in", language).concat();
    let logs = ["master.log", "slave.log", "static-1/log", "nginx.log"];
    reader.paste(&all("sh"), &all("text"), &logs);
}

/// The units' commands start as they stand there, each in a folder of this test's own.
#[test]
fn the_units_for_a_single_machine() {
    let folder = tempfile::Builder::new().prefix("conf-units-").tempdir().expect("a folder can be made");
    let here = folder.path().to_str().expect("text").to_owned();
    let address = own_address(7400).ip().to_string();
    let mut init = command(built("conf-master"), folder.path());
    fs::create_dir_all(folder.path().join("srv/conf")).expect("the folder can be made");
    init.args(["init", "--repo", &format!("{here}/srv/conf/central.git")]);
    assert!(run(init).status.success());
    let units = page::fenced(PAGE, "## Everything on a single machine", "ini");
    let mut daemons = Vec::new();
    for unit in &units {
        // systemd reads a line that ends with a backslash together with the next one.
        let unit = unit.replace("\\\n    ", "");
        let words =
            unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/")).expect("it starts something");
        let moved = ["/srv/", "/var/", "/run/"].iter().fold(words.replace("127.0.0.1", &address), |words, top| {
            words.replace(&format!(" {top}"), &format!(" {here}{top}"))
        });
        let mut words = moved.split(' ').map(str::to_owned);
        let name = words.next().expect("a program");
        let mut daemon = Daemon::new(&name, built(&name), folder.path(), words);
        daemon.start();
        daemons.push(daemon);
    }
    assert_eq!(daemons.len(), 3);
    for daemon in daemons.iter_mut().rev() {
        daemon.stop();
    }
}
