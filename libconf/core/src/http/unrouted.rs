//! Answers to requests that no route took.

use std::convert::Infallible;

use http::{StatusCode, header};
use warp::Rejection;

use crate::http::answer::{Response, error};
use crate::http::description::OtherMethod;

/// Answers a request that no route took.
pub(crate) async fn refuse(rejection: Rejection) -> Result<Response, Infallible> {
    use warp::reject::{InvalidHeader, InvalidQuery, MethodNotAllowed, MissingHeader};
    if let Some(OtherMethod(takes)) = rejection.find() {
        let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method");
        response.headers_mut().insert(header::ALLOW, takes.clone());
        return Ok(response);
    }
    // A route that read the query had matched path and method, so another route's word about the
    // method does not count.
    let (status, words) = if let Some(cause) = rejection.find::<InvalidQuery>() {
        (StatusCode::BAD_REQUEST, format!("the query is not as expected: {cause}"))
    } else if rejection.find::<MethodNotAllowed>().is_some() {
        (StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method".to_owned())
    } else if let Some(cause) = rejection.find::<MissingHeader>() {
        (StatusCode::BAD_REQUEST, cause.to_string())
    } else if let Some(cause) = rejection.find::<InvalidHeader>() {
        (StatusCode::BAD_REQUEST, cause.to_string())
    } else {
        (StatusCode::NOT_FOUND, "there is nothing at this path".to_owned())
    };
    Ok(error(status, words))
}
