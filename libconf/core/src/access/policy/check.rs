//! Decides whether somebody may do something.

use std::collections::BTreeSet;
use std::time::Instant;

use libconf::name::{DatacenterName, GroupName, RefName};

use crate::access::policy::denied::{Denied, MOST_NAMED, Why};
use crate::access::policy::limit::Limit;
use crate::access::policy::model::{Policy, Right, short};
use crate::access::{
    principal::{Named, Principal, Scope},
    table::AccessTable,
    verb::Verb,
};
use crate::glob;

/// Where something is done.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The ref, where it is about one. Rights that name refs hold for nothing else.
    pub reference: Option<&'a RefName>,
    /// The datacenters that it affects, besides the one whose branch or snapshot the ref is.
    pub datacenters: &'a BTreeSet<DatacenterName>,
}

static NONE: BTreeSet<DatacenterName> = BTreeSet::new();

impl<'a> Place<'a> {
    /// What is about no ref and no datacenter.
    pub fn nowhere() -> Self {
        Place { reference: None, datacenters: &NONE }
    }

    /// A ref by itself.
    pub fn of(reference: &'a RefName) -> Self {
        Place { reference: Some(reference), datacenters: &NONE }
    }

    /// All datacenters that it affects.
    fn affected(self) -> impl Iterator<Item = &'a DatacenterName> {
        let own = match self.reference {
            Some(RefName::Datacenter(own) | RefName::Snapshot(own)) => Some(own),
            _ => None,
        };
        self.datacenters.iter().chain(own.filter(|own| !self.datacenters.contains(*own)))
    }
}

impl Policy {
    /// Decides whether somebody may do something somewhere.
    ///
    /// The rights of somebody's groups add up: one of them must hold for the verb and the ref, and
    /// each datacenter that is affected needs one of these that holds for it. conf-master itself
    /// and the owner of the repository's files may do everything, and somebody unknown nothing: an
    /// open server does not ask.
    pub fn check(&self, principal: &Principal, verb: Verb, place: Place<'_>) -> Result<(), Denied> {
        self.decide(principal, verb, place, Limit::none())
    }

    /// The same for a policy that somebody only tries, whose patterns may take any time: `None`
    /// when it is not decided `until` then.
    pub fn check_until(
        &self,
        principal: &Principal,
        verb: Verb,
        place: Place<'_>,
        until: Instant,
    ) -> Option<Result<(), Denied>> {
        let limit = Limit::until(until);
        let decided = self.decide(principal, verb, place, limit);
        // What was not looked at any more holds for nobody: such a decision is none.
        (!limit.is_over()).then_some(decided)
    }

    fn decide(&self, principal: &Principal, verb: Verb, place: Place<'_>, limit: Limit) -> Result<(), Denied> {
        let named = match principal {
            Principal::Server | Principal::Owner(_) => return Ok(()),
            Principal::Anybody => return Err(denied(principal.to_string(), verb, place, Why::Nameless)),
            Principal::Named(named) => named,
        };
        let who = named.name.to_string();
        match &named.scope {
            Scope::Policy => self.check_groups(named, verb, place, limit),
            scope if scope.allows(verb, place) => Ok(()),
            scope => Err(denied(who, verb, place, Why::Scope(scope.to_string()))),
        }
    }

    /// Tells whether somebody reads everything: the whole repository, and what is about no
    /// datacenter in particular.
    pub fn reads_everything(&self, principal: &Principal) -> bool {
        self.has(principal, |right| right.has(Verb::Read) && right.refs.is_none() && right.datacenters.is_none())
    }

    /// Tells whether somebody reads anything.
    pub fn reads_something(&self, principal: &Principal) -> bool {
        let of_own = |named: &Named| matches!(named.scope, Scope::Slave(_) | Scope::Host { .. });
        principal.named().is_some_and(of_own) || self.has(principal, |right| right.has(Verb::Read))
    }

    /// Tells whether somebody reads a ref that these datacenters run. The records of conf-master
    /// itself are for those who read everything. A host reads the snapshots of its datacenter:
    /// there is all that it runs.
    pub fn reads_ref(&self, principal: &Principal, name: &RefName, run_by: &BTreeSet<&DatacenterName>) -> bool {
        self.reads_everything(principal) || self.is_concerned(principal, name, run_by, |right| right.has(Verb::Read))
    }

    /// Tells whether somebody reads such a ref, or may change it.
    pub fn touches_ref(&self, principal: &Principal, name: &RefName, run_by: &BTreeSet<&DatacenterName>) -> bool {
        self.reads_everything(principal) || self.is_concerned(principal, name, run_by, |_| true)
    }

