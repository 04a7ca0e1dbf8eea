//! The central server.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::{
    address::own_address,
    authority::Authority,
    git::Work,
    http::Address,
    program::{Daemon, built, command, run, text},
    proxy::Proxy,
    site::{
        content::DATACENTER,
        repository::{in_repository, sequence_of},
    },
};

/// The central server.
#[derive(Debug)]
pub struct Master {
    /// The process.
    pub daemon: Daemon,
    /// Its repository.
    pub repo: PathBuf,
    /// A proxy between it and the hosts.
    pub proxy: Option<Proxy>,
    /// The address that it listens on.
    pub address: SocketAddr,
    /// The authority of its certificate, if it speaks TLS.
    pub authority: Option<Authority>,
    /// It asks for tokens.
    asks: bool,
    home: PathBuf,
}

impl Master {
    /// Makes a repository in a folder and serves it.
    pub fn start(folder: &Path) -> Self {
        let mut master = Self::init(folder);
        master.daemon.start();
        master
    }

    /// Makes a repository in a folder without serving it.
    pub fn init(folder: &Path) -> Self {
        let mut master = Self::init_as(built("conf-master"), folder);
        master.daemon.argument("--open");
        master
    }

    /// Has a program make a repository, and serve it at the next start without more flags than these
    /// two.
    pub fn init_as(program: PathBuf, folder: &Path) -> Self {
        let repo = folder.join("central.git");
        let mut init = command(&program, folder);
        init.args(["init", "--repo"]).arg(&repo);
        let output = run(init);
        assert!(output.status.success(), "conf-master init failed:\n{}", text(&output));
        let address = own_address(7400);
        let listen = address.to_string().into();
        let arguments = [OsString::from("serve"), "--listen".into(), listen, "--repo".into(), repo.clone().into()];
        let daemon = Daemon::new("conf-master", program, folder, arguments);
        Master { daemon, repo, proxy: None, address, authority: None, asks: false, home: folder.to_owned() }
    }

    /// Makes a standby of it in a folder, without starting it. The keys are sealed to a recipient on
    /// the way, whose private key is in `identity`.
    #[must_use]
    #[track_caller]
    pub fn standby(&self, folder: &Path, (identity, recipient): (&Path, &str)) -> Self {
        let (keys, repo) = (folder.join("keys.age"), folder.join("central.git"));
        let shown = |path: &Path| path.display().to_string();
        let (own, made, sealed, url) = (shown(&self.repo), shown(&repo), shown(&keys), self.url());
        let export = ["key", "export", "--repo", &own, "--recipient", recipient, "--out", &sealed];
        let from = ["--follow", &url, "--keys", &sealed, "--identity", &shown(identity)];
        for arguments in [&export[..], &[&["init", "--repo", &made], &from[..]].concat()] {
            let done = self.run(arguments);
            assert!(done.status.success(), "{arguments:?}: {}", text(&done));
        }
        if self.asks {
            // The same administrator asks both.
            std::fs::copy(self.token_file(), repo.with_extension("git.token")).expect("the token can be copied");
        }
        let address = own_address(7500);
        let mut arguments = vec![OsString::from("serve"), "--listen".into(), address.to_string().into()];
        let named = [("--repo", repo.clone().into()), ("--follow", url.into()), ("--standby-name", "standby".into())];
        arguments.extend(named.into_iter().flat_map(|(flag, value): (&str, OsString)| [flag.into(), value]));
        if self.asks {
            arguments.extend(["--token-file".into(), self.token_file().into()]);
        } else {
            arguments.push("--open".into());
        }
        let daemon = Daemon::new("standby", built("conf-master"), folder, arguments);
        Master { daemon, repo, proxy: None, address, authority: None, asks: self.asks, home: folder.to_owned() }
    }

    /// Has it ask for tokens from its next start on.
    pub fn ask_for_tokens(&mut self) {
        self.daemon.arguments().retain(|argument| argument != "--open");
        self.asks = true;
    }

    /// Returns the file with the first administrator's token.
    pub fn token_file(&self) -> PathBuf {
        self.repo.with_extension("git.token")
    }

    /// Makes a token at the server's own machine, in a file beside the repository.
    #[track_caller]
    pub fn token(&self, name: &str, flags: &[&str]) -> PathBuf {
        let file = self.home.join(format!("{name}.token"));
        let (repo, out) = (self.repo.display().to_string(), file.display().to_string());
        let arguments = ["token", "add", name, "--repo", &repo, "--out", &out];
        let made = self.run(&[&arguments, flags].concat());
        assert!(made.status.success(), "{}", text(&made));
        file
    }

