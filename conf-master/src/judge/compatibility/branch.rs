//! Compares the schema of a component's branch before and after the branch moves, or is made anew.

use std::collections::HashMap;
use std::sync::Arc;

use conf_core::sandbox::NoAnswer;
use git2::{ObjectType, Repository};
use libconf::name::{CommitId, ObjectId, RefName};
use parking_lot::Mutex;

use crate::fault::{Fault, Refusal};
use crate::judge::compatibility::schemas;
use crate::judge::compatibility::trailer::{self, Trailer};
use crate::judge::compatibility::violation::{Allowance, Direction, Violation, WAY_OUT};
use crate::judge::compatibility::worker::{self, ARGUMENT, Violations};
use crate::judge::effort::{self, Effort};
use crate::judge::schema::compile::FILE;
use crate::judge::schema::fault::BadSchema;
use crate::judge::timeouts::{TimeoutCache, TimeoutState};
use crate::judge::worker::Workers;
use crate::text::count;

/// The blobs of the two schemas.
type SchemaPair = (Option<ObjectId>, Option<ObjectId>);

/// Compares schemas, and remembers the answers, so that the second look at a change, at its
/// landing, costs nothing.
#[derive(Debug)]
pub(crate) struct Comparisons {
    workers: Arc<Workers>,
    answers: Arc<Mutex<HashMap<SchemaPair, Violations>>>,
    timeouts: Arc<TimeoutCache<SchemaPair, ()>>,
    effort: Arc<Effort>,
}

/// How many answers are kept; then all are forgotten.
const MOST_ANSWERS: usize = 10_000;
/// After this many comparisons without an end within a minute no other of the same peer is tried.
const MOST_TIMEOUTS: usize = 5;

/// The outcome for a branch that moves.
#[derive(Debug)]
pub(crate) enum BranchComparison {
    /// The promise is kept.
    Compatible,
    /// The promise is broken knowingly; the pusher is told this.
    Declared(String),
    /// The promise is broken, or the schema cannot be used.
    Refused(Refusal),
}

/// Compares the schemas of a branch that moves from `before` to `after`. An error is the
/// repository's.
pub(crate) fn compare(
    repo: &Repository,
    comparisons: &Comparisons,
    name: &RefName,
    before: Option<CommitId>,
    after: CommitId,
) -> Result<BranchComparison, git2::Error> {
    let refused = |faults| Ok(BranchComparison::Refused(Refusal::of(faults)));
    let violations = match comparisons.of_commits(repo, before, Some(after))? {
        Ok(violations) if violations.is_empty() => return Ok(BranchComparison::Compatible),
        Ok(violations) => violations,
        Err(bad) => return refused(vec![Fault::of_file(name, FILE, bad.line, bad.reason)]),
    };
    let fault = |violation: &Violation| Fault {
        pointer: Some(violation.pointer.clone()),
        ..Fault::of_file(name, FILE, violation.line, violation.to_string())
    };
    let mut faults: Vec<Fault> = violations.iter().map(fault).collect();
    match trailer::in_commit(repo, after)? {
        Trailer::Breaking(reason) => {
            let note = format!("{}: breaks compatibility in {}: {reason}", name.short(), count(faults.len(), "place"));
            return Ok(BranchComparison::Declared(note));
        }
        Trailer::Unclear(reason) => faults.push(Fault { reference: Some(name.short()), ..Fault::new(reason) }),
        Trailer::Absent => {}
    }
    refused(faults)
}

/// Finds the schema in a commit; an entry that is not a file does not count.
fn schema(repo: &Repository, commit: CommitId) -> Result<Option<ObjectId>, git2::Error> {
    let tree = repo.find_commit(commit.into())?.tree()?;
    let entry = tree.get_name(FILE).filter(|entry| entry.kind() == Some(ObjectType::Blob));
    Ok(entry.map(|entry| entry.id().into()))
}

impl Default for Comparisons {
    fn default() -> Self {
        let (workers, timeouts) = (Arc::new(Workers::new(ARGUMENT)), Arc::new(TimeoutCache::new(MOST_TIMEOUTS)));
        Comparisons { workers, answers: Arc::default(), timeouts, effort: Arc::new(Effort::own()) }
    }
}

impl Comparisons {
    /// Returns comparisons by other processes. Both remember the answers.
    pub(crate) fn beside(&self) -> Self {
        Comparisons { workers: Arc::new(Workers::new(ARGUMENT)), ..self.with(self.effort.clone()) }
    }

    /// Returns the same, for one push.
    pub(crate) fn with(&self, effort: Arc<Effort>) -> Self {
        let Comparisons { workers, answers, timeouts, .. } = self;
        Comparisons { workers: workers.clone(), answers: answers.clone(), timeouts: timeouts.clone(), effort }
    }

    /// Compares the schemas of two commits; no commit has no schema.
    pub(crate) fn of_commits(
        &self,
        repo: &Repository,
        before: Option<CommitId>,
        after: Option<CommitId>,
    ) -> Result<Violations, git2::Error> {
        let schema = |commit: Option<CommitId>| commit.map(|commit| schema(repo, commit)).transpose();
        let pair = (schema(before)?.flatten(), schema(after)?.flatten());
        if pair.0 == pair.1 { Ok(Ok(Vec::new())) } else { self.compare(repo, pair) }
    }

    fn compare(&self, repo: &Repository, pair: SchemaPair) -> Result<Violations, git2::Error> {
        let known = self.answers.lock().get(&pair).cloned();
        if let Some(found) = known {
            return Ok(found);
        }
        let who = self.effort.who();
        match self.timeouts.state(&pair, who) {
            TimeoutState::Untried => {}
            TimeoutState::TimedOut(()) => return Ok(Ok(unknown())),
            TimeoutState::TooMany => {
                let reason = "other schemas took up all the time there is; push again in a minute";
                return Ok(Err(BadSchema::new(reason)));
            }
        }
        if self.effort.is_over() {
            return Ok(Err(BadSchema::new(effort::TOO_MUCH)));
        }
        let text = |id: ObjectId| -> Result<String, git2::Error> {
            Ok(String::from_utf8_lossy(repo.find_blob(id.into())?.content()).into_owned())
        };
        let (before, after) = (pair.0.map(text).transpose()?, pair.1.map(text).transpose()?);
        if before.is_none() {
            // Without an earlier schema this one is only read.
            return Ok(schemas::compare(None, after.as_deref()));
        }
        let found = match worker::ask(&self.workers, &self.effort, before, after) {
            Ok(found) => found,
            Err(NoAnswer::TooMuch) => {
                // The landing thread gives up sooner, and says nothing of the schema.
                if !self.effort.is_landing() {
                    self.timeouts.remember(pair, who, ());
                }
                return Ok(Ok(unknown()));
            }
            // The next attempt may succeed, so this answer is not remembered.
            Err(NoAnswer::Failed(cause)) => {
                let reason = format!("conf-master could not compare it with the schema before: {cause}; {WAY_OUT}");
                return Ok(Err(BadSchema::new(reason)));
            }
        };
        let mut answers = self.answers.lock();
        if answers.len() >= MOST_ANSWERS {
            answers.clear();
        }
        answers.insert(pair, found.clone());
        Ok(found)
    }
}

/// The violation of a comparison without an end: nobody knows whether the promise is kept.
fn unknown() -> Vec<Violation> {
    let why = "to compare it with the schema before takes more time or memory than there is";
    let (pointer, direction) = (String::new(), Direction::Backward);
    vec![Violation { pointer, line: None, direction, what: Allowance::Unknown(why.to_owned()) }]
}
