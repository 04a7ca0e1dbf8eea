//! `/api/v1/datacenters/<id>/<version>/secrets`: what may be known of them, a given value, a new one, removal.

use conf_core::{
    http::{Request, Response, Routes, error, json, request},
    secret::{MAX_VALUE_BYTES, SecretValue},
};
use http::StatusCode;
use libconf::name::{DatacenterName, ObjectId, SecretName};
use serde::Deserialize;
use serde_json::json;
use warp::Filter as _;
use zeroize::Zeroizing;

use crate::http::{Server, git, named, update};
use crate::{
    judge::Wish,
    landing::{Options, Push, one_line},
    secrets::{list, order::Order},
    store as repository,
};

/// The most bytes of a request: every byte of a value escaped, and what stands around it.
const BODY_BYTES: usize = 6 * MAX_VALUE_BYTES + 1024;

/// A given value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBody {
    value: Zeroizing<String>,
}

/// All that begins with `/api/v1/datacenters/<id>/<version>/secrets`.
pub(crate) fn routes(server: Server) -> Routes {
    let with = warp::any().map(move || server.clone());
    let all = || warp::path!("api" / "v1" / "datacenters" / String / String / "secrets" / ..);
    let one = || all().and(warp::path::param::<String>());
    let end = warp::path::end;
    let list =
        all().and(end()).and(warp::get()).and(with.clone()).then(
            |id: String, version: String, server: Server| async move {
                named(&id, &version, |name| server.secrets(name)).await
            },
        );
    let set = one().and(end()).and(warp::put()).and(request()).and(with.clone()).then(
        |id: String, version: String, secret: String, request: Request, server: Server| async move {
            named(&id, &version, |name| server.set_secret(name, secret, request)).await
        },
    );
    let remove = one().and(end()).and(warp::delete()).and(request()).and(with.clone()).then(
        |id: String, version: String, secret: String, request: Request, server: Server| async move {
            named(&id, &version, |name| server.order(name, secret, request, Order::Remove)).await
        },
    );
    let rotate = one().and(warp::path!("rotate")).and(warp::post()).and(request()).and(with).then(
        |id: String, version: String, secret: String, request: Request, server: Server| async move {
            named(&id, &version, |name| server.order(name, secret, request, Order::Rotate)).await
        },
    );
    let one = set.boxed().or(remove.boxed()).unify().or(rotate.boxed()).unify();
    list.boxed().or(one.boxed()).unify().boxed()
}

impl Server {
    async fn secrets(&self, name: DatacenterName) -> Response {
        match self.snapshot(&name) {
            Ok(snapshot) => {
                self.read(move |repo| Ok(json(StatusCode::OK, &list::list(repo, &snapshot, repository::now())?))).await
            }
            Err(answer) => answer,
        }
    }

    async fn set_secret(&self, datacenter: DatacenterName, secret: String, mut request: Request) -> Response {
        let body = std::mem::replace(&mut request.body, bytes::Bytes::new().into());
        let bytes = match body.bytes(BODY_BYTES).await {
            Ok(bytes) => bytes,
            Err(answer) => return answer,
        };
        // The library's words may hold a part of the value.
        let Ok(SetBody { value }) = serde_json::from_slice(&bytes) else {
            return error(StatusCode::BAD_REQUEST, "the body is not as expected; send {\"value\": \"…\"}");
        };
        if value.is_empty() || value.len() > MAX_VALUE_BYTES {
            return error(StatusCode::BAD_REQUEST, format!("a value has 1 to {MAX_VALUE_BYTES} bytes"));
        }
        let set = |datacenter, secret| Order::Set(datacenter, secret, SecretValue::Text(value));
        self.order(datacenter, secret, request, set).await
    }

    /// Lands an order about one secret.
    async fn order(
        &self,
        datacenter: DatacenterName,
        secret: String,
        request: Request,
        order: impl FnOnce(DatacenterName, SecretName) -> Order,
    ) -> Response {
        let order = match secret.parse() {
            Ok(secret) => order(datacenter, secret),
            Err(bad) => return error(StatusCode::BAD_REQUEST, bad),
        };
        let pusher = git::pusher(&request);
        let references = order.references().into_iter();
        let wish =
            |name: libconf::name::RefName| Wish { name: name.to_string(), old: ObjectId::ZERO, new: ObjectId::ZERO };
        let push = Push {
            wishes: references.map(wish).collect(),
            atomic: true,
            by: pusher.by.as_deref().map(one_line),
            through: one_line(&pusher.through),
            request: format!("{:016x}", rand::random::<u64>()),
            options: Options::default(),
            update: None,
            order: Some(order),
        };
        let outcome = self.lander.land(push).await;
        match outcome.sequence {
            Some(sequence) => json(StatusCode::OK, &json!({"sequence": sequence, "notes": outcome.notes})),
            None => update::refused(outcome.refusals),
        }
    }
}
