//! A push, an update or a request about secrets on its way to the landing thread, and its outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use conf_core::access::{Principal, TokenId};
use conf_core::address::BaseUrl;
use conf_core::api::KeyStatement;
use conf_core::http::Who;
use conf_core::sign::SigningKey;
use conf_core::snapshot::Snapshot;
use libconf::name::{CommitId, DatacenterName, ObjectId, RefName, Sequence};

use crate::access::AccessRequest;
use crate::fault::{Refusal, RefusalKind};
use crate::judge::{ChangePlan, ProposalOptions, RefUpdate, Rights};
use crate::landing::standbys::NotNow;
use crate::landing::update::request::{Update, UpdateOutcome};
use crate::secrets::SecretRequest;
use crate::store::{LandedRequest, Proven, RequestKey};
use crate::text::one_line;

/// Who pushes, and through what.
#[derive(Clone, Debug)]
pub(crate) struct Pusher {
    /// Who it is, as far as that is proven.
    pub(crate) principal: Principal,
    /// The way in: `http <address>`, `path`, `ssh`.
    pub(crate) through: String,
    /// Whose pushes are counted together.
    pub(crate) who: Who,
}

impl Pusher {
    /// The pusher's name, where one was proven; else the committer of the pushed commits stands in.
    pub(crate) fn by(&self) -> Option<String> {
        (self.principal != Principal::Anybody).then(|| one_line(&self.principal.to_string()))
    }

    /// Whether that name is proven.
    pub(crate) fn proven(&self) -> Proven {
        match self.principal {
            Principal::Server | Principal::Named(_) => Proven::Yes,
            Principal::Owner(_) => Proven::Owner,
            Principal::Anybody => Proven::No,
        }
    }

    /// The token that proved the name, if one did.
    pub(crate) fn token(&self) -> Option<TokenId> {
        self.principal.named().and_then(|named| named.token.clone())
    }
}

/// Something that shall land.
#[derive(Clone, Debug)]
pub(crate) struct Push {
    /// The refs. An update and a request about secrets name the refs alone.
    pub(crate) updates: Vec<RefUpdate>,
    /// All of them or none.
    pub(crate) atomic: bool,
    /// Who pushes; both texts are one line.
    pub(crate) pusher: Pusher,
    /// The id of the request, as logs show it.
    pub(crate) request: String,
    /// What was asked for besides the change itself.
    pub(crate) options: ProposalOptions,
    /// The source of the new commits.
    pub(crate) content: PushContent,
}

/// The source of the commits that land.
#[derive(Clone, Debug)]
pub(crate) enum PushContent {
    /// They were pushed.
    Commits,
    /// The landing thread makes them from sections.
    Sections(Update),
    /// The landing thread makes them from a request about secrets.
    Secrets(SecretRequest),
    /// The landing thread makes them from a request about tokens.
    Access(AccessRequest),
    /// The landing thread makes them from a request about the keys that sign.
    Keys(KeyRequest),
}

/// A change of the keys that sign; it lands as a change of its own.
#[derive(Clone, Debug)]
pub(crate) enum KeyRequest {
    /// Makes another key, which signs from then on.
    Rotate {
        /// The old one counts for nothing new from then on.
        revokes_old: bool,
    },
    /// A key counts for nothing new, by its fingerprint.
    Revoke(String),
    /// The history goes on in another epoch, whose first change is above this one and above every
    /// change that is known here.
    Succeed {
        /// The highest number that anybody has seen.
        above: Sequence,
    },
}

/// Why every datacenter gets a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anew {
    /// Another key signs.
    Key,
    /// The history goes on in another epoch, which begins with this change.
    Epoch(Sequence),
}

impl PushContent {
    /// The idempotency key, if the request has one.
    pub(crate) fn key(&self) -> Option<&RequestKey> {
        match self {
            PushContent::Sections(update) => update.key.as_ref(),
            PushContent::Commits | PushContent::Secrets(_) | PushContent::Access(_) | PushContent::Keys(_) => None,
        }
    }
}

impl Push {
    /// Makes a push of commits.
    pub(crate) fn commits(updates: Vec<RefUpdate>, atomic: bool, pusher: &Pusher, options: ProposalOptions) -> Self {
        let pusher = Pusher { through: one_line(&pusher.through), ..pusher.clone() };
        let request = format!("{:016x}", rand::random::<u64>());
        Push { updates, atomic, pusher, request, options, content: PushContent::Commits }
    }

    /// Makes a push of sections, whose idempotency key is the pusher's.
    pub(crate) fn sections(mut update: Update, pusher: &Pusher, options: ProposalOptions) -> Self {
        update.key = update.key.map(|key| key.of(pusher.principal.named().map(|named| &named.name)));
        let updates = update.references().iter().map(unknown).collect();
        Push { content: PushContent::Sections(update), ..Push::commits(updates, true, pusher, options) }
    }

    /// Begins an epoch.
    pub(crate) fn is_promotion(&self) -> bool {
        matches!(self.content, PushContent::Keys(KeyRequest::Succeed { .. }))
    }

    /// Makes a push of a request about secrets.
    pub(crate) fn secrets(request: SecretRequest, pusher: &Pusher) -> Self {
        let updates = vec![unknown(&request.reference())];
        let push = Push::commits(updates, true, pusher, ProposalOptions::default());
        Push { content: PushContent::Secrets(request), ..push }
    }

