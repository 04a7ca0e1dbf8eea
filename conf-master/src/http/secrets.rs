//! `/api/v1/datacenters/<id>/<version>/secrets`: secrets without their values, setting a value,
//! making a new one, removal.

use conf_core::http::{Request, Routes, Who, asker, error, json, request};
use conf_core::secret::{MAX_VALUE_BYTES, SecretValue};
use http::StatusCode;
use libconf::name::{DatacenterName, SecretName};
use serde::Deserialize;
use serde_json::json;
use warp::Filter as _;
use zeroize::Zeroizing;

use crate::http::server::{Answered, NamedDatacenter, Server, answer, bare, datacenter, pusher, refused};
use crate::landing::{Push, Pusher};
use crate::secrets::{SecretRequest, list};
use crate::text::now;

/// The most bytes of a request: every byte of a value escaped, and the JSON around it.
const BODY_BYTES: usize = 6 * MAX_VALUE_BYTES + 1024;

/// The body with a value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBody {
    value: Zeroizing<String>,
}

/// The routes that begin with `/api/v1/datacenters/<id>/<version>/secrets`.
pub(crate) fn routes(server: Server) -> Routes {
    let with = warp::any().map(move || server.clone());
    let all = || datacenter().and(warp::path!("secrets" / ..));
    let one = || all().and(warp::path::param::<String>());
    let end = warp::path::end;
    let list = all().and(end()).and(warp::get()).and(asker()).and(with.clone()).then(
        |name: NamedDatacenter, who: Who, server: Server| answer(async move { server.secrets(&name?, who).await }),
    );
    let set = one().and(end()).and(warp::put()).and(request()).and(with.clone()).then(
        |name: NamedDatacenter, secret: String, request: Request, server: Server| {
            answer(async move { server.set_secret(name?, secret, request).await })
        },
    );
    let remove = one().and(end()).and(warp::delete()).and(request()).and(with.clone()).then(
        |name: NamedDatacenter, secret: String, request: Request, server: Server| {
            answer(async move {
                let pusher = bare(request, &[]).await?;
                server.land(name?, &secret, &pusher, SecretRequest::Remove).await
            })
        },
    );
    let rotate = one().and(warp::path!("rotate")).and(warp::post()).and(request()).and(with).then(
        |name: NamedDatacenter, secret: String, request: Request, server: Server| {
            answer(async move {
                let pusher = bare(request, &[]).await?;
                server.land(name?, &secret, &pusher, SecretRequest::Rotate).await
            })
        },
    );
    let one = set.boxed().or(remove.boxed()).unify().or(rotate.boxed()).unify();
    list.boxed().or(one.boxed()).unify().boxed()
}

impl Server {
    async fn secrets(&self, name: &DatacenterName, who: Who) -> Answered {
        let snapshot = self.snapshot(name)?;
        self.read(who, move |repo| Ok(json(StatusCode::OK, &list::list(repo, &snapshot, now())?))).await
    }

    async fn set_secret(&self, datacenter: DatacenterName, secret: String, request: Request) -> Answered {
        request.check_query(&[])?;
        let pusher = pusher(&request);
        let bytes = request.body.bytes(BODY_BYTES).await?;
        let bad = |words: String| error(StatusCode::BAD_REQUEST, words);
        // The words of the library are not shown: they may hold a part of the value.
        let Ok(SetBody { value }) = serde_json::from_slice(&bytes) else {
            return Err(bad("the body is not as expected; send {\"value\": \"…\"}".to_owned()));
        };
        if value.is_empty() || value.len() > MAX_VALUE_BYTES {
            return Err(bad(format!("a value has 1 to {MAX_VALUE_BYTES} bytes")));
        }
        let set = |datacenter, secret| SecretRequest::Set(datacenter, secret, SecretValue::Text(value));
        self.land(datacenter, &secret, &pusher, set).await
    }

    /// Lands a request about one secret.
    async fn land(
        &self,
        datacenter: DatacenterName,
        secret: &str,
        pusher: &Pusher,
        about: impl FnOnce(DatacenterName, SecretName) -> SecretRequest,
    ) -> Answered {
        let secret = secret.parse().map_err(|bad| error(StatusCode::BAD_REQUEST, bad))?;
        let outcome = self.lander.land(Push::secrets(about(datacenter, secret), pusher)).await;
        let Some(sequence) = outcome.sequence else { return Err(refused(outcome.refusals)) };
        Ok(json(StatusCode::OK, &json!({"sequence": sequence, "notes": outcome.notes})))
    }
}
