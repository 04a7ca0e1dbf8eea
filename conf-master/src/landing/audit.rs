//! Audit records: every refused request, one JSON object for each line, in the repository's folder.
//!
//! `refused.jsonl` is appended to and synced before anyone is answered. A full file becomes
//! `refused.jsonl.1`, that one `.2`, and the old `.3` is deleted. Changes that land are in the
//! ledger, not here; dry runs are in neither.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use libconf::name::{DatacenterName, RefName};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, Refusal};
use crate::landing::push::{Outcome, Push};
use crate::text::{now, when};

/// The size in bytes at which a file is full.
const FILE_BYTES: u64 = 8 << 20;
/// How many full files are kept.
const KEPT: usize = 3;
/// The most refs of one request that are recorded, and the most faults of one ref; more are
/// counted.
const MOST: usize = 50;
/// The longest reason, in characters.
const REASON_CHARS: usize = 2000;

/// One refused request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The time, RFC 3339, UTC.
    pub(crate) when: String,
    /// The id of the request, as the log shows it.
    pub(crate) request: String,
    /// The name, where one was proven.
    pub(crate) by: Option<String>,
    /// The way in: `http <address>`, `path`, `ssh`.
    pub(crate) through: String,
    /// The refused refs, and why.
    pub(crate) refused: Vec<RefusedRef>,
    /// How many more refs of the same request were refused.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) more: usize,
}

/// One ref that did not land.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedRef {
    /// The ref, as the request named it.
    #[serde(rename = "ref")]
    pub(crate) name: String,
    /// The object that it should have held; all zero to delete it.
    pub(crate) new: String,
    /// The reason.
    #[serde(flatten)]
    pub(crate) refusal: Refusal,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Record {
    /// Makes the record of a request; `None` when nothing was refused, or for a dry run.
    pub(crate) fn of(push: &Push, outcome: &Outcome) -> Option<Self> {
        if push.options.dry_run {
            return None;
        }
        let refused = push.updates.iter().zip(&outcome.refusals);
        let mut refused = refused.filter_map(|(update, refusal)| Some((update, refusal.as_ref()?))).peekable();
        refused.peek()?;
        let recorded = refused.by_ref().take(MOST).map(|(update, refusal)| RefusedRef {
            name: shortened(&update.name),
            new: update.new.to_string(),
            refusal: bounded(refusal),
        });
        let recorded = recorded.collect();
        Some(Record {
            when: when(now()),
            request: push.request.clone(),
            by: push.pusher.by.clone(),
            through: push.pusher.through.clone(),
            refused: recorded,
            more: refused.count(),
        })
    }

    /// Tells whether the request was about a datacenter: its branch, or a fault in it.
    pub(crate) fn concerns(&self, datacenter: &DatacenterName) -> bool {
        let branch = RefName::Datacenter(datacenter.clone()).to_string();
        self.refused.iter().any(|one| {
            let mut faults = one.refusal.faults.iter();
            one.name == branch || faults.any(|fault| fault.datacenter.as_ref() == Some(datacenter))
        })
    }
}

fn bounded(refusal: &Refusal) -> Refusal {
    let mut faults: Vec<Fault> = refusal.faults.iter().take(MOST).cloned().collect();
    faults.iter_mut().for_each(|fault| fault.reason = shortened(&fault.reason));
    if let more @ 1.. = refusal.faults.len().saturating_sub(MOST) {
        faults.push(Fault::new(format!("and {more} more faults")));
    }
    Refusal { kind: refusal.kind, reason: shortened(&refusal.reason), faults }
}

fn shortened(text: &str) -> String {
    text.chars().take(REASON_CHARS).collect()
}

/// The records on disk.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    /// The file that is appended to.
    file: Mutex<File>,
    full_bytes: u64,
}

impl Audit {
    /// Opens the records of a repository, and makes the file when it is missing.
    pub(crate) fn open(repo: &Path) -> io::Result<Self> {
        Self::open_with(repo, FILE_BYTES)
    }

