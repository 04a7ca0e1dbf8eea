//! git2consul, the real one, from a checkout with its packages installed: a push to plain Git, a
//! hook that calls it at once, its fetch, its put in Consul, and `consul watch` on each host.

use std::{
    cell::RefCell,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    rc::Rc,
    time::Duration,
};

use serde_json::json;
use tests::{
    Work, eventually_within,
    figures::Kind,
    program::{command, spawn},
};

use crate::{
    fleet::settings,
    peers::{
        consul::{KEY, Watches},
        plain_git::PlainGit,
    },
    pusher::Pusher,
    race::{Racer, last_signal},
};

/// The time that git2consul may take to put all files in Consul for the first time.
const FIRST: Duration = Duration::from_secs(240);
const REPOSITORY: &str = "git2consul.git";
const FILE: &str = "services/s0/config.yaml";

/// A running git2consul.
pub(crate) struct Git2consul {
    watches: Rc<RefCell<Watches>>,
    pusher: Pusher,
    child: Child,
}

impl Git2consul {
    /// Starts the checkout that the variable `GIT2CONSUL` names, for one branch with all services.
    pub(crate) fn start(
        home: &Path,
        plain: &PlainGit,
        watches: &Rc<RefCell<Watches>>,
        services: usize,
    ) -> Option<Self> {
        let checkout = PathBuf::from(std::env::var_os("GIT2CONSUL")?);
        let repo = plain.repository(REPOSITORY);
        let url = plain.url(REPOSITORY);
        let work = Work::new(&home.join("git2consul-work"), &url);
        let mut change = work.change();
        for number in 0..services {
            let name = format!("services/s{number}");
            change = change.file("master", &format!("{name}/config.yaml"), settings(&name, 0));
        }
        change.land();
        let port = free_port();
        hook(&repo, port);
        let store = home.join("git2consul-store");
        fs::create_dir_all(&store).expect("the folder can be made");
        let options = json!({"version": "1.0", "local_store": store, "repos": [{
            "name": "conf", "url": url, "branches": ["master"], "include_branch_name": false,
            "hooks": [{"type": "gitlab", "port": port, "url": "/changed"}],
        }]});
        let file = home.join("git2consul.json");
        fs::write(&file, options.to_string()).expect("the folder can be written");
        let (host, consul_port) = {
            let address = watches.borrow().consul.address();
            (address.ip().to_string(), address.port().to_string())
        };
        let log = File::create(home.join("git2consul.log")).expect("the log can be made");
        let mut node = command("node", home);
        node.arg(checkout.join("index.js"))
            .args(["--endpoint", &host, "--port", &consul_port, "--config-file"])
            .arg(&file);
        node.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        node.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        let child = spawn(node).expect("node can be started");
        eventually_within(FIRST, "git2consul to put every file", || {
            match watches.borrow().consul.list("conf/services/").len() {
                all if all >= services => Ok(()),
                some => Err(format!("{some} of {services} keys")),
            }
        });
        let pusher = Pusher::clone_of(&url, "master", &home.join("git2consul-clone"));
        Some(Git2consul { watches: Rc::clone(watches), pusher, child })
    }
}

/// Has Git tell git2consul of each push at once, by the shell alone.
fn hook(repo: &Path, port: u16) {
    let script = format!(
        "#!/bin/bash\nwhile read -r old new name; do\n\
         body=\"{{\\\"ref\\\":\\\"$name\\\",\\\"after\\\":\\\"$new\\\"}}\"\n\
         exec 3<>/dev/tcp/127.0.0.1/{port}\n\
         printf 'POST /changed HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Type: application/json\\r\\nConnection: close\\r\\n\
         Content-Length: %d\\r\\n\\r\\n%s' ${{#body}} \"$body\" >&3\ndone\n"
    );
    let file = repo.join("hooks/post-receive");
    fs::create_dir_all(repo.join("hooks")).expect("the folder can be made");
    fs::write(&file, script).expect("the hook can be written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

impl Racer for Git2consul {
    fn name(&self) -> (Kind, String) {
        (Kind::Peer, "git2consul (hook, plain Git), `consul watch` runs `kill`".to_owned())
    }

    fn grow(&mut self, hosts: usize) {
        self.watches.borrow_mut().grow(hosts);
    }

    fn race(&mut self, round: usize) -> Duration {
        self.pusher.commit(FILE, &settings("services/s0", round));
        let watches = self.watches.borrow();
        let took = last_signal(watches.readers(), || {
            let (began, push) = self.pusher.start();
            (began, Some(push))
        });
        // What was put is the file: the next round is not mixed up with this one.
        let value = watches.consul.get(KEY).map(|entry| entry.value).unwrap_or_default();
        assert_eq!(value.trim(), settings("services/s0", round).trim(), "git2consul put another file");
        took
    }
}

impl Drop for Git2consul {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
