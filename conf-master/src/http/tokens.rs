//! `/api/v1/tokens`: tokens without their secret, a new one, the end of one; `/api/v1/principal`:
//! who asks.

use conf_core::access::{Principal, TokenId};
use conf_core::http::{Request, Response, Routes, error, json, request};
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use warp::Filter as _;

use crate::http::server::{Answered, Server, answer, bare, pusher, refused};
use crate::landing::Pusher;
use crate::tokens::TokenCall;

/// The most bytes of a request.
const BODY_BYTES: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateBody {
    /// How many seconds the old token stays good.
    #[serde(default)]
    overlap: u32,
}

#[derive(Deserialize)]
struct RevokeQuery {
    /// The hosts that joined by it end with it.
    #[serde(default)]
    joined: bool,
}

/// The routes below `/api/v1/tokens`, and `/api/v1/principal`.
pub(crate) fn routes(server: Server) -> Routes {
    let with = warp::any().map(move || server.clone());
    let resuming = with.clone();
    let all = || warp::path!("api" / "v1" / "tokens");
    let one = || warp::path!("api" / "v1" / "tokens" / String);
    let list = all().and(warp::get()).and(request()).and(with.clone()).then(|request: Request, server: Server| {
        answer(async move { server.tokens(TokenCall::List, pusher(&request), StatusCode::OK).await })
    });
    let add = all().and(warp::post()).and(request()).and(with.clone()).then(|request: Request, server: Server| {
        answer(async move {
            request.check_query(&[])?;
            let about = pusher(&request);
            let new = request.body.json(BODY_BYTES).await?;
            server.tokens(TokenCall::Add(new), about, StatusCode::CREATED).await
        })
    });
    let revoke = one().and(warp::delete()).and(warp::query()).and(request()).and(with.clone()).then(
        |id: String, RevokeQuery { joined }: RevokeQuery, request: Request, server: Server| {
            answer(async move {
                let (id, about) = (parse(&id)?, bare(request, &["joined"]).await?);
                let call = if joined { TokenCall::RevokeJoined(id) } else { TokenCall::Revoke(id) };
                server.tokens(call, about, StatusCode::OK).await
            })
        },
    );
    let rotate =
        warp::path!("api" / "v1" / "tokens" / String / "rotate").and(warp::post()).and(request()).and(with).then(
            |id: String, request: Request, server: Server| {
                answer(async move {
                    request.check_query(&[])?;
                    let (id, about) = (parse(&id)?, pusher(&request));
                    let RotateBody { overlap } = request.body.json(BODY_BYTES).await?;
                    server.tokens(TokenCall::Rotate(id, overlap), about, StatusCode::CREATED).await
                })
            },
        );
    let resume =
        warp::path!("api" / "v1" / "tokens" / String / "resume").and(warp::post()).and(request()).and(resuming).then(
            |id: String, request: Request, server: Server| {
                answer(async move {
                    let (id, about) = (parse(&id)?, bare(request, &[]).await?);
                    server.tokens(TokenCall::Resume(id), about, StatusCode::OK).await
                })
            },
        );
    let own = warp::path!("api" / "v1" / "principal").and(warp::get()).and(request()).map(|request: Request| {
        let Principal::Named(named) = &request.principal else {
            return json(StatusCode::OK, &json!({"name": null}));
        };
        let (name, groups, scope, token) = (&named.name, &named.groups, &named.scope, &named.token);
        json(StatusCode::OK, &json!({"name": name, "groups": groups, "scope": scope, "token": token}))
    });
    let change = add.boxed().or(revoke.boxed()).unify().or(rotate.boxed()).unify().or(resume.boxed()).unify();
    list.boxed().or(change.boxed()).unify().or(own.boxed()).unify().boxed()
}

fn parse(id: &str) -> Result<TokenId, Response> {
    id.parse().map_err(|bad| error(StatusCode::BAD_REQUEST, bad))
}

impl Server {
    async fn tokens(&self, call: TokenCall, pusher: Pusher, status: StatusCode) -> Answered {
        let uses = self.authenticator.uses();
        let done = self.lander.tokens(call, &pusher, &uses).await;
        done.map(|done| {
            let mut response = json(status, &done);
            // It may hold a token.
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        })
        .map_err(refused)
    }
}
