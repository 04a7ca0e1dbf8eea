//! `/api/v1/standby`: what is newest here, for standbys, who wait for it, and which standbys there
//! are; `/api/v1/succession`: another conf-master leads in the place of this one.

use std::time::Duration;

use conf_core::api::{KeyStatement, KeysEvent};
use conf_core::daemon::{blocking, chain};
use conf_core::http::{Request, Routes, error, json, request};
use http::StatusCode;
use serde_json::json;
use warp::Filter as _;

use crate::http::server::{Answered, Server, answer, unavailable};
use crate::standby::succession::{self, NoSuccession};
use crate::standby::{ListedStandby, StandbyAnswer, StandbyCall};
use crate::store;

/// The most bytes of a question.
const BODY_BYTES: usize = 4 << 10;
/// The most bytes of the statements about keys.
const MOST_OF_SUCCESSION: usize = 4 << 20;
/// How long a standby that has everything waits for more: after that it asks again, which shows
/// that it is there.
const HOLD: Duration = Duration::from_secs(5);

/// The routes at `/api/v1/standby`.
pub(crate) fn routes(server: Server) -> Routes {
    let with = warp::any().map(move || server.clone());
    let ending = with.clone();
    let path = || warp::path!("api" / "v1" / "standby");
    let show = path().and(warp::get()).and(with.clone()).map(|server: Server| json(StatusCode::OK, &server.newest()));
    let ask = path().and(warp::post()).and(request()).and(with).then(|request: Request, server: Server| {
        answer(async move {
            request.check_query(&[])?;
            let call = request.body.json(BODY_BYTES).await?;
            server.tell(call).await
        })
    });
    let end = warp::path!("api" / "v1" / "succession").and(warp::post()).and(request()).and(ending).then(
        |request: Request, server: Server| {
            answer(async move {
                request.check_query(&[])?;
                let told: serde_json::Value = request.body.json(MOST_OF_SUCCESSION).await?;
                let told = serde_json::from_value::<KeysEvent>(told);
                let told =
                    told.map_err(|_| error(StatusCode::UNPROCESSABLE_ENTITY, "these are no statements about keys"))?;
                server.end(&told.statements).await
            })
        },
    );
    show.boxed().or(ask.boxed()).unify().or(end.boxed()).unify().boxed()
}

impl Server {
    /// Notes what a standby has, and answers when there is more.
    async fn tell(&self, call: StandbyCall) -> Answered {
        if let Some(leader) = &self.lander.published.borrow().leader {
            let words = format!("this conf-master is a standby itself; follow {leader}, its leader");
            return Err(error(StatusCode::CONFLICT, words));
        }
        let mut newest = self.lander.newest.clone();
        let StandbyCall { name, ledger, sequence } = call;
        self.lander.standbys.hear(&name, ledger, sequence).map_err(|words| unavailable(&words))?;
        let _ = tokio::time::timeout(HOLD, newest.wait_for(|(newest, _)| *newest != ledger)).await;
        Ok(json(StatusCode::OK, &self.newest()))
    }

    /// Ends this server, if the statements prove that another one goes on with its history.
    async fn end(&self, told: &[KeyStatement]) -> Answered {
        let published = self.lander.published.borrow().clone();
        let Some(key) = published.signer.as_ref().filter(|_| published.leader.is_none()) else {
            return Ok(json(StatusCode::OK, &json!({"ended": false})));
        };
        let words = match succession::judge(&published.keys, told, key) {
            Ok(words) => words,
            // It says the same: it has followed that one since.
            Err(NoSuccession::NotLater) if published.keys.as_slice() == told => {
                return Ok(json(StatusCode::OK, &json!({"ended": false})));
            }
            Err(why) => {
                tracing::error!("another conf-master says that it leads: {why}");
                return Err(error(StatusCode::CONFLICT, why));
            }
        };
        tracing::error!("{words}");
        let path = self.repo.clone();
        if let Err(cause) = blocking(move || store::note_superseded(&path, &words)).await {
            tracing::error!(error = chain(&*cause), "this cannot be noted, and is forgotten with the next start");
        }
        self.stop.cancel();
        Ok(json(StatusCode::OK, &json!({"ended": true})))
    }

    fn newest(&self) -> StandbyAnswer {
        let (ledger, sequence) = *self.lander.newest.borrow();
        let published = self.lander.published.borrow().clone();
        let standbys = self.lander.standbys.all().into_iter().map(|(name, one)| ListedStandby {
            name,
            sequence: one.sequence,
            in_sync: one.in_sync,
            seconds: one.heard.elapsed().as_secs(),
        });
        StandbyAnswer {
            leader: published.leader.as_ref().map(ToString::to_string),
            ledger,
            sequence,
            epoch: published.epoch(),
            sync: self.lander.standbys.rule().standbys,
            standbys: standbys.collect(),
        }
    }
}