    /// Has it speak TLS from its next start on.
    pub fn speak_tls(&mut self, authority: &Authority) {
        let pair = authority.pair("conf-master", &format!("IP:{}", self.address.ip()), 30);
        self.daemon.arguments().extend(pair.flags().map(OsString::from));
        self.authority = Some(authority.clone());
    }

    /// Returns its base URL.
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Returns the base URL for hosts: the proxy's, if there is one.
    pub fn public_url(&self) -> String {
        self.proxy.as_ref().map_or_else(|| self.url(), Proxy::url)
    }

    /// Returns the URL for git.
    pub fn git_url(&self) -> String {
        format!("{}/conf.git", self.url())
    }

    /// Returns its address for requests.
    pub fn http(&self) -> Address {
        let address = self.unproven();
        if self.asks { address.with(&token_in(&self.token_file())) } else { address }
    }

    /// Returns its address for requests without a token.
    pub fn unproven(&self) -> Address {
        Address::of(self.address, self.authority.as_ref())
    }

    /// Returns the file with its public key.
    pub fn trusted_key(&self) -> PathBuf {
        self.repo.with_extension("git.key.pub")
    }

    /// Has a repository show a token, as an engineer would.
    pub fn show_token(&self, work: &Work, file: &Path) {
        let helper = format!("!'{}' credential --token-file '{}'", built("conf-master").display(), file.display());
        work.git(&["config", "credential.helper", &helper]);
    }

    /// Requests `GET /api/v1/datacenters/<id>/<version>`.
    pub fn datacenter(&self) -> Result<Value, String> {
        self.http().get_json(&format!("/api/v1/datacenters/{DATACENTER}"))
    }

    /// Returns the sequence of the datacenter's newest snapshot.
    #[track_caller]
    pub fn sequence(&self) -> u64 {
        self.datacenter().expect("conf-master answers")["sequence"].as_u64().expect("a sequence")
    }

    /// Returns the commit of the datacenter's newest snapshot.
    #[track_caller]
    pub fn snapshot(&self) -> String {
        self.datacenter().expect("conf-master answers")["commit"].as_str().expect("a commit").to_owned()
    }

    /// Runs a client command of conf-master.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(self.client(arguments))
    }

    /// Makes a client command of conf-master, which the test runs itself.
    pub fn client(&self, arguments: &[&str]) -> Command {
        let mut client = command(built("conf-master"), &self.home);
        client.args(arguments).env("CONF_MASTER_URL", self.url());
        if self.asks {
            client.env("CONF_MASTER_TOKEN_FILE", self.token_file());
        }
        client.envs(self.authority.iter().map(|authority| ("CONF_MASTER_CA", authority.certificate())));
        client
    }

    /// Runs git in the repository, as an operator on the server would, and expects success.
    #[track_caller]
    pub fn git(&self, arguments: &[&str]) -> String {
        in_repository(&self.repo, arguments)
    }

    /// Expects the entries of the ledger to have every number from the first to the last, but those
    /// that the first change of another epoch skips.
    #[track_caller]
    pub fn expect_unbroken_ledger(&self) {
        let log = self.git(&["log", "--first-parent", "--format=%B%x00", "refs/conf/ledger"]);
        let entries = log.split('\0').map(str::trim).filter(|entry| !entry.is_empty());
        let entries: Vec<&str> = entries.collect();
        let numbers: Vec<u64> = entries.iter().map_while(|entry| sequence_of(entry)).collect();
        let begins = |at: usize| entries[at].lines().any(|line| line == format!("Conf-Continues: {}", numbers[at + 1]));
        let follows = |at: usize| numbers[at] == numbers[at + 1] + 1 || numbers[at] > numbers[at + 1] && begins(at);
        let gap = (0..numbers.len().saturating_sub(1)).find(|at| !follows(*at));
        assert_eq!(gap, None, "one entry for each number, newest first: {numbers:?}");
        assert!(numbers.last().is_none_or(|first| *first <= 1), "the first entries are gone: {numbers:?}");
        // Before the first change there is only the entry of `init`.
        assert!(entries.len() - numbers.len() <= 1, "entries without a number: {:?}", &entries[numbers.len()..]);
    }
}

/// Reads the token in a file.
pub fn token_in(file: &Path) -> String {
    std::fs::read_to_string(file).expect("the file with the token is there").trim().to_owned()
}
