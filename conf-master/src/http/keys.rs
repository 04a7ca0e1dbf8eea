//! `GET /api/v1/keys`: the statements about the keys that sign. They prove themselves, and every
//! conf-slave and host may ask for them.

use conf_core::api::KeysEvent;
use conf_core::http::{Routes, json};
use http::StatusCode;
use warp::Filter as _;

use crate::http::server::Server;

/// The route.
pub(crate) fn routes(server: Server) -> Routes {
    let keys = warp::path!("api" / "v1" / "keys").and(warp::get()).map(move || {
        let statements = server.lander.published.borrow().keys.to_vec();
        json(StatusCode::OK, &KeysEvent { statements })
    });
    keys.boxed()
}
