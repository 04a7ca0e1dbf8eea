//! The JSON that the tiers exchange over HTTP. Readers ignore members that they do not know.

mod statements;

pub use crate::api::statements::{KeyStatement, KeysEvent};

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::host_key::{BadHostKey, HostKey};
use libconf::name::{BadName, BranchName, CommitId, ComponentVersion, DatacenterName, HostName, Sequence, SourceName};

/// Event `snapshot` on `GET /api/v1/events?datacenter=<id>/<version>`, with the sequence as its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEvent {
    /// The newest change that conf-master had accepted when it sent this.
    pub central: Sequence,
    /// The datacenter of the snapshot.
    pub datacenter: DatacenterName,
    /// The change that made the snapshot.
    pub sequence: Sequence,
    /// The snapshot.
    pub commit: CommitId,
    /// The snapshot before it.
    pub previous: Option<CommitId>,
}

/// Event `history` on a conf-slave's `GET /api/v1/events`: whether it refuses the central history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEvent {
    /// Why it does; `None` when it follows.
    pub refused: Option<String>,
}

/// Event `watermark`: all of this datacenter's events up to `central` have been sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatermarkEvent {
    /// The newest change that conf-master has accepted, for whichever datacenter.
    pub central: Sequence,
    /// The datacenter of this stream.
    pub datacenter: DatacenterName,
    /// The sequence of this datacenter's newest snapshot not above `central`.
    pub snapshot: Sequence,
    /// That snapshot.
    pub commit: CommitId,
    /// conf-master's SSH signature over all of this; see
    /// [`sign_watermark`](crate::sign::sign_watermark).
    pub signature: String,
}

impl WatermarkEvent {
    /// The datacenter's newest snapshot, as the watermark names it.
    pub fn newest(&self) -> Pointer {
        Pointer { sequence: self.snapshot, commit: self.commit }
    }
}

/// Event `freshness` on the streams of conf-master and conf-slave, and the answer to
/// `GET /api/v1/datacenters/<id>/<version>/freshness` of conf-master: at a time, a snapshot was the
/// datacenter's newest one. conf-master signs one every minute. A reader of an earlier version
/// ignores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreshnessEvent {
    /// The newest change that conf-master had accepted then, for whichever datacenter.
    pub central: Sequence,
    /// The datacenter.
    pub datacenter: DatacenterName,
    /// The sequence of its newest snapshot.
    pub snapshot: Sequence,
    /// That snapshot.
    pub commit: CommitId,
    /// The time by conf-master's clock, in seconds since 1970. Each statement of one conf-master
    /// has a later one than those before.
    pub time: i64,
    /// conf-master's SSH signature over all of this; see
    /// [`sign_freshness`](crate::sign::sign_freshness).
    pub signature: String,
}

impl FreshnessEvent {
    /// The datacenter's newest snapshot, as the statement names it.
    pub fn newest(&self) -> Pointer {
        Pointer { sequence: self.snapshot, commit: self.commit }
    }
}

/// Event `deleted` on the same stream: the datacenter's branch was deleted. No snapshot follows
/// until it is pushed again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedEvent {
    /// The newest change that conf-master had accepted when it sent this.
    pub central: Sequence,
    /// The datacenter.
    pub datacenter: DatacenterName,
}

/// Event `absent` on the same stream: conf-master has no snapshot of this datacenter, and had none
/// that was deleted. A conf-slave of an earlier version ignores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbsentEvent {
    /// The newest change that conf-master had accepted when it sent this.
    pub central: Sequence,
    /// The datacenter.
    pub datacenter: DatacenterName,
    /// The first datacenters that there are, in order.
    pub known: Vec<DatacenterName>,
    /// How many more there are.
    #[serde(default)]
    pub more: usize,
}

/// Event `relay` on a conf-slave's `GET /api/v1/events?datacenter=<id>/<version>&relay=true`, for
/// another conf-slave: the way to conf-master is open, at first or again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayEvent {
    /// The conf-slaves on the way, the sender included.
    pub tiers: u32,
}

/// Body of `POST /api/v1/sessions` of conf-master and conf-slave: a host proves itself by its
/// identity key. The first request gets a nonce, the second one brings its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRequest {
    /// The datacenter whose inventory lists the host.
    pub datacenter: DatacenterName,
    /// The host.
    pub host: HostName,
    /// The nonce that this server gave out within the last minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// The SSH signature, in the namespace `conf-session`, over four lines that end in `\n`:
    /// `conf-session 1`, `datacenter ID/VERSION`, `host NAME`, `nonce NONCE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// The public key that has signed, for hosts whose key no inventory lists. What is none proves
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyText>,
    /// A join token, for a host that is not known by its key yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<SecretText>,
}

