//! Audit records: refused requests, one JSON object for each line, in the repository's folder.
//!
//! `refused.jsonl` is appended to and synced before anyone is answered. A full file becomes
//! `refused.jsonl.1`, that one `.2`, and the old `.3` is deleted. What is like an earlier record,
//! or is more than one pusher has room for, is counted: a line names the record and the count.
//! Changes that land are in the ledger, not here; dry runs are in neither.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use conf_core::access::TokenId;
use conf_core::audit::{Asked, Fate, Repeats, RollingFile, Rooms};
use conf_core::http::Who;
use libconf::name::{CommitId, DatacenterName, RefName};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, Refusal};
use crate::landing::push::{Outcome, Push};
use crate::text::{now, when};

/// The size in bytes at which a file is full.
const FILE_BYTES: u64 = 8 << 20;
/// How many full files are kept.
const KEPT: usize = 3;
/// How much is written of one pusher and of all: all files hold a week of it.
const ROOMS: Rooms = Rooms { each: 128 << 10, all: 4 << 20 };
/// The most refs of one request that are recorded, and the most faults of one ref; more are
/// counted.
const MOST: usize = 50;
/// The longest reason, in characters.
const REASON_CHARS: usize = 2000;
/// The most bytes of a record.
const RECORD_BYTES: usize = 16 << 10;

/// One refused request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The time, RFC 3339, UTC.
    pub(crate) when: String,
    /// The id of the request, as the log shows it.
    pub(crate) request: String,
    /// The name, where one was proven.
    pub(crate) by: Option<String>,
    /// The token that proved it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<TokenId>,
    /// The commit of the policy that the request was held against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<CommitId>,
    /// The way in: `http <address>`, `path`, `ssh`.
    pub(crate) through: String,
    /// The refused refs, and why.
    pub(crate) refused: Vec<RefusedRef>,
    /// How many more refs of the same request were refused.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) more: usize,
    /// How many later requests of the same pusher are like it, or had no room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) again: Option<u64>,
    /// The time of the last of these that is written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<String>,
}

/// A line that counts requests which have no record of their own.
#[derive(Serialize, Deserialize)]
struct Counted {
    when: String,
    by: Option<String>,
    through: String,
    /// The request with the record.
    like: String,
    /// How many more there are, up to this line.
    again: u64,
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
        let mut record = Record {
            when: when(now()),
            request: push.request.clone(),
            by: push.pusher.by(),
            token: push.pusher.token(),
            policy: outcome.policy,
            through: push.pusher.through.clone(),
            refused: recorded,
            more: refused.count(),
            again: None,
            last: None,
        };
        record.shorten();
        Some(record)
    }

    /// Cuts what is too long, from its end.
    fn shorten(&mut self) {
        let size = |record: &Record| serde_json::to_vec(record).map_or(0, |text| text.len());
        while size(self) > RECORD_BYTES {
            let faults = |one: &RefusedRef| one.refusal.faults.len();
            let most = self.refused.iter().map(faults).max().unwrap_or_default();
            let half = self.refused.len() / 2;
            if most > 1 {
                self.refused.iter_mut().for_each(|one| one.refusal.faults.truncate(most / 2));
            } else if half > 0 {
                self.more += self.refused.len() - half;
                self.refused.truncate(half);
            } else {
                return;
            }
        }
    }

    /// Returns what decides whether it is written: who, which request, and what those have in
    /// common that are like it, the refs and why.
    fn asked(&self) -> Asked<'_> {
        let mut hasher = DefaultHasher::new();
        for one in &self.refused {
            (&one.name, &one.refusal.reason).hash(&mut hasher);
        }
        self.more.hash(&mut hasher);
        Asked { pusher: self.pusher(), request: &self.request, kind: hasher.finish() }
    }

    /// Names who is refused: by the proven name, else by the way in. Whoever has one IPv6 address
    /// has all of its network.
    fn pusher(&self) -> String {
        if let Some(by) = &self.by {
            return format!("{by} {}", self.through);
        }
        let address = self.through.strip_prefix("http ").and_then(|address| address.parse::<IpAddr>().ok());
        address.map_or_else(|| self.through.clone(), |address| format!("http {}", Who::from(address)))
    }

    /// A record of no ref.
    #[cfg(test)]
    pub(crate) fn empty(request: &str) -> Self {
        Record {
            when: "2026-01-01T00:00:00Z".to_owned(),
            request: request.to_owned(),
            by: None,
            token: None,
            policy: None,
            through: "path".to_owned(),
            refused: Vec::new(),
            more: 0,
            again: None,
            last: None,
        }
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
    /// The file that is appended to, and what decides what is.
    file: Mutex<(RollingFile, Repeats)>,
}

impl Audit {
    /// Opens the records of a repository, and makes the file when it is missing.
    pub(crate) fn open(repo: &Path) -> io::Result<Self> {
        Self::open_with(repo, FILE_BYTES)
    }

    fn open_with(repo: &Path, full_bytes: u64) -> io::Result<Self> {
        let file = RollingFile::open(&repo.join("refused.jsonl"), full_bytes, KEPT)?;
        Ok(Audit { file: Mutex::new((file, Repeats::new(ROOMS, Instant::now()))) })
    }

