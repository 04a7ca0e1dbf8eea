//! A component's branch that moves: its schema before and after.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use conf_core::sandbox::{NoAnswer, Worker};
use git2::{ObjectType, Repository};
use libconf::name::{CommitId, ObjectId, RefName};

use crate::judge::compatibility::{
    Declared, Direction, Lack, WAY_OUT, What, declared, schemas,
    worker::{self, Found},
};
use crate::{
    fault::refusal::{Fault, Refusal},
    judge::schema::{BadSchema, FILE},
};

/// The blobs of the two schemas.
type Pair = (Option<ObjectId>, Option<ObjectId>);

/// What was compared already, so that the second look at a change, at its landing, costs nothing.
#[derive(Debug, Default)]
pub struct Comparisons(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    worker: Option<Worker>,
    answers: HashMap<Pair, Found>,
    /// When comparisons never came to an end.
    endless: Vec<Instant>,
}

/// So many answers are kept; then all are forgotten.
const MOST_ANSWERS: usize = 10_000;
/// How long an endless one counts.
const REMEMBERED: Duration = Duration::from_secs(60);
/// After so many endless ones within that time no other is tried: landings wait for each.
const MOST_ENDLESS: usize = 5;

/// Judges a branch that moves from `before` to `after`. What is let through is told, for whoever pushed it; a refusal is why it
/// may not. An error is the repository's.
pub fn judge(
    repo: &Repository,
    comparisons: &Comparisons,
    name: &RefName,
    before: Option<CommitId>,
    after: CommitId,
) -> Result<Result<Option<String>, Refusal>, git2::Error> {
    let pair = (before.map(|commit| schema(repo, commit)).transpose()?.flatten(), schema(repo, after)?);
    if pair.0 == pair.1 {
        return Ok(Ok(None));
    }
    let lacks = match comparisons.compare(repo, pair)? {
        Ok(lacks) if lacks.is_empty() => return Ok(Ok(None)),
        Ok(lacks) => lacks,
        Err(bad) => return Ok(Err(Refusal::of(vec![Fault::of_file(name, FILE, bad.line, bad.reason)]))),
    };
    let fault = |lack: &Lack| Fault {
        pointer: Some(lack.pointer.clone()),
        ..Fault::of_file(name, FILE, lack.line, lack.to_string())
    };
    let mut faults: Vec<Fault> = lacks.iter().map(fault).collect();
    match declared(repo, after)? {
        Declared::Breaking(reason) => {
            let places = if faults.len() == 1 { "one place".to_owned() } else { format!("{} places", faults.len()) };
            return Ok(Ok(Some(format!("{}: breaks compatibility in {places}: {reason}", name.short()))));
        }
        Declared::Unclear(reason) => faults.push(Fault { reference: Some(name.short()), ..Fault::new(reason) }),
        Declared::Nothing => {}
    }
    Ok(Err(Refusal::of(faults)))
}

/// The schema in a commit; what is no file is none.
fn schema(repo: &Repository, commit: CommitId) -> Result<Option<ObjectId>, git2::Error> {
    let tree = repo.find_commit(commit.into())?.tree()?;
    let entry = tree.get_name(FILE).filter(|entry| entry.kind() == Some(ObjectType::Blob));
    Ok(entry.map(|entry| entry.id().into()))
}

impl Comparisons {
    fn compare(&self, repo: &Repository, pair: Pair) -> Result<Found, git2::Error> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.answers.get(&pair) {
            return Ok(found.clone());
        }
        known.endless.retain(|when| when.elapsed() < REMEMBERED);
        if known.endless.len() >= MOST_ENDLESS {
            return Ok(Err(BadSchema {
                line: None,
                reason: "other schemas took up all the time there is; push again in a minute".to_owned(),
            }));
        }
        let text = |id: ObjectId| -> Result<String, git2::Error> {
            Ok(String::from_utf8_lossy(repo.find_blob(id.into())?.content()).into_owned())
        };
        let (before, after) = (pair.0.map(text).transpose()?, pair.1.map(text).transpose()?);
        if before.is_none() {
            // With nothing to be held against it is only read.
            return Ok(schemas::compare(None, after.as_deref()));
        }
        let found = match worker::ask(&mut known.worker, before, after) {
            Ok(found) => found,
            Err(NoAnswer::TooMuch) => {
                known.endless.push(Instant::now());
                let why = "to compare it with the schema before takes more time or memory than there is";
                let (pointer, direction) = (String::new(), Direction::Backward);
                Ok(vec![Lack { pointer, line: None, direction, what: What::Unknown(why.to_owned()) }])
            }
            // It may be otherwise the next time, so it is not remembered.
            Err(NoAnswer::Failed(cause)) => {
                let reason = format!("conf-master could not compare it with the schema before: {cause}; {WAY_OUT}");
                return Ok(Err(BadSchema { line: None, reason }));
            }
        };
        if known.answers.len() >= MOST_ANSWERS {
            known.answers.clear();
        }
        known.answers.insert(pair, found.clone());
        Ok(found)
    }
}
