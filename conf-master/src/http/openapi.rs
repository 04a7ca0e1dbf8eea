//! The description of this API for programs (`OpenAPI` 3.1), tested against what the server does.

use bytes::Bytes;
use http::StatusCode;
use libconf::tier::http::{Routes, bytes_of};
use warp::Filter as _;

const DESCRIPTION: &str = include_str!("openapi.json");

/// `GET /api/v1/openapi.json`
pub(super) fn routes() -> Routes {
    warp::path!("api" / "v1" / "openapi.json")
        .and(warp::get())
        .map(|| bytes_of(StatusCode::OK, "application/json", Bytes::from_static(DESCRIPTION.as_bytes())))
        .boxed()
}
