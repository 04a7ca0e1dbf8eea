//! The engineers: they commit and push with the real git, without the user's own configuration of
//! it.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail, ensure};
use poc::tether;
use tokio::process::Command;

/// A change by an engineer: new content of some branches, in one push.
#[derive(Debug)]
pub(crate) struct Change {
    /// Its author.
    pub author: &'static str,
    /// The subject of its commits.
    pub subject: String,
    /// The files of each branch.
    pub edits: BTreeMap<String, BTreeMap<&'static str, String>>,
}

impl Change {
    /// Begins a change without edits.
    pub(crate) fn new(author: &'static str, subject: impl Into<String>) -> Self {
        Change { author, subject: subject.into(), edits: BTreeMap::new() }
    }

    /// Adds a file of a branch. The branch's other files are removed.
    #[must_use]
    pub(crate) fn edit(mut self, branch: impl Into<String>, file: &'static str, text: impl Into<String>) -> Self {
        self.edits.entry(branch.into()).or_default().insert(file, text.into());
        self
    }
}

/// A way to make a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By `git push`.
    Push,
    /// By `conf-master update`, which asks the API.
    Api,
    /// By `conf-master secret rotate`.
    Rotation,
}

/// The outcome of a push, an update or a rotation.
#[derive(Debug)]
pub(crate) struct Push {
    /// The way it was made.
    pub way: Way,
    /// The time when the command started.
    pub began: SystemTime,
    /// The time when the command ended.
    pub ended: SystemTime,
    /// True if everything landed.
    pub accepted: bool,
    /// The output of the command.
    pub output: String,
}

/// The engineers' clone.
pub(crate) struct Engineers {
    repo: PathBuf,
    url: String,
    token: String,
    /// Whom Git trusts over TLS.
    authority: Option<PathBuf>,
}

impl Engineers {
    /// Makes an empty clone in `repo`, of the repository at `url`, which a token opens.
    pub(crate) async fn new(repo: PathBuf, url: String, token: String, authority: Option<PathBuf>) -> Result<Self> {
        fs::create_dir(&repo)?;
        let engineers = Engineers { repo, url, token, authority };
        engineers.git("nobody", &["init", "--quiet", "--bare", "--initial-branch=main"], None).await?;
        Ok(engineers)
    }

    /// Commits the change to each of its branches.
    pub(crate) async fn commit(&self, change: &Change) -> Result<()> {
        for (branch, files) in &change.edits {
            let reference = format!("refs/heads/{branch}");
            let mut tree = Vec::new();
            for (name, text) in files {
                let blob = self.git(change.author, &["hash-object", "-w", "--stdin"], Some(text)).await?;
                tree.push(format!("100644 blob {}\t{name}\n", blob.trim()));
            }
            let tree = self.git(change.author, &["mktree"], Some(&tree.concat())).await?;
            let parent = self.git(change.author, &["for-each-ref", "--format=%(objectname)", &reference], None).await?;
            let mut arguments = vec!["commit-tree", "-m", change.subject.as_str(), tree.trim()];
            if !parent.trim().is_empty() {
                arguments.extend(["-p", parent.trim()]);
            }
            let commit = self.git(change.author, &arguments, None).await?;
            self.git(change.author, &["update-ref", &reference, commit.trim()], None).await?;
        }
        Ok(())
    }

    /// Commits and pushes. Before that it fetches, which also takes back earlier commits that were
    /// refused.
    pub(crate) async fn push(&self, change: &Change) -> Result<Push> {
        // The reader of this demonstration pushes as well.
        let update = ["fetch", "--quiet", &self.url, "+refs/heads/*:refs/heads/*"];
        self.git(change.author, &update, None).await?;
        self.commit(change).await?;
        let mut command = self.command(change.author);
        command.args(["push", "--atomic", &self.url]);
        command.args(change.edits.keys().map(|branch| format!("refs/heads/{branch}")));
        let mut command = Command::from(command);
        let began = SystemTime::now();
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("cannot run git")?;
        let ended = SystemTime::now();
        let accepted = output.status.success();
        let output = String::from_utf8_lossy(&output.stderr).into_owned();
        if !accepted && !output.contains("[remote rejected]") {
            bail!("git push failed:\n{output}");
        }
        Ok(Push { way: Way::Push, began, ended, accepted, output })
    }

    /// Makes a clone for the reader, which needs none of the reader's own configuration. Git asks
    /// `helper` for the token.
    pub(crate) async fn clone_for_reader(&self, path: &Path, helper: &str) -> Result<()> {
        let path = path.to_str().context("the directory's name is not UTF-8")?;
        self.git("nobody", &["clone", "--quiet", &self.url, path], None).await?;
        let trusted = self.authority.as_ref().and_then(|path| path.to_str()).map(|path| ("http.sslCAInfo", path));
        let usual = [
            ("user.name", "you"),
            ("user.email", "you@example.com"),
            ("commit.gpgSign", "false"),
            ("core.hooksPath", "/dev/null"),
            ("http.proxy", ""),
            ("credential.helper", helper),
            ("push.default", "upstream"),
            ("push.gpgSign", "false"),
        ];
        for (key, value) in usual.into_iter().chain(trusted) {
            self.git("nobody", &["-C", path, "config", key, value], None).await?;
        }
        Ok(())
    }

    async fn git(&self, author: &str, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let mut command = self.command(author);
        if arguments.first().is_some_and(|first| matches!(*first, "clone" | "-C")) {
            command.env_remove("GIT_DIR");
        }
        command.args(arguments);
        let mut stdin = Stdio::null();
        if let Some(text) = input {
            let mut file = tempfile::tempfile()?;
            file.write_all(text.as_bytes())?;
            std::io::Seek::rewind(&mut file)?;
            stdin = file.into();
        }
        let output = Command::from(command).stdin(stdin).kill_on_drop(true).output().await.context("cannot run git")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "git {} failed: {}", arguments.join(" "), error.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Makes a git command without the user's configuration (signatures, hooks, names, proxies) and
    /// variables.
    fn command(&self, author: &str) -> std::process::Command {
        let mut command = tether::command("git");
        let email = format!("{author}@example.com");
        command
            .args(["-c", "http.proxy=", "-c", "core.hooksPath=/dev/null"])
            .env("GIT_DIR", &self.repo)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C")
            // Not on the command line, which every user of this machine can read.
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "http.extraHeader")
            .env("GIT_CONFIG_VALUE_0", format!("Authorization: Bearer {}", self.token))
            .env("GIT_AUTHOR_NAME", author)
            .env("GIT_AUTHOR_EMAIL", &email)
            .env("GIT_COMMITTER_NAME", author)
            .env("GIT_COMMITTER_EMAIL", email);
        if let Some(authority) = &self.authority {
            command.env("GIT_SSL_CAINFO", authority);
        }
        command
    }
}
