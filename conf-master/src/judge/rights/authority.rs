//! Who asks for a change, and under which policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use conf_core::access::{AccessTable, Denied, Place, Policy, Principal, Verb};
use conf_core::daemon::chain;
use git2::Repository;
use libconf::name::{CommitId, RefName};
use tracing::error;

use crate::fault::{Fault, Refusal, RefusalKind};
use crate::judge::rights::branch;
use crate::judge::rights::needs::{Need, verb};
use crate::store::Table;

/// Who may do what, in one version of the catalog. The default gives no right to anybody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rights {
    /// The server is open: everybody may do everything.
    pub(crate) is_open: bool,
    /// The policy.
    pub(crate) policy: Arc<Policy>,
    /// The commit of the policy; `None` until there is one.
    pub(crate) policy_version: Option<CommitId>,
    /// The tokens, and whose they are.
    pub(crate) tokens: Arc<AccessTable>,
}

impl Rights {
    /// Rights of an open server.
    pub(crate) fn open() -> Self {
        Rights { is_open: true, ..Rights::default() }
    }

    /// Reads the policy anew, where its branch has moved. Where it cannot be read, it gives no
    /// right to anybody: the owner of the repository's files puts it right.
    pub(crate) fn follow(&mut self, repo: &Repository, table: &Table) {
        let tip = table.target(&RefName::Policy).map(|tip| tip.commit);
        let policy = match tip.map(|tip| branch::read(repo, tip)).transpose() {
            Ok(policy) => policy.unwrap_or_else(Policy::initial),
            Err(cause) => {
                error!(
                    error = chain(&*cause),
                    "the policy cannot be read, and gives no right to anybody; push a good one by the path of the \
                     repository, as the owner of its files"
                );
                Policy::closed()
            }
        };
        (self.policy, self.policy_version) = (Arc::new(policy), tip);
    }

    /// The commit of the policy that changes are held against.
    pub(crate) fn version(&self) -> Option<CommitId> {
        self.policy_version.filter(|_| !self.is_open)
    }
}

/// Somebody who asks for a change, and the rights that hold.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    principal: Principal,
    /// The rights that hold.
    pub(crate) rights: Rights,
}

impl Authority {
    /// Somebody under the rights that hold.
    pub(crate) fn new(principal: &Principal, rights: &Rights) -> Self {
        Authority { principal: principal.clone(), rights: rights.clone() }
    }

    /// Everything is allowed: nothing lands, or conf-master itself asks.
    pub(crate) fn unlimited() -> Self {
        Authority { principal: Principal::Server, rights: Rights::open() }
    }

    /// False when everything is allowed.
    pub(crate) fn is_limited(&self) -> bool {
        !self.rights.is_open && !matches!(self.principal, Principal::Server | Principal::Owner(_))
    }

    /// Refuses what may in no case be done to a ref, whatever it would affect: nothing has to be
    /// judged for that.
    pub(crate) fn enter(&self, name: &RefName, is_deleted: bool) -> Result<(), Refusal> {
        self.ask(verb(name, is_deleted), Place::of(name)).map_err(|denied| refusal(vec![denied.to_string()]))
    }

    /// Refuses the refs of a change for which a right is lacking.
    pub(crate) fn denied(&self, needs: &[Need]) -> BTreeMap<RefName, Refusal> {
        let mut denied: BTreeMap<RefName, Vec<String>> = BTreeMap::new();
        for Need { reference, verb, datacenters, why } in needs {
            if let Err(one) = self.ask(*verb, Place { reference: Some(reference), datacenters }) {
                let words = why.as_ref().map_or_else(|| one.to_string(), |why| format!("{one}; {why}"));
                denied.entry(reference.clone()).or_default().push(words);
            }
        }
        denied.into_iter().map(|(name, denied)| (name, refusal(denied))).collect()
    }

    /// Refuses tokens after which nobody could administer any more; `now` is in seconds since 1970.
    /// The owner of the repository's files makes another one.
    pub(crate) fn keep_an_administrator(&self, tokens: &AccessTable, now: i64) -> Result<(), Refusal> {
        let is_any = tokens.tokens().any(|one| one.fault(now).is_none());
        if !self.is_limited() || is_any && self.rights.policy.has_administrator(tokens, now) {
            return Ok(());
        }
        let words = "no token would be left that may administer; make another one first, or do this on the machine of \
                     conf-master, with --repo";
        Err(words.to_owned().into())
    }

    fn ask(&self, verb: Verb, place: Place<'_>) -> Result<(), Denied> {
        if self.is_limited() { self.rights.policy.check(&self.principal, verb, place) } else { Ok(()) }
    }
}

fn refusal(mut denied: Vec<String>) -> Refusal {
    if denied.len() <= 1 {
        return Refusal::new(RefusalKind::Denied, denied.pop().unwrap_or_default());
    }
    let reason = format!("{} rights are lacking; the first: {}", denied.len(), denied[0]);
    let faults = denied.into_iter().map(Fault::new).collect();
    Refusal { kind: RefusalKind::Denied, reason, faults }
}