    /// Appends records with one write and one sync; when it returns they are durable, or counted.
    pub(crate) fn append(&self, records: &[Record]) -> io::Result<()> {
        let mut lines = Vec::new();
        let mut held = self.file.lock();
        let (file, repeats) = &mut *held;
        for record in records {
            let mut line = serde_json::to_vec(record)?;
            match repeats.decide(record.asked(), line.len() as u64 + 1, Instant::now()) {
                Fate::Write => {}
                Fate::Count { like, again } if again.is_power_of_two() => {
                    let (when, by, through) = (record.when.clone(), record.by.clone(), record.through.clone());
                    line = serde_json::to_vec(&Counted { when, by, through, like, again })?;
                }
                Fate::Count { .. } | Fate::Drop => continue,
            }
            lines.extend(line);
            lines.push(b'\n');
        }
        write(file, &lines)
    }

    /// Appends records that another conf-master has made, and counted where there were many.
    pub(crate) fn keep(&self, records: impl IntoIterator<Item = Record>) -> io::Result<()> {
        let mut lines = Vec::new();
        for mut record in records {
            record.shorten();
            serde_json::to_writer(&mut lines, &record)?;
            lines.push(b'\n');
        }
        write(&mut self.file.lock().0, &lines)
    }

    /// Returns the newest records that `wanted` accepts, newest first, at most `limit`. A line that
    /// a crash cut short is skipped.
    pub(crate) fn newest(&self, limit: usize, wanted: impl Fn(&Record) -> bool) -> io::Result<Vec<Record>> {
        let mut found = Vec::new();
        // A count stands after the record that it is of, and the newest counts.
        let mut counts: BTreeMap<String, Counted> = BTreeMap::new();
        let mut read = |line: &[u8]| {
            if let Ok(counted) = serde_json::from_slice::<Counted>(line) {
                counts.entry(counted.like.clone()).or_insert(counted);
                return None;
            }
            let mut record = serde_json::from_slice::<Record>(line).ok()?;
            if let Some(counted) = counts.remove(&record.request) {
                (record.again, record.last) = (Some(counted.again), Some(counted.when));
            }
            Some(record)
        };
        let paths = self.file.lock().0.paths();
        for path in paths {
            let bytes = {
                // The lock keeps files from being renamed between two reads.
                let _held = self.file.lock();
                match std::fs::read(path) {
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) => return Err(error),
                }
            };
            let lines = bytes.split(|byte| *byte == b'\n').rev();
            let records = lines.filter_map(&mut read);
            found.extend(records.filter(&wanted).take(limit - found.len()));
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }
}

/// Appends lines with one write and one sync, if there are any.
fn write(file: &mut RollingFile, lines: &[u8]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    file.append(lines)?;
    file.sync()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;

    use super::*;

    fn record(number: usize) -> Record {
        let refused = RefusedRef {
            name: "refs/heads/services/web/master".to_owned(),
            new: "0".repeat(40),
            refusal: Refusal::of(vec![Fault::new(format!("no {number}"))]),
        };
        Record { refused: vec![refused], ..Record::empty(&number.to_string()) }
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
    fn a_pusher_who_is_refused_again_and_again_drives_no_record_out() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        let other = Record { through: "http 10.0.0.1".to_owned(), ..record(0) };
        audit.append(std::slice::from_ref(&other)).unwrap();
        let words = "x".repeat(REASON_CHARS / 2);
        for number in 1..=20_000 {
            // No two of them are alike.
            let mut one = record(number);
            one.refused[0].refusal.reason = format!("no {number} {words}");
            audit.append(&[one]).unwrap();
        }
        let files: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
        let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
        assert!(bytes < 1 << 20, "{bytes}");
        let records = audit.newest(usize::MAX, |_| true).unwrap();
        assert_eq!(records.last(), Some(&other), "what was there first is there");
        // The count is written when it has doubled.
        let (newest, count) = (&records[0], records.len() as u64 - 1);
        assert!(newest.again.is_some_and(|again| (10_000..=20_000 - count).contains(&again)), "{newest:?}");
    }

    #[test]
    fn a_pusher_is_a_name_or_an_address_and_an_ipv6_network_is_one() {
        let of = |by: Option<&str>, through: &str| {
            let (by, through) = (by.map(str::to_owned), through.to_owned());
            Record { by, through, ..Record::empty("1") }.pusher()
        };
        assert_eq!(of(None, "http 2001:db8::1"), of(None, "http 2001:db8::ffff"));
        assert_ne!(of(None, "http 10.0.0.1"), of(None, "http 10.0.0.2"));
        assert_ne!(of(Some("ann"), "path"), of(Some("bob"), "path"));
    }

    #[test]
    fn what_is_like_a_record_is_counted_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        let like = |number: usize| Record { when: format!("{number}"), request: number.to_string(), ..record(0) };
        audit.append(&[like(0), record(1)]).unwrap();
        (2..=41).for_each(|number| audit.append(&[like(number)]).unwrap());
        let told = |one: &Record| (one.request.clone(), one.again, one.last.clone());
        let records: Vec<_> = audit.newest(10, |_| true).unwrap().iter().map(told).collect();
        let counted = ("0".to_owned(), Some(32), Some("33".to_owned()));
        assert_eq!(records, [("1".to_owned(), None, None), counted]);
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