    fn is_concerned(
        &self,
        principal: &Principal,
        name: &RefName,
        run_by: &BTreeSet<&DatacenterName>,
        is_such: impl Fn(&Right) -> bool,
    ) -> bool {
        let (Principal::Named(named), false) =
            (principal, matches!(name, RefName::Ledger | RefName::Access | RefName::Keys))
        else {
            return false;
        };
        let own = match name {
            RefName::Datacenter(own) | RefName::Snapshot(own) => Some(own),
            _ => None,
        };
        let mut affected = run_by.iter().copied().chain(own);
        match &named.scope {
            Scope::Policy => {
                let groups = self.groups_of(named);
                let affected: Vec<&DatacenterName> = affected.collect();
                let holds = |right: &Right| {
                    right.datacenters.is_none()
                        || affected.iter().any(|datacenter| right.holds_in(datacenter, Limit::none()))
                };
                let mut own = self.rights.iter().filter(|right| groups.contains(&right.group));
                own.any(|right| is_such(right) && right.holds_for(Some(name), Limit::none()) && holds(right))
            }
            Scope::Host { datacenter, .. } => matches!(name, RefName::Snapshot(own) if own == datacenter),
            Scope::Slave(pattern) => affected.any(|datacenter| glob::matches(pattern, &datacenter.to_string())),
            Scope::Join(_) => false,
        }
    }

    /// Tells whether somebody may change anything anywhere.
    pub fn changes_something(&self, principal: &Principal) -> bool {
        let changes = |right: &Right| right.may.iter().any(|verb| !matches!(verb, Verb::Read | Verb::Report));
        self.has(principal, changes)
    }

    /// Tells whether one of somebody's rights is such a one. Scoped tokens have none.
    fn has(&self, principal: &Principal, is_such: impl Fn(&Right) -> bool) -> bool {
        match principal {
            Principal::Server | Principal::Owner(_) => true,
            Principal::Named(named) if named.scope == Scope::Policy => {
                let groups = self.groups_of(named);
                self.rights.iter().any(|right| groups.contains(&right.group) && is_such(right))
            }
            Principal::Anybody | Principal::Named(_) => false,
        }
    }

    fn check_groups(&self, named: &Named, verb: Verb, place: Place<'_>, limit: Limit) -> Result<(), Denied> {
        let groups = self.groups_of(named);
        let own: Vec<&Right> = self.rights.iter().filter(|right| groups.contains(&right.group)).collect();
        let Some(datacenters) = lacking(&own, verb, place, limit) else { return Ok(()) };
        let why = self.holders(verb, place, limit);
        let found = denied(named.name.to_string(), verb, place, why);
        Err(Denied { datacenters: datacenters.into_iter().cloned().collect(), ..found })
    }

    /// The groups that may do something somewhere.
    fn holders(&self, verb: Verb, place: Place<'_>, limit: Limit) -> Why {
        let groups: BTreeSet<&GroupName> = self.rights.iter().map(|right| &right.group).collect();
        let (mut holders, mut administrators) = (Vec::new(), Vec::new());
        for group in groups.into_iter().take_while(|_| !limit.is_over()) {
            let rights: Vec<&Right> = self.rights.iter().filter(|right| right.group == *group).collect();
            if rights.iter().any(|right| right.may.contains(&Verb::Administer)) {
                administrators.push(group.clone());
            } else if holders.len() <= MOST_NAMED && lacking(&rights, verb, place, limit).is_none() {
                holders.push(group.clone());
            }
        }
        Why::Groups { holders, administrators }
    }

    /// True when somebody may `administer` who has a live token at `now`, in seconds since 1970; or
    /// when nobody has a token.
    pub fn has_administrator(&self, tokens: &AccessTable, now: i64) -> bool {
        let mut live = tokens.tokens().filter(|one| one.fault(now).is_none()).peekable();
        if live.peek().is_none() {
            return true;
        }
        live.any(|one| {
            let principal = Principal::Named(one.principal());
            self.check(&principal, Verb::Administer, Place::nowhere()).is_ok()
        })
    }
}

impl Scope {
    /// True for what such a token is for.
    pub fn allows(&self, verb: Verb, place: Place<'_>) -> bool {
        let holds = |datacenter: &DatacenterName| match self {
            Scope::Policy | Scope::Join(_) => false,
            Scope::Slave(pattern) => glob::matches(pattern, &datacenter.to_string()),
            Scope::Host { datacenter: own, .. } => own == datacenter,
        };
        // It reads what its datacenters run, and not the whole repository.
        let mut affected = place.affected().peekable();
        matches!(verb, Verb::Read | Verb::Report) && affected.peek().is_some() && affected.all(holds)
    }
}

/// The datacenters for which none of some rights holds; none of them when no right holds at all.
/// `None` when nothing is lacking.
fn lacking<'a>(rights: &[&Right], verb: Verb, place: Place<'a>, limit: Limit) -> Option<Vec<&'a DatacenterName>> {
    let holds = |right: &&&Right| right.has(verb) && right.holds_for(place.reference, limit);
    let rights: Vec<&&Right> = rights.iter().filter(holds).collect();
    if rights.is_empty() {
        return Some(Vec::new());
    }
    let lacking = place.affected().filter(|one| !rights.iter().any(|right| right.holds_in(one, limit)));
    let lacking: Vec<&DatacenterName> = lacking.collect();
    (!lacking.is_empty()).then_some(lacking)
}

fn denied(who: String, verb: Verb, place: Place<'_>, why: Why) -> Denied {
    Denied { who, verb, reference: place.reference.map(short), datacenters: Vec::new(), why }
}