/// What somebody says is a host's public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyText(pub String);

impl KeyText {
    /// Reads it.
    pub fn key(&self) -> Result<HostKey, BadHostKey> {
        self.0.parse()
    }
}

impl From<&HostKey> for KeyText {
    fn from(key: &HostKey) -> Self {
        KeyText(key.to_string())
    }
}

/// A secret on its way, which logs do not show.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText")
    }
}

/// Body of `POST /api/v1/datacenters/<id>/<version>/hosts/<host>/key` of conf-master: a conf-slave
/// asks that the host be known by this key from now on, which the host has proven to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The public key.
    pub key: KeyText,
    /// The join token that the host has shown.
    pub join: SecretText,
}

/// Answer to `POST /api/v1/sessions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionAnswer {
    /// What the host signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// What the host sends like a token from now on, to this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<String>,
    /// For how many seconds that is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lives: Option<u32>,
}

/// Answer to `POST /api/v1/reports` of conf-slave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAnswer {
    /// The newest watermark that the conf-slave has received, if any.
    #[serde(default)]
    pub watermark: Option<WatermarkEvent>,
    /// The newest freshness statement that the conf-slave has received, if any.
    #[serde(default)]
    pub freshness: Option<FreshnessEvent>,
    /// The central server has deleted the datacenter. This only informs: the host keeps its files.
    #[serde(default)]
    pub deleted: bool,
    /// The number of statements about keys that `GET /api/v1/keys` has.
    #[serde(default)]
    pub keys: usize,
}

/// Answer to `GET /api/v1/at?datacenter=<id>/<version>&sequence=<w>&timeout=<seconds>` of
/// conf-slave and of conf-master: the datacenter's newest snapshot not above change `w`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// The newest change up to which the answering tier knows all snapshots of the datacenter.
    /// Below `w` when the time was up; `at` is then `None`.
    pub central: Sequence,
    /// The newest snapshot not above `w`; `None` also when the datacenter's first snapshot is above
    /// `w`.
    pub at: Option<Pointer>,
    /// The snapshot after `at`, if there is one: its parent is `at`, which proves that nothing lies
    /// between.
    pub next: Option<Pointer>,
    /// If there is no `next`: a watermark of conf-master, which proves that nothing follows up to
    /// `w`. `None` when `w` is the change that made `at`, which needs no proof.
    #[serde(default)]
    pub watermark: Option<WatermarkEvent>,
}

/// A snapshot and the change that made it. As text, `<sequence>/<commit>`: the value of the
/// authoritative key in Consul.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pointer {
    /// The change that made the snapshot.
    pub sequence: Sequence,
    /// The snapshot.
    pub commit: CommitId,
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.sequence, self.commit)
    }
}

impl FromStr for Pointer {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let reason = "it must be <sequence>/<commit>";
        let bad = || BadName { text: text.chars().take(200).collect(), what: "a pointer", reason };
        let (sequence, commit) = text.split_once('/').ok_or_else(bad)?;
        Ok(Pointer { sequence: sequence.parse()?, commit: commit.parse()? })
    }
}

/// One entry of `GET /api/v1/datacenters`, and, with `pins`, `GET
/// /api/v1/datacenters/<id>/<version>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatacenterStatus {
    /// The datacenter.
    pub datacenter: DatacenterName,
    /// The change that made its newest snapshot.
    pub sequence: Sequence,
    /// That snapshot.
    pub commit: CommitId,
    /// When the snapshot was landed, RFC 3339, UTC.
    pub when: String,
    /// The author of the change.
    pub by: String,
    /// The components that it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Pin>,
}

/// A component resolved to a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// `<kind>/<name>/<version>`
    pub component: ComponentVersion,
    /// The branch that its content is read from.
    pub branch: BranchName,
    /// The commit of that branch.
    pub commit: CommitId,
}

