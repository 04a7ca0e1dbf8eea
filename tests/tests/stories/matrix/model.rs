//! Who may do what, worked out from the right that a route's description names and from the policy
//! of the story. It asks nothing of the product, so that it does not repeat its mistakes.

use std::fmt::Write as _;

use tests::site::{DATACENTER, ELSEWHERE};

/// The datacenters, both of which run every component. The first is inside all patterns below.
pub(crate) const DATACENTERS: [&str; 2] = [DATACENTER, ELSEWHERE];
/// The branches that are pushed to. The first is inside the pusher's pattern.
pub(crate) const BRANCHES: [&str; 2] = ["services/web/master", "services/api/master"];

/// A daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    Master,
    /// The conf-slave of the first datacenter.
    Slave,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server does not know who asks: 401.
    Unproven,
    /// Who asks lacks the right: 403, or a push that is refused for that.
    Denied,
    /// It was done.
    Allowed,
    /// Anything else, which is always a fault.
    Other(String),
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// The server's health.
    Health,
    /// Who asks, and what there is to ask for.
    Oneself,
    /// Nothing in particular.
    Everything,
    /// What Git shows of the repository, which is the part that somebody reads.
    Repository,
    /// The snapshot of a datacenter, by Git.
    Snapshot(&'static str),
    /// The refs as pushers are shown them, before they say what they push.
    RefsBeforePush,
    /// A branch of a component.
    Branch(&'static str),
    /// A datacenter.
    Datacenter(&'static str),
    /// Who may ask a datacenter's conf-slaves.
    Readers(&'static str),
    /// A host of a datacenter.
    Host(&'static str, &'static str),
    /// What a conf-slave has of its datacenter.
    Cache,
    /// What goes through a conf-slave to conf-master, and what that says to conf-slaves.
    WayUp,
}

/// A right of the policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    verb: &'static str,
    refs: Option<&'static str>,
    datacenters: Option<&'static str>,
}

/// What somebody's token proves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof {
    Nothing,
    /// A name to which the policy gives this.
    Policy(Grant),
    /// A conf-slave of the datacenters of a pattern.
    Slave(&'static str),
    /// A host of a datacenter.
    Host(&'static str, &'static str),
    /// A host of a datacenter, by the key with which it joined.
    Joined(&'static str, &'static str),
    /// Nothing but that hosts of a datacenter may join.
    Joins(&'static str),
}

/// Somebody who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Principal {
    pub(crate) name: &'static str,
    pub(crate) proof: Proof,
}

const fn granted(
    name: &'static str,
    verb: &'static str,
    refs: Option<&'static str>,
    datacenters: Option<&'static str>,
) -> Principal {
    Principal { name, proof: Proof::Policy(Grant { verb, refs, datacenters }) }
}

const fn unproven(name: &'static str) -> Principal {
    Principal { name, proof: Proof::Nothing }
}

pub(crate) const PRINCIPALS: [Principal; 16] = [
    unproven("nobody"),
    unproven("wrong"),
    unproven("expired"),
    unproven("revoked"),
    unproven("truncated"),
    granted("reader", "read", None, None),
    granted("west-reader", "read", None, Some("us-west/*")),
    granted("pusher", "push", Some("services/web/*"), None),
    granted("keeper", "secrets", None, Some("us-west/*")),
    Principal { name: "cache", proof: Proof::Slave("us-west/*") },
    Principal { name: "far-cache", proof: Proof::Slave("eu-north/*") },
    Principal { name: "web-1", proof: Proof::Host(DATACENTER, "web-1") },
    Principal { name: "far-1", proof: Proof::Host(ELSEWHERE, "far-1") },
    Principal { name: "joined-1", proof: Proof::Joined(DATACENTER, "joined-1") },
    Principal { name: "fleet", proof: Proof::Joins(DATACENTER) },
    granted("admin", "administer", None, None),
];

/// The policy that gives each principal its right, and that of all administrators to the groups of
/// tokens.
pub(crate) fn policy() -> String {
    let (mut groups, mut rights) = ("groups:\n".to_owned(), "rights:\n".to_owned());
    let _ = writeln!(rights, "  - {{group: administrators, may: [administer]}}");
    for Principal { name, proof } in PRINCIPALS {
        let Proof::Policy(Grant { verb, refs, datacenters }) = proof else { continue };
        let list = |key: &str, pattern: Option<&str>| {
            pattern.map(|pattern| format!(", {key}: [\"{pattern}\"]")).unwrap_or_default()
        };
        let (refs, datacenters) = (list("refs", refs), list("datacenters", datacenters));
        let _ = writeln!(groups, "  {name}: [{name}]");
        let _ = writeln!(rights, "  - {{group: {name}, may: [{verb}]{refs}{datacenters}}}");
    }
    groups + &rights
}

/// Tells what becomes of a request that needs a right.
pub(crate) fn expected(tier: Tier, verb: &str, about: About, proof: Proof) -> Outcome {
    if verb == "none" {
        return Outcome::Allowed;
    }
    let is_known = match tier {
        Tier::Master => !matches!(proof, Proof::Nothing),
        // It knows those whom conf-master names to it: who reads its datacenter.
        Tier::Slave => reads(proof, DATACENTER),
    };
    let may = match tier {
        Tier::Master => master_lets(verb, about, proof),
        Tier::Slave => slave_lets(verb, about, proof),
    };
    match (is_known, may) {
        (false, _) => Outcome::Unproven,
        (true, false) => Outcome::Denied,
        (true, true) => Outcome::Allowed,
    }
}

fn master_lets(verb: &str, about: About, proof: Proof) -> bool {
    let policy = |reference: Option<&str>, datacenters: &[&str]| match proof {
        Proof::Policy(grant) => grant.allows(verb, reference, datacenters),
        _ => false,
    };
    let everywhere = || matches!(proof, Proof::Policy(grant) if grant.datacenters.is_none()) && policy(None, &[]);
    match (verb, about) {
        ("read", About::Oneself) => true,
        ("read" | "administer", About::Everything) => everywhere(),
        ("read", About::Datacenter(datacenter) | About::Snapshot(datacenter)) => reads(proof, datacenter),
        ("read", About::Repository) => match proof {
            Proof::Policy(grant) => ["read", "administer"].contains(&grant.verb),
            Proof::Slave(_) | Proof::Host(..) | Proof::Joined(..) => true,
            Proof::Nothing | Proof::Joins(_) => false,
        },
        // Of those who read a datacenter, its conf-slaves and administrators alone.
        ("read", About::Readers(datacenter)) => match proof {
            Proof::Slave(pattern) => fits(pattern, datacenter),
            Proof::Policy(grant) => grant.verb == "administer",
            _ => false,
        },
        ("report", About::Host(datacenter, host)) => match proof {
            Proof::Slave(pattern) => fits(pattern, datacenter),
            Proof::Host(own, name) | Proof::Joined(own, name) => (own, name) == (datacenter, host),
            _ => policy(None, &[datacenter]),
        },
        // Whoever may change anything.
        ("push", About::RefsBeforePush) => {
            matches!(proof, Proof::Policy(grant) if !["read", "report"].contains(&grant.verb))
        }
        ("push", About::Branch(name)) => policy(Some(name), &DATACENTERS),
        ("secrets", About::Datacenter(datacenter)) => policy(None, &[datacenter]),
        _ => panic!("the model does not know who has the right {verb:?} about {about:?}"),
    }
}

fn slave_lets(verb: &str, about: About, proof: Proof) -> bool {
    match (verb, about) {
        ("read", About::Cache) => true,
        // It does not know who is an administrator.
        ("read", About::Readers(_)) => !matches!(proof, Proof::Host(..) | Proof::Joined(..)),
        // It is told who reads, and which tokens are of hosts and of conf-slaves.
        ("report", About::Host(_, host)) => match proof {
            Proof::Slave(_) => true,
            Proof::Host(_, own) | Proof::Joined(_, own) => own == host,
            _ => false,
        },
        // The way up is for other conf-slaves; where it stands in for Consul, its keys are theirs.
        ("read" | "report", About::WayUp) | ("administer", About::Cache) => matches!(proof, Proof::Slave(_)),
        // It is a cache.
        ("push", About::Cache) => false,
        _ => panic!("the model does not know who has the right {verb:?} about {about:?} on a conf-slave"),
    }
}

/// Tells whether somebody reads a datacenter.
fn reads(proof: Proof, datacenter: &str) -> bool {
    match proof {
        Proof::Nothing | Proof::Joins(_) => false,
        Proof::Policy(grant) => grant.allows("read", None, &[datacenter]),
        Proof::Slave(pattern) => fits(pattern, datacenter),
        Proof::Host(own, _) | Proof::Joined(own, _) => own == datacenter,
    }
}

impl Grant {
    /// Tells whether it gives a right, on a ref, for all of these datacenters.
    fn allows(self, verb: &str, reference: Option<&str>, datacenters: &[&str]) -> bool {
        let has = self.verb == verb || self.verb == "administer";
        let on_ref = self.refs.is_none_or(|pattern| reference.is_some_and(|name| fits(pattern, name)));
        let of_all = |pattern: &str| datacenters.iter().all(|datacenter| fits(pattern, datacenter));
        has && on_ref && self.datacenters.is_none_or(of_all)
    }
}

/// The patterns of this story end with a star.
fn fits(pattern: &str, text: &str) -> bool {
    pattern.strip_suffix('*').is_some_and(|start| text.starts_with(start))
}