    fn open_with(repo: &Path, full_bytes: u64) -> io::Result<Self> {
        let path = repo.join("refused.jsonl");
        let file = Mutex::new(open(&path)?);
        Ok(Audit { path, file, full_bytes })
    }

    /// Appends records with one write and one sync; when it returns they are durable.
    pub(crate) fn append(&self, records: &[Record]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for record in records {
            serde_json::to_writer(&mut lines, record)?;
            lines.push(b'\n');
        }
        let mut file = self.file.lock();
        if file.metadata()?.len() >= self.full_bytes {
            self.put_aside()?;
            *file = open(&self.path)?;
        }
        file.write_all(&lines)?;
        file.sync_data()
    }

    /// Makes room for a new file. A crash in between loses at most the oldest file.
    fn put_aside(&self) -> io::Result<()> {
        for number in (0..KEPT).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn numbered(&self, number: usize) -> PathBuf {
        if number == 0 { self.path.clone() } else { self.path.with_extension(format!("jsonl.{number}")) }
    }

    /// Returns the newest records that `wanted` accepts, newest first, at most `limit`. A line that
    /// a crash cut short is skipped.
    pub(crate) fn newest(&self, limit: usize, wanted: impl Fn(&Record) -> bool) -> io::Result<Vec<Record>> {
        let mut found = Vec::new();
        for number in 0..=KEPT {
            let mut bytes = Vec::new();
            {
                // The lock keeps files from being renamed between two reads.
                let _held = self.file.lock();
                match File::open(self.numbered(number)) {
                    Ok(mut file) => file.read_to_end(&mut bytes)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) => return Err(error),
                };
            }
            let lines = bytes.split(|byte| *byte == b'\n').rev();
            let records = lines.filter_map(|line| serde_json::from_slice::<Record>(line).ok());
            found.extend(records.filter(&wanted).take(limit - found.len()));
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }
}

/// Opens a file for appending; a last line that a crash cut short is ended, so that the next one is
/// a line of its own.
fn open(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: usize) -> Record {
        Record {
            when: "2026-01-01T00:00:00Z".to_owned(),
            request: number.to_string(),
            by: None,
            through: "path".to_owned(),
            refused: vec![RefusedRef {
                name: "refs/heads/services/web/master".to_owned(),
                new: "0".repeat(40),
                refusal: Refusal::of(vec![Fault::new("no")]),
            }],
            more: 0,
        }
    }

    fn requests(audit: &Audit, limit: usize) -> Vec<String> {
        audit.newest(limit, |_| true).unwrap().into_iter().map(|record| record.request).collect()
    }

    #[test]
    fn records_come_newest_first_and_survive_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        audit.append(&[record(1), record(2)]).unwrap();
        assert_eq!(requests(&audit, 10), ["2", "1"]);
        assert_eq!(requests(&audit, 1), ["2"]);
        let torn = OpenOptions::new().append(true).open(folder.path().join("refused.jsonl"));
        torn.unwrap().write_all(b"{\"when\": \"2026").unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        audit.append(&[record(3)]).unwrap();
        assert_eq!(requests(&audit, 10), ["3", "2", "1"]);
        assert_eq!(audit.newest(10, |one| one.request == "1").unwrap(), [record(1)]);
    }

    #[test]
    fn full_files_are_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open_with(folder.path(), 1).unwrap();
        for number in 1..=6 {
            audit.append(&[record(number)]).unwrap();
        }
        assert_eq!(requests(&audit, 10), ["6", "5", "4", "3"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), KEPT + 1);
        assert_eq!(requests(&audit, 2), ["6", "5"]);
    }

    #[test]
    fn a_record_knows_the_datacenter_that_it_concerns() {
        let mut one = record(1);
        let (west, east) = ("us-west/v1".parse().unwrap(), "us-east/v1".parse().unwrap());
        assert!(!one.concerns(&west));
        one.refused[0].refusal.faults[0].datacenter = Some("us-west/v1".parse().unwrap());
        assert!(one.concerns(&west) && !one.concerns(&east));
        one.refused[0].name = "refs/heads/datacenters/us-east/v1".to_owned();
        assert!(one.concerns(&east));
    }
}
