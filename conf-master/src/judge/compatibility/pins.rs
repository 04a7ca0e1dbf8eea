//! Compares the schemas of a component before and after a datacenter runs another commit of it,
//! because its class or its own `datacenter.yaml` names another branch or tag.
//!
//! A branch that moves is compared by `branch`. A pin may leave its branch, and so pass that by.

use conf_core::manifest::{self, DeclaredIn, PinRequest};
use git2::Repository;
use libconf::name::{CommitId, ComponentVersion, RefName};

use crate::catalog::DatacenterChange;
use crate::fault::{Caused, Fault, Findings};
use crate::judge::compatibility::branch::Comparisons;
use crate::judge::compatibility::trailer::{self, Trailer};
use crate::judge::schema::compile::FILE;
use crate::store::RefChanges;
use crate::text::count;

/// What programs of a component read before a change, and what they read after it.
#[derive(Clone, Debug)]
pub(crate) struct Successor {
    /// The component before.
    pub(crate) old: ComponentVersion,
    /// The component after; another version of the same one where the version changed.
    pub(crate) new: ComponentVersion,
}

impl Successor {
    /// Tells whether programs go back to what they read earlier: the new commit lies behind the old
    /// one. May walk a whole history.
    pub(crate) fn goes_back(&self, repo: &Repository, change: &DatacenterChange<'_>) -> Result<bool, git2::Error> {
        let before = change.before.as_ref().and_then(|before| before.component(&self.old));
        let (Some(from), Some(to)) = (before, change.after.component(&self.new)) else { return Ok(false) };
        repo.graph_descendant_of(from.pin.commit.into(), to.pin.commit.into())
    }
}

/// Lists the components that a change touches, each with what its programs read before.
pub(crate) fn successors(repo: &Repository, change: &DatacenterChange<'_>) -> Result<Vec<Successor>, git2::Error> {
    let touched = change.affected(repo)?;
    let of = |new: &ComponentVersion| {
        let olds = change.replaced_by(new);
        let new = new.clone();
        olds.into_iter().map(move |old| Successor { old, new: new.clone() })
    };
    Ok(touched.iter().flat_map(of).collect())
}

/// Compares the schemas of every pin that leaves its branch, or becomes `raw`. `changes` are the
/// refs that move with it. An error is the repository's.
pub(crate) fn compare(
    repo: &Repository,
    comparisons: &Comparisons,
    change: &DatacenterChange<'_>,
    changes: &RefChanges,
) -> Result<Findings, git2::Error> {
    let mut outcome = Findings::default();
    let Some(before) = &change.before else { return Ok(outcome) };
    for successor in successors(repo, change)? {
        let Successor { old, new } = &successor;
        let pins = (before.component(old), change.after.component(new));
        let requests = (before.manifest.requests.get(old), change.after.manifest.requests.get(new));
        let ((Some(from), Some(to)), (Some(asked), Some(asks))) = (pins, requests) else { continue };
        let (from, to) = (&from.pin, &to.pin);
        let follows_its_branch = old == new && asked.branch == asks.branch;
        // Raw files have no settings, and so no schema.
        if asked.raw || (!asks.raw && (follows_its_branch || successor.goes_back(repo, change)?)) {
            continue;
        }
        let after = Some(to.commit).filter(|_| !asks.raw);
        let declared_in = match asks.declared_in {
            DeclaredIn::Class => change.after.class_ref(),
            DeclaredIn::Instance => change.after.own_ref(),
        };
        let causes = change.after.causes(new, declared_in.clone());
        let entry_fault = |reason: String| Fault::of_file(&declared_in, manifest::FILE, Some(asks.line), reason);
        let violations = match comparisons.of_commits(repo, Some(from.commit), after)? {
            Ok(violations) => violations,
            // Nobody knows whether the promise is kept.
            Err(bad) => {
                let fault = entry_fault(format!("{new}: {FILE}: {}", bad.reason));
                outcome.faults.push(Caused { fault, causes });
                continue;
            }
        };
        if violations.is_empty() {
            continue;
        }
        match declared(repo, &causes, changes, [from.commit, to.commit])? {
            (Trailer::Breaking(reason), by) => {
                outcome.breaks.extend(by);
                let places = count(violations.len(), "place");
                outcome.notes.push(format!("{}: {new} breaks compatibility in {places}: {reason}", before.name));
                continue;
            }
            (Trailer::Unclear(reason), _) => {
                outcome.faults.push(Caused { fault: Fault::new(reason), causes: causes.clone() });
            }
            (Trailer::Absent, _) => {}
        }
        let (is, was) = (content(asks, to.commit), content(asked, from.commit));
        for violation in violations {
            let reason = format!("{new} would be {is}, and was {was}: {violation}");
            let fault = Fault { pointer: Some(violation.pointer), ..entry_fault(reason) };
            outcome.faults.push(Caused { fault, causes: causes.clone() });
        }
    }
    Caused::place_in(&mut outcome.faults, before.name);
    Ok(outcome)
}

/// Names what an entry runs.
fn content(request: &PinRequest, commit: CommitId) -> String {
    let branch = RefName::Branch(request.component.component.clone(), request.branch.clone()).short();
    let tag = request.tag.as_ref().map(|tag| format!("the tag {tag} of ")).unwrap_or_default();
    let raw = if request.raw { " as raw files" } else { "" };
    format!("{tag}{branch} ({}){raw}", commit.short())
}

/// Reads whether a break was declared: by the commits of this change, or on the way from the old
/// commit to the new one. Returns the ref that lands the break here, too: on the way it was made
/// for others.
fn declared(
    repo: &Repository,
    causes: &[RefName],
    changes: &RefChanges,
    [from, to]: [CommitId; 2],
) -> Result<(Trailer, Option<RefName>), git2::Error> {
    let mut unclear = Trailer::Absent;
    for (cause, tip) in causes.iter().filter_map(|cause| Some((cause, (*changes.get(cause)?)?))) {
        match trailer::in_commit(repo, tip.commit)? {
            Trailer::Absent => {}
            found @ Trailer::Breaking(_) => return Ok((found, Some(cause.clone()))),
            found @ Trailer::Unclear(_) => unclear = found,
        }
    }
    if repo.graph_descendant_of(to.into(), from.into())?
        && let Some(reason) = trailer::between(repo, from, to)?.into_iter().next()
    {
        let by = causes.iter().find(|cause| changes.contains_key(cause));
        return Ok((Trailer::Breaking(reason), by.cloned()));
    }
    Ok((unclear, None))
}
