//! What a policy would refuse, and what somebody may do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use conf_core::access::{Named, Policy, PolicyFault, Scope};
use conf_core::http::{Request, Response, Routes, Who, asker, error, json, request};
use http::StatusCode;
use libconf::name::{BadName, DatacenterName, PrincipalName, RefName};
use serde::Deserialize;
use serde_json::json as value;
use warp::Filter as _;

use crate::fault::{Fault, Refusal};
use crate::http::server::{Answered, Server, answer, unavailable};
use crate::inspect::policy::{self, PolicyExplanation};
use crate::text::now;

/// The most bytes of a question: JSON may write a policy at twice its length.
const BYTES: usize = 2 << 20;

/// Policies that are tried at once, half of them for one peer, and those that wait for that: each
/// may keep a processor busy.
pub(crate) const TRIALS_AT_ONCE: u64 = 2;
pub(crate) const TRIALS_WAITING: usize = 16;
/// How long each of them waits, and how long one trial takes at most: its patterns are somebody
/// else's.
const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(5);

/// The body of a test.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyBody {
    /// The text of a policy.yaml.
    policy: String,
}

#[derive(Deserialize)]
struct Query {
    #[serde(rename = "as")]
    name: PrincipalName,
    #[serde(rename = "ref")]
    reference: String,
    datacenter: Option<DatacenterName>,
}

/// `GET /api/v1/policy?as=NAME&ref=REF[&datacenter=…]` and `POST /api/v1/policy/test`
pub(crate) fn routes(server: Server) -> Routes {
    let with = {
        let server = server.clone();
        move || server.clone()
    };
    let explain = warp::path!("api" / "v1" / "policy").and(warp::get()).and(warp::query()).and(asker()).then(
        move |query: Query, who: Who| {
            let server = with();
            answer(async move { server.explain_policy(query, who).await })
        },
    );
    let test =
        warp::path!("api" / "v1" / "policy" / "test").and(warp::post()).and(request()).then(move |request: Request| {
            let server = server.clone();
            answer(async move { server.test_policy(request).await })
        });
    explain.boxed().or(test.boxed()).unify().boxed()
}

impl Server {
    async fn explain_policy(&self, Query { name, reference, datacenter }: Query, who: Who) -> Answered {
        let reference = named_ref(&reference).map_err(|bad| error(StatusCode::BAD_REQUEST, bad))?;
        let rights = self.lander.published.borrow().rights.clone();
        let run = self.lander.datacenters_of(&reference).await;
        self.read(who, move |_| {
            let scope = Scope::Policy;
            let groups = rights.tokens.groups_of(&name, now());
            let named = Named { name, groups, scope, token: None };
            let datacenters: BTreeSet<DatacenterName> = datacenter.map_or(run, |one| BTreeSet::from([one]));
            let explanation = PolicyExplanation {
                policy: rights.policy_version,
                open: rights.is_open,
                groups: rights.policy.groups_of(&named),
                rights: policy::explain(&rights.policy, &named, &reference, &datacenters),
                datacenters,
            };
            Ok(json(StatusCode::OK, &explanation))
        })
        .await
    }

    async fn test_policy(&self, request: Request) -> Answered {
        request.check_query(&[])?;
        let who = request.who();
        let PolicyBody { policy } = request.body.json(BYTES).await?;
        let Ok(turn) = self.trials.take(who, 1, PATIENCE).await else {
            return Err(unavailable("others try policies at this time; try yours again in a moment"));
        };
        let (ledger, rights) = (self.lander.durable().ledger, self.lander.published.borrow().rights.clone());
        self.read_now(who, move |repo| {
            // The place is held to the end, even when whoever asked has gone.
            let _turn = turn;
            let until = Instant::now() + LONGEST;
            let policy = match parse(&policy) {
                Ok(policy) => policy,
                Err(refusal) => {
                    let body = value!({"error": refusal.reason, "faults": refusal.faults});
                    return Ok(json(StatusCode::UNPROCESSABLE_ENTITY, &body));
                }
            };
            let trial = policy::trial(repo, ledger, &policy, (&rights.tokens, now()), until)?;
            Ok(trial.map_or_else(too_long, |trial| json(StatusCode::OK, &trial)))
        })
        .await
    }
}

fn too_long() -> Response {
    let words = format!(
        "this policy takes longer than {} s to be held against the last changes, and so it would take long for each change; \
         write fewer patterns, or shorter ones",
        LONGEST.as_secs()
    );
    error(StatusCode::GATEWAY_TIMEOUT, words)
}

/// Reads the name of a ref, as people write it: `refs/tags/` must stand before a tag.
fn named_ref(text: &str) -> Result<RefName, BadName> {
    text.parse().or_else(|bad| format!("refs/heads/{text}").parse().map_err(|_| bad))
}

fn parse(text: &str) -> Result<Policy, Refusal> {
    Policy::parse(text).map_err(|faults| {
        let fault = |PolicyFault { line, pointer, reason }: PolicyFault| {
            let (file, pointer) = (Some(Policy::FILE.to_owned()), Some(pointer));
            Fault { file, line, pointer, ..Fault::new(reason) }
        };
        Refusal::of(faults.into_iter().map(fault).collect())
    })
}
