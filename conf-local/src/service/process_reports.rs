//! What processes of this host report: the snapshot that each runs on, and the values that it could
//! not take, so that it keeps the earlier ones.
//!
//! Reports are in memory only: a process reports every minute. The report of a process that has
//! ended is dropped.

use std::collections::BTreeMap;

use conf_core::settings::one_line;
use libconf::name::{ComponentVersion, Sequence};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::process::{Process, ProcessError};

/// 256 processes of one user, so that no user takes all of them.
const MOST_OF_USER: usize = 256;
/// 2,048 processes in all: each is held by a descriptor.
const MOST: usize = 2048;
/// 64 values of one process: more errors do not help.
const MOST_ERRORS: usize = 64;
/// 1,000 characters of one error.
const MOST_WORDS: usize = 1000;
/// 64 characters of a program's name.
const MOST_PROGRAM: usize = 64;

/// The report of a process: the body of `POST /v1/processes`.
#[derive(Debug, Deserialize)]
pub(crate) struct ProcessReport {
    /// The change that it took last.
    sequence: Sequence,
    /// The name that it gives itself.
    program: String,
    /// Values that it could not take.
    #[serde(default)]
    errors: Vec<ValueError>,
}

/// A value that a process could not take. It keeps the earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ValueError {
    component: ComponentVersion,
    /// The change with this value.
    sequence: Sequence,
    /// The reason, which may quote a part of the value.
    error: String,
}

/// One process: an element of `GET /v1/processes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessStatus {
    pub(crate) pid: i32,
    user: u32,
    /// The name that it gives itself.
    pub(crate) program: String,
    /// The change that it took last.
    pub(crate) sequence: Sequence,
    /// The time of its report, RFC 3339, UTC.
    pub(crate) when: String,
    /// Values that it could not take. Only the process's own user and root get the reasons.
    #[serde(default)]
    pub(crate) errors: Vec<ValueError>,
}

impl ProcessStatus {
    /// Describes what a person should look at.
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

/// A reader of the reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// May read all errors.
    All,
    /// May read errors of this user's own processes.
    User(u32),
    /// May read no errors.
    Nobody,
}

impl Reader {
    fn may_read(self, user: u32) -> bool {
        match self {
            Reader::All => true,
            Reader::User(own) => own == user,
            Reader::Nobody => false,
        }
    }
}

/// The reports of all processes that still run.
#[derive(Default)]
pub struct ProcessReports(Mutex<BTreeMap<i32, (Process, ProcessStatus)>>);

/// Why a report is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    /// The process cannot be held, or has ended.
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{most} processes {whose} are held already; one must end first")]
    TooMany { most: usize, whose: &'static str },
}

impl ProcessReports {
    /// Records the report of the process `pid` of `user`, in place of an earlier one.
    pub(crate) fn record(&self, pid: i32, user: u32, report: ProcessReport) -> Result<(), ReportError> {
        let process = Process::open(pid, None, None)?;
        let mut entries = self.0.lock();
        entries.retain(|_, (process, _)| !process.has_ended());
        if !entries.contains_key(&pid) {
            let of_user = entries.values().filter(|(_, status)| status.user == user).count();
            if user != 0 && of_user >= MOST_OF_USER {
                return Err(ReportError::TooMany { most: MOST_OF_USER, whose: "of this user" });
            }
            if entries.len() >= MOST {
                return Err(ReportError::TooMany { most: MOST, whose: "of all users" });
            }
        }
        let errors = report.errors.into_iter().take(MOST_ERRORS);
        let status = ProcessStatus {
            pid,
            user,
            program: plain(&report.program, MOST_PROGRAM),
            sequence: report.sequence,
            when: jiff::Timestamp::now().to_string(),
            errors: errors.map(|one| ValueError { error: plain(&one.error, MOST_WORDS), ..one }).collect(),
        };
        entries.insert(pid, (process, status));
        Ok(())
    }

    /// Returns all processes that still run, by number.
    pub(crate) fn status(&self, reader: Reader) -> Vec<ProcessStatus> {
        let mut entries = self.0.lock();
        entries.retain(|_, (process, _)| !process.has_ended());
        let mut statuses: Vec<ProcessStatus> = entries.values().map(|(_, status)| status.clone()).collect();
        drop(entries);
        for status in statuses.iter_mut().filter(|status| !reader.may_read(status.user)) {
            for one in &mut status.errors {
                "it does not fit; only root and the user of the process get the reason".clone_into(&mut one.error);
            }
        }
        statuses
    }
}

/// Shortens untrusted text and replaces its control characters.
fn plain(text: &str, most: usize) -> String {
    one_line(&text.chars().take(most).collect::<String>())
}
