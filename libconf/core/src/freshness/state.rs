//! Freshness as it is shown.

use jiff::Timestamp;
use libconf::name::Sequence;
use serde::{Deserialize, Serialize};

use crate::freshness::{moment::Moment, rule::Freshness};

/// Freshness in a status. Readers ignore members that they do not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreshnessState {
    /// True if a statement was heard once, and none that counts within the limit.
    #[serde(default)]
    pub stale: bool,
    /// The limit in seconds.
    #[serde(default)]
    pub limit_seconds: u64,
    /// The time of the last statement that counts, by conf-master's clock, RFC 3339, UTC; `None`
    /// before the first one.
    #[serde(default)]
    pub time: Option<String>,
    /// The newest change of the central server that the newest statement names.
    #[serde(default)]
    pub central: Option<Sequence>,
    /// The newest snapshot that it names.
    #[serde(default)]
    pub snapshot: Option<Sequence>,
    /// The age of the last statement that counts.
    #[serde(default)]
    pub age_seconds: Option<u64>,
    /// How far conf-master's clock is ahead of this machine's; negative if it is behind.
    #[serde(default)]
    pub skew_seconds: Option<i64>,
    /// What a person should know, in one sentence.
    #[serde(default)]
    pub remark: Option<String>,
}

impl FreshnessState {
    /// Shows it as it is at a moment.
    pub fn of(freshness: &Freshness, now: Moment) -> Self {
        let newest = freshness.newest();
        FreshnessState {
            stale: freshness.is_stale(now),
            limit_seconds: freshness.limit().as_secs(),
            time: freshness.counted().map(when),
            central: newest.map(|newest| newest.central),
            snapshot: newest.map(|newest| newest.snapshot),
            age_seconds: freshness.age(now).map(|age| age.as_secs()),
            skew_seconds: freshness.skew_seconds(now),
            remark: remark(freshness, now),
        }
    }

    /// The remark, unless nothing was heard yet: with earlier versions above nothing ever is.
    pub fn problem(&self) -> Option<&str> {
        self.remark.as_deref().filter(|_| self.time.is_some())
    }
}

fn when(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

fn remark(freshness: &Freshness, now: Moment) -> Option<String> {
    let Some(newest) = freshness.newest() else {
        return Some(
            "no freshness statement of conf-master has come here, as from an earlier version of it or of conf-slave: if \
             changes are withheld, nobody notices"
                .to_owned(),
        );
    };
    let (limit, said) = (freshness.limit().as_secs(), when(newest.time));
    let stale = freshness.is_stale(now).then(|| {
        if freshness.is_withheld() {
            return format!(
                "stale: conf-master said at {said} that change {} is the newest snapshot, and for {limit} s nobody has \
                 named or brought it; does a conf-slave withhold it?",
                newest.snapshot
            );
        }
        let distance = if freshness.skew_seconds(now).is_some() {
            format!("more than {limit} s ago")
        } else {
            format!("more than {limit} s from the time of this machine's clock, which may be wrong")
        };
        format!(
            "stale: the last word of conf-master is of {said}, {distance}; changes may be withheld. Is conf-master away, or \
             does a conf-slave hang?"
        )
    });
    stale.or_else(|| {
        let skew = freshness.skew_seconds(now).filter(|_| freshness.is_skewed(now))?;
        let (minutes, side) = (skew.saturating_abs() / 60, if skew > 0 { "ahead of" } else { "behind" });
        Some(format!(
            "conf-master's clock is {minutes} min {side} this machine's: set the one that is wrong. If both are right, \
             somebody delays what conf-master says"
        ))
    })
}
