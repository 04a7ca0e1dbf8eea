//! An engineer with a clone of one branch.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tests::program::{run, text};

/// A clone of one branch, with a working tree.
#[derive(Debug)]
pub(crate) struct Pusher {
    folder: PathBuf,
    branch: String,
}

impl Pusher {
    /// Clones one branch of a repository, and nothing else of it.
    pub(crate) fn clone_of(url: &str, branch: &str, folder: &Path) -> Self {
        let pusher = Pusher { folder: folder.to_owned(), branch: branch.to_owned() };
        fs::create_dir_all(folder).expect("the folder can be made");
        pusher.git(&["clone", "-q", "--single-branch", "--no-tags", "--branch", branch, url, "."]);
        // No housekeeping in the middle of a measurement.
        pusher.git(&["config", "gc.auto", "0"]);
        pusher.git(&["config", "maintenance.auto", "false"]);
        pusher
    }

    /// Commits one changed file.
    pub(crate) fn commit(&self, path: &str, content: &str) {
        fs::write(self.folder.join(path), content).expect("the working tree can be written");
        self.git(&["commit", "-q", "-a", "-m", "change one file"]);
    }

    /// Starts `git push`, and tells when.
    pub(crate) fn start(&self) -> (Instant, Child) {
        let refspec = format!("HEAD:refs/heads/{}", self.branch);
        let mut push = self.command(&["push", "-q", "origin", &refspec]);
        push.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let began = Instant::now();
        (began, push.spawn().expect("git can be started"))
    }

    /// Pushes, and returns the time that it took.
    pub(crate) fn push(&self) -> Duration {
        let (began, child) = self.start();
        end(child);
        began.elapsed()
    }

    fn git(&self, arguments: &[&str]) {
        let output = run(self.command(arguments));
        assert!(output.status.success(), "git {arguments:?}:\n{}", text(&output));
    }

    /// Git in a clean environment, started without any program in between.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut git = Command::new("git");
        git.current_dir(&self.folder).args(arguments);
        git.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
        for role in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{role}_NAME"), "Erin Engineer").env(format!("GIT_{role}_EMAIL"), "erin@example.com");
        }
        git
    }
}

/// Waits for a push to end, and expects success.
pub(crate) fn end(push: Child) {
    let output = push.wait_with_output().expect("it is our child");
    assert!(output.status.success(), "git push:\n{}", text(&output));
}
