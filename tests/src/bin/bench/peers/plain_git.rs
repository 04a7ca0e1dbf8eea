//! A plain Git server: `git http-backend`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tests::{Daemon, own_address, program::built, site::in_repository};

/// A folder of bare repositories, served.
pub(crate) struct PlainGit {
    pub(crate) daemon: Daemon,
    folder: PathBuf,
    url: String,
}

impl PlainGit {
    /// Serves an empty folder.
    pub(crate) fn start(home: &Path) -> Self {
        let folder = home.join("plain-git");
        fs::create_dir_all(&folder).expect("the folder can be made");
        let address = own_address(7600);
        let arguments = ["plain-git".into(), folder.clone().into_os_string(), address.to_string().into()];
        let mut daemon = Daemon::new("plain-git-server", built("bench"), home, arguments);
        daemon.start();
        PlainGit { daemon, folder, url: format!("http://{address}") }
    }

    /// Makes an empty repository that takes pushes.
    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        let repo = self.folder.join(name);
        fs::create_dir_all(&repo).expect("the folder can be made");
        in_repository(&repo, &["init", "-q", "--bare", "-b", "master"]);
        in_repository(&repo, &["config", "http.receivepack", "true"]);
        repo
    }

    /// Makes a repository with all branches of another one, its refs packed.
    pub(crate) fn copy_of(&self, other: &Path, name: &str) -> PathBuf {
        let repo = self.repository(name);
        let other = other.display().to_string();
        in_repository(&repo, &["fetch", "-q", &other, "+refs/heads/*:refs/heads/*"]);
        in_repository(&repo, &["pack-refs", "--all"]);
        repo
    }

    /// Returns the URL of a repository.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }
}
