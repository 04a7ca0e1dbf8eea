//! What processes of this host really run on, as they say themselves: which snapshot each has taken, and which values it
//! could not take and keeps as they were.
//!
//! Held in memory only: a process says it again every minute. One that has ended is forgotten.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use libconf::name::{ComponentVersion, Sequence};
use serde::{Deserialize, Serialize};

use crate::process::handle::{Process, ProcessError};

/// Processes of one user.
const MOST_OF_USER: usize = 256;
/// Processes in all: each is held by a descriptor.
const MOST: usize = 2048;
/// Values that one process could not take.
const MOST_ERRORS: usize = 64;
/// Words are cut to so many characters.
const MOST_WORDS: usize = 1000;
const MOST_PROGRAM: usize = 64;

/// What a process says: the body of `POST /v1/processes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The snapshot that it took last.
    pub sequence: Sequence,
    /// What it calls itself.
    pub program: String,
    /// What it could not take.
    #[serde(default)]
    pub errors: Vec<ValueError>,
}

/// A value that a process could not take; it keeps the one of before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueError {
    /// Whose value.
    pub component: ComponentVersion,
    /// In which snapshot.
    pub sequence: Sequence,
    /// Why not, in words: perhaps with a piece of the value in it.
    pub error: String,
}

/// One process: an entry of `GET /v1/processes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its number.
    pub pid: i32,
    /// Its user.
    pub user: u32,
    /// What it calls itself.
    pub program: String,
    /// The snapshot that it took last.
    pub sequence: Sequence,
    /// When it said so, RFC 3339, UTC.
    pub when: String,
    /// What it could not take; the words are left out for readers of other users than its own and root.
    #[serde(default)]
    pub errors: Vec<ValueError>,
}

impl ProcessStatus {
    /// What somebody should look at.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        self.errors.iter().map(|one| {
            let ValueError { component, sequence, error } = one;
            format!(
                "{} ({}) keeps an older value of {component}, not that of change {sequence}: {error}",
                self.program, self.pid
            )
        })
    }
}

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Sees the words of all.
    All,
    /// Sees the words of this user's own.
    User(u32),
    /// Sees no words.
    Nobody,
}

impl Reader {
    fn sees(self, user: u32) -> bool {
        match self {
            Reader::All => true,
            Reader::User(own) => own == user,
            Reader::Nobody => false,
        }
    }
}

/// The processes that have said something and still run.
#[derive(Debug, Default)]
pub struct Processes(Mutex<BTreeMap<i32, Entry>>);

#[derive(Debug)]
struct Entry {
    process: Process,
    status: ProcessStatus,
}

/// Why what a process says is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SayError {
    /// The kernel does not say which process it is, or it has ended.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// There are too many.
    #[error("{most} processes {whose} are held already; one must end first")]
    TooMany {
        /// How many.
        most: usize,
        /// Whose.
        whose: &'static str,
    },
}

impl Processes {
    /// Takes what the process `pid` of `user` says; it replaces what it said before.
    pub(crate) fn say(&self, pid: i32, user: u32, said: Said) -> Result<(), SayError> {
        let process = Process::open(pid, None, None)?;
        let mut entries = self.lock();
        entries.retain(|_, entry| !entry.process.has_ended());
        if !entries.contains_key(&pid) {
            let of_user = entries.values().filter(|entry| entry.status.user == user).count();
            if user != 0 && of_user >= MOST_OF_USER {
                return Err(SayError::TooMany { most: MOST_OF_USER, whose: "of this user" });
            }
            if entries.len() >= MOST {
                return Err(SayError::TooMany { most: MOST, whose: "of all users" });
            }
        }
        let errors = said.errors.into_iter().take(MOST_ERRORS);
        let status = ProcessStatus {
            pid,
            user,
            program: plain(&said.program, MOST_PROGRAM),
            sequence: said.sequence,
            when: jiff::Timestamp::now().to_string(),
            errors: errors.map(|one| ValueError { error: plain(&one.error, MOST_WORDS), ..one }).collect(),
        };
        entries.insert(pid, Entry { process, status });
        Ok(())
    }

    /// All that still run, by number.
    pub fn status(&self, reader: Reader) -> Vec<ProcessStatus> {
        let mut entries = self.lock();
        entries.retain(|_, entry| !entry.process.has_ended());
        let mut statuses: Vec<ProcessStatus> = entries.values().map(|entry| entry.status.clone()).collect();
        drop(entries);
        for status in statuses.iter_mut().filter(|status| !reader.sees(status.user)) {
            for one in &mut status.errors {
                "it does not fit; ask as root, or as the user of the process, why".clone_into(&mut one.error);
            }
        }
        statuses
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Text of strangers, for a table.
fn plain(text: &str, most: usize) -> String {
    text.chars().take(most).map(|one| if one.is_control() { ' ' } else { one }).collect()
}