    /// Makes a push of a request about tokens.
    pub(crate) fn access(request: AccessRequest, pusher: &Pusher) -> Self {
        let push = Push::commits(vec![unknown(&RefName::Access)], true, pusher, ProposalOptions::default());
        Push { content: PushContent::Access(request), ..push }
    }

    /// Makes a push of a request about the keys that sign.
    pub(crate) fn keys(request: KeyRequest, pusher: &Pusher) -> Self {
        let push = Push::commits(vec![unknown(&RefName::Keys)], true, pusher, ProposalOptions::default());
        Push { content: PushContent::Keys(request), ..push }
    }
}

/// Names a ref whose commits are not made yet.
fn unknown(name: &RefName) -> RefUpdate {
    RefUpdate { name: name.to_string(), old: ObjectId::ZERO, new: ObjectId::ZERO }
}

/// The outcome of a push.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// For each ref update, in order: `None` when it landed, else the reason.
    pub(crate) refusals: Vec<Option<Refusal>>,
    /// What the pusher is told.
    pub(crate) notes: Vec<String>,
    /// The number of the change, when anything landed.
    pub(crate) sequence: Option<Sequence>,
    /// The effect that it would have, for a dry run.
    pub(crate) plan: Option<ChangePlan>,
    /// The outcome of an update, where it says more than the refusals.
    pub(crate) update: Option<UpdateOutcome>,
    /// The commit of the policy that it was held against.
    pub(crate) policy: Option<CommitId>,
    /// To judge it takes longer than others can wait: it is judged beside them first.
    pub(crate) is_long: bool,
}

impl Outcome {
    /// Refuses every ref for one reason; with no refs, still returns that reason once.
    pub(crate) fn refused(refs: usize, why: &Refusal) -> Self {
        Outcome { refusals: vec![Some(why.clone()); refs.max(1)], ..Outcome::default() }
    }

    /// Refuses a push while nothing may land.
    pub(crate) fn not_now(push: &Push, why: NotNow) -> Self {
        let words = format!("nothing lands now: {why}; try again");
        Outcome::refused(push.updates.len(), &Refusal::new(RefusalKind::Busy, words))
    }

    /// Says of what is durable here alone that nobody knows yet whether it stays.
    pub(crate) fn held(self, why: NotNow) -> Self {
        let Some(sequence) = self.sequence else { return self };
        let words = format!("#{sequence} is on this machine alone, and may be lost: {why}; look again later");
        let refusals =
            self.refusals.into_iter().map(|one| one.or_else(|| Some(Refusal::new(RefusalKind::Busy, &words))));
        Outcome { refusals: refusals.collect(), sequence: None, update: None, notes: Vec::new(), ..self }
    }

    /// Leaves a push for now that others would wait for.
    pub(crate) fn put_off(push: &Push) -> Self {
        let why = "others landed meanwhile, and to look at it again takes long; push again";
        let refused = Outcome::refused(push.updates.len(), &Refusal::new(RefusalKind::Busy, why));
        Outcome { is_long: true, ..refused }
    }

    /// Answers a request whose key is known already.
    pub(crate) fn landed_before(update: &Update, landed: &LandedRequest) -> Self {
        let refs = update.references().len();
        if update.key.as_ref().is_some_and(|key| key.is_of(landed)) {
            let (refusals, sequence) = (vec![None; refs], Some(landed.sequence));
            let update = Some(UpdateOutcome::Landed { refs: landed.refs.clone(), again: true });
            return Outcome { refusals, sequence, update, ..Outcome::default() };
        }
        let reason = format!(
            "another request landed under this idempotency key, as #{}; a new request needs a new key",
            landed.sequence
        );
        Outcome::refused(refs, &Refusal::new(RefusalKind::Invalid, reason))
    }
}

/// Whom a standby follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leader {
    /// The conf-master at this URL.
    At(BaseUrl),
    /// Whoever is elected; nobody is known yet.
    Unknown,
}

impl fmt::Display for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leader::At(url) => url.fmt(f),
            Leader::Unknown => f.write_str("the conf-master that is elected next"),
        }
    }
}

/// The state that everyone may know after a landing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    /// The newest change.
    pub(crate) sequence: Sequence,
    /// Every datacenter's newest snapshot.
    pub(crate) datacenters: BTreeMap<DatacenterName, Snapshot>,
    /// The datacenters that were deleted.
    pub(crate) deleted: BTreeSet<DatacenterName>,
    /// Who may do what.
    pub(crate) rights: Rights,
    /// Whom this conf-master follows, where it is a standby and lands nothing.
    pub(crate) leader: Option<Leader>,
    /// The key that signs; `None` before anything was read.
    pub(crate) signer: Option<Arc<SigningKey>>,
    /// The statements about keys.
    pub(crate) keys: Arc<Vec<KeyStatement>>,
}

impl Published {
    /// The epoch of the history.
    pub(crate) fn epoch(&self) -> u32 {
        epoch_of(&self.keys)
    }
}

/// The epoch that these statements lead to.
pub(crate) fn epoch_of(statements: &[KeyStatement]) -> u32 {
    1 + u32::try_from(statements.iter().filter(|one| one.continues.is_some()).count()).unwrap_or(u32::MAX - 1)
}
