//! The description of this API for programs (`OpenAPI` 3.1), tested against what the server does.

use bytes::Bytes;
use conf_core::http::{Routes, bytes_of};
use http::StatusCode;
use warp::Filter as _;

const DESCRIPTION: &str = include_str!("openapi.json");

/// `GET /api/v1/openapi.json`
pub(crate) fn routes() -> Routes {
    warp::path!("api" / "v1" / "openapi.json")
        .and(warp::get())
        .map(|| bytes_of(StatusCode::OK, "application/json", Bytes::from_static(DESCRIPTION.as_bytes())))
        .boxed()
}