/// `POST /api/v1/reports` from a host to its surrogate; an entry of `GET /api/v1/hosts` of
/// conf-slave and of `GET /api/v1/datacenters/<id>/<version>/hosts` of conf-master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// The host.
    pub host: HostName,
    /// The host's datacenter.
    pub datacenter: DatacenterName,
    /// The sequence of the snapshot that the host has exported; 0 before the first export.
    pub sequence: Sequence,
    /// The snapshot that the host has exported.
    pub commit: Option<CommitId>,
    /// The host's state.
    pub state: HostState,
    /// Why the state is not `current`, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// All that failed, and watchers that are not told yet, each with the changes that it is about.
    /// A host that has `failed` and names nothing here is shut out by its inventory, or of an
    /// earlier version: then it is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<HostFailure>,
    /// The secret sources that the host's own file offers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceName>,
    /// True if the host has heard no freshness statement of conf-master within its limit, so that
    /// changes may be withheld from it. The signature does not cover it: earlier versions verify.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// The agent's version.
    pub agent: String,
    /// The number of the report, which the host gives: each is higher than all before it. The first
    /// is the time in milliseconds since 1970; earlier versions number all by the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
    /// The host's signature over the report, PEM; see [`sign_report`](crate::sign::sign_report). A
    /// host with an age identity signs nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// When the tier that shows the report received it, RFC 3339, UTC; the host leaves it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<String>,
}

/// Something that failed on a host, and the changes that it is about: those above `after`, up to
/// `through`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFailure {
    /// The last change that it is not about: the one that the host had before.
    pub after: Sequence,
    /// The last change that it is about; `None` for every later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<Sequence>,
    /// The failure in words.
    pub error: String,
}

impl HostFailure {
    /// Tells whether it is about the snapshot that a change made.
    pub fn is_about(&self, change: Sequence) -> bool {
        self.after < change && self.through.is_none_or(|through| change <= through)
    }
}

/// The most failures in a report. A host joins what is more.
pub const MOST_FAILURES: usize = 16;

/// The most secret sources in a report.
pub const MOST_SOURCES: usize = 256;

/// The most characters of an error's words in a report.
const LONGEST_ERROR: usize = 2_000;
/// The most characters of the words of each failure.
pub const LONGEST_FAILURE: usize = 500;
/// The most characters of the words of all failures. Words are not part of what a host signs.
const LONGEST_FAILURES: usize = 2_000;
/// The most characters of an agent's version, and of a time.
const LONGEST_WORD: usize = 100;

/// The most bytes of a signature. An SSH signature by an Ed25519 key has about 300.
pub(crate) const MOST_SIGNATURE_BYTES: usize = 1024;

impl HostReport {
    /// Shortens the texts that its sender chooses: every tier that keeps reports keeps one for each
    /// of many hosts. A signature that is too long is dropped.
    pub fn cut(&mut self) {
        let cut = |text: &mut String, most: usize| {
            if let Some((end, _)) = text.char_indices().nth(most) {
                text.truncate(end);
            }
        };
        cut(&mut self.agent, LONGEST_WORD);
        self.error.iter_mut().for_each(|text| cut(text, LONGEST_ERROR));
        // The signature of a report with too many failures is no longer valid.
        self.failures.truncate(MOST_FAILURES);
        self.sources.truncate(MOST_SOURCES);
        let mut left = LONGEST_FAILURES;
        for failure in &mut self.failures {
            cut(&mut failure.error, LONGEST_FAILURE.min(left));
            left -= failure.error.chars().count();
        }
        self.received.iter_mut().for_each(|text| cut(text, LONGEST_WORD));
        self.signature.take_if(|text| text.len() > MOST_SIGNATURE_BYTES);
    }
}

/// The state of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// The host runs the snapshot that its pointer names.
    Current,
    /// The host works on a newer snapshot.
    Updating,
    /// The host could not take a newer snapshot and keeps the last one, or something of its
    /// snapshot failed.
    Failed,
}

/// `POST /api/v1/datacenters/<id>/<version>/hosts` from conf-slave to conf-master: the reports of
/// its hosts, after each change of them and every minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlaveReport {
    /// The newest snapshot that the slave serves.
    pub sequence: Sequence,
    /// The newest reports of the hosts that report to it.
    pub hosts: Vec<HostReport>,
}

/// The body of every refusal over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong and what to do about it, for people.
    pub error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_prints_as_it_parses() {
        let commit = "0123456789012345678901234567890123456789";
        let pointer = format!("17/{commit}");
        assert_eq!(pointer.parse::<Pointer>().unwrap().to_string(), pointer);
        for bad in ["", "17", "17/", &format!("/{commit}"), &format!("{pointer}\n"), &format!("017/{commit}")] {
            assert!(bad.parse::<Pointer>().is_err(), "{bad:?}");
        }
    }
}
