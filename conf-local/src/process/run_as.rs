//! Users of this host, as whom commands run and files are read.

use std::{ffi::CString, fmt, io, thread};

use conf_core::privileges;
use nix::unistd::{self, Gid, Uid, User};
use rustix::thread::CapabilitySet;
use serde::Deserialize;

/// The name of a user of this host: `user:` in the agent's file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct RunAs(String);

impl TryFrom<String> for RunAs {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let is_good = |letter: char| letter.is_ascii_graphic() && !matches!(letter, ':' | '/');
        if name.is_empty() || name.starts_with('-') || name.len() > 256 || !name.chars().all(is_good) {
            return Err(format!("user {:?} is not the name of a user", name.chars().take(40).collect::<String>()));
        }
        Ok(RunAs(name))
    }
}

impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the system knows of a user.
#[derive(Debug)]
pub(crate) struct Account {
    user: User,
    groups: Vec<Gid>,
}

/// True if this process may become any user.
pub(crate) fn is_root() -> bool {
    unistd::geteuid().is_root()
}

impl RunAs {
    /// Looks the user up. Blocks, where the system asks a directory.
    pub(crate) fn account(&self) -> io::Result<Account> {
        let none = || io::Error::new(io::ErrorKind::NotFound, format!("this host has no user {self}"));
        let user = User::from_name(&self.0)?.ok_or_else(none)?;
        let groups = unistd::getgrouplist(&CString::new(self.0.as_str())?, user.gid)?;
        Ok(Account { user, groups })
    }

    /// True if this process has the user already.
    pub(crate) fn is_own(&self) -> bool {
        self.account().is_ok_and(|account| account.is_current())
    }

    /// Reads or writes files as the user, in a thread of its own: other threads stay what they are.
    ///
    /// For everything but files the thread stays this process's user. With the real or the
    /// effective number it would be the user's process, and whoever may signal or bound one thread
    /// of a process may do so to all of it.
    pub(crate) fn act<T: Send>(&self, act: impl FnOnce() -> T + Send) -> io::Result<T> {
        let account = self.account()?;
        thread::scope(|scope| {
            let acted = scope.spawn(|| {
                account.become_in_thread()?;
                Ok(act())
            });
            acted.join().unwrap_or_else(|_| Err(io::Error::other("the thread ended badly")))
        })
    }
}

impl Account {
    /// True if this process has the user already.
    fn is_current(&self) -> bool {
        unistd::getuid() == self.user.uid && unistd::geteuid() == self.user.uid
    }

    /// Gives this thread the user's rights to files, for good, and no capability.
    fn become_in_thread(&self) -> io::Result<()> {
        if self.is_current() {
            return Ok(());
        }
        let (uid, gid) = (self.user.uid, self.user.gid);
        let groups = self.groups.iter().map(|one| rustix::thread::Gid::from_raw(one.as_raw()));
        rustix::thread::set_thread_groups(&groups.collect::<Vec<_>>())?;
        // They tell the number before, and nothing of a failure: asked again, they tell what is.
        unistd::setfsgid(gid);
        unistd::setfsuid(uid);
        if (unistd::setfsuid(uid), unistd::setfsgid(gid)) != (uid, gid) {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        privileges::keep(CapabilitySet::empty())
    }

    /// Gives this process the user's ids, for good, and no capability of another one.
    pub(crate) fn become_in_process(&self) -> io::Result<()> {
        if self.is_current() {
            return Ok(());
        }
        let (uid, gid): (Uid, Gid) = (self.user.uid, self.user.gid);
        unistd::setgroups(&self.groups)?;
        unistd::setresgid(gid, gid, gid)?;
        unistd::setresuid(uid, uid, uid)?;
        Ok(())
    }

    /// The variables of the user's environment.
    pub(crate) fn variables(&self) -> [(&'static str, std::ffi::OsString); 3] {
        let name = || self.user.name.clone().into();
        [("HOME", self.user.dir.clone().into()), ("USER", name()), ("LOGNAME", name())]
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_thread_of_another_user_reads_what_that_user_may_and_the_others_stay() {
        for bad in ["", "-", "-r", "a b", "a:b", "../a"] {
            assert!(RunAs::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        let nobody = RunAs::try_from("nobody".to_owned()).unwrap();
        let none = RunAs::try_from("no-such-user".to_owned()).unwrap().act(|| ()).unwrap_err();
        assert_eq!(none.to_string(), "this host has no user no-such-user");
        if !is_root() {
            nobody.act(|| ()).unwrap_err();
            return;
        }
        let line = |name: &str| {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
        };
        let own = (line("Uid:"), line("CapEff:"));
        let (uid, capabilities, secret) =
            nobody.act(|| (line("Uid:"), line("CapEff:"), fs::read("/etc/shadow").map(drop))).unwrap();
        // To files alone: nobody may signal or bound this thread, and so not this process.
        assert_eq!((uid.as_str(), capabilities.as_str()), ("0\t0\t0\t65534", "0000000000000000"));
        assert_eq!(secret.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!((line("Uid:"), line("CapEff:")), own);
    }
}
