//! A proposed change of refs, and the judgement on it.

use std::collections::BTreeSet;

use libconf::name::{ObjectId, RefName};

use crate::catalog::Deltas;
use crate::fault::{Refusal, RefusalKind};
use crate::secrets::RequestedActions;
use crate::store::RefChanges;

/// One ref that somebody wants to create, move or delete, as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefUpdate {
    /// The ref's full name, unchecked.
    pub(crate) name: String,
    /// The object that the pusher believes the ref holds; zero to create it.
    pub(crate) old: ObjectId,
    /// The object that the ref shall hold; zero to delete it.
    pub(crate) new: ObjectId,
}

/// What a push or a request asks for besides the change itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProposalOptions {
    /// A dry run: judge everything, and land nothing.
    pub(crate) dry_run: bool,
    /// The change may remove more than the shrink guard allows.
    pub(crate) allow_shrink: bool,
    /// The refs whose deletion is named: `-o delete=<ref>`.
    pub(crate) delete: BTreeSet<RefName>,
}

/// What may land, and why the rest may not.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// For each ref update, in order: `None` when it may land, else the reason.
    pub(crate) refusals: Vec<Option<Refusal>>,
    /// The new target of each ref that may land; `None` deletes it.
    pub(crate) changes: RefChanges,
    /// The effect on each datacenter.
    pub(crate) deltas: Deltas,
    /// The requested actions on secrets, besides those that the declarations need.
    pub(crate) secrets: RequestedActions,
    /// What the author of the change should know.
    pub(crate) notes: Vec<String>,
}

impl Judgement {
    /// Tells whether its author lacks a right for any of it.
    pub(crate) fn is_denied(&self) -> bool {
        self.refusals.iter().flatten().any(|refusal| refusal.kind == RefusalKind::Denied)
    }

    /// Refuses everything that would have landed, after a dry run.
    pub(crate) fn refuse_dry_run(&mut self) {
        for refusal in self.refusals.iter_mut().filter(|refusal| refusal.is_none()) {
            *refusal = Some(Refusal::new(
                RefusalKind::DryRun,
                "dry run: nothing landed; without the dry run this change would land",
            ));
        }
    }
}
