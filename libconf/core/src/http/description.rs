//! The document that describes a daemon's routes (`OpenAPI` 3.1), which also lets requests in.
//!
//! A request reaches the routes only if the document lists its path and its method. So a route that
//! nobody has described answers nobody, and the document says which right a request needs.

use std::{future::ready, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};
use warp::{Filter as _, path::FullPath, reject::Reject};

use crate::{
    access::Verb,
    http::answer::{Routes, bytes_of},
};

/// The member of an operation that names the right which a request needs: a [`Verb`], or `none`.
const VERB: &str = "x-conf-verb";
/// The member of a path that names its last parameter, where that may hold slashes as they are.
const SLASHES: &str = "x-conf-slashes";
/// The members of a path that are operations.
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// Answers what the document describes: `GET /api/v1/openapi.json` with the document itself, and
/// all else by `routes`. Other paths are 404, and other methods 405 with those that the path takes.
///
/// Panics if the document is not in order: it is a part of the program.
pub fn described(document: &'static str, routes: Routes) -> Routes {
    let description = Arc::new(Description::of(document));
    let own = warp::path!("api" / "v1" / "openapi.json")
        .and(warp::get())
        .map(|| bytes_of(StatusCode::OK, "application/json", Bytes::from_static(document.as_bytes())));
    let is_described = warp::method()
        .and(warp::path::full())
        .and_then(move |method: Method, path: FullPath| {
            let found = description.find(&method, path.as_str()).map(|_| ());
            ready(found.map_err(|unknown| match unknown {
                Unknown::Path => warp::reject::not_found(),
                Unknown::Method(takes) => warp::reject::custom(takes),
            }))
        })
        .untuple_one();
    is_described.and(own.boxed().or(routes).unify()).boxed()
}

/// The operations of a document.
#[derive(Debug)]
struct Description(Vec<DescribedPath>);

#[derive(Debug)]
struct DescribedPath {
    parts: Vec<Part>,
    operations: Vec<(Method, Right)>,
    takes: OtherMethod,
}

/// A part of a path, between slashes.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Word(String),
    Parameter,
    /// A parameter with all that follows, which may be nothing.
    Rest,
}

/// The right that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Right {
    Of(Verb),
    None(NoVerb),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum NoVerb {
    None,
}

/// Why a request is not let in.
#[derive(Debug)]
enum Unknown {
    Path,
    Method(OtherMethod),
}

/// The path takes these methods only: the value of `Allow`.
#[derive(Clone, Debug)]
pub(crate) struct OtherMethod(pub(crate) HeaderValue);

impl Reject for OtherMethod {}

impl Description {
    fn of(document: &str) -> Self {
        let document: Value = serde_json::from_str(document).expect("the description is JSON");
        let paths = document["paths"].as_object().expect("the description lists paths");
        let mut paths: Vec<DescribedPath> = paths.iter().map(|(path, item)| DescribedPath::of(path, item)).collect();
        // A path without parameters goes before one that has some. Source: OpenAPI, "Paths Object".
        paths.sort_by_key(|path| path.parts.iter().filter(|part| !matches!(part, Part::Word(_))).count());
        Description(paths)
    }

    /// Finds the right that a request needs.
    fn find(&self, method: &Method, path: &str) -> Result<Right, Unknown> {
        let path = self.0.iter().find(|described| described.matches(path)).ok_or(Unknown::Path)?;
        let right = path.operations.iter().find(|(taken, _)| taken == method).map(|(_, right)| *right);
        right.ok_or_else(|| Unknown::Method(path.takes.clone()))
    }
}

impl DescribedPath {
    fn of(path: &str, item: &Value) -> Self {
        let item = item.as_object().expect("a path is an object");
        let with_slashes = item.get(SLASHES).and_then(Value::as_str);
        let part = |part: &str| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            Some(name) if with_slashes == Some(name) => Part::Rest,
            Some(_) => Part::Parameter,
            None => Part::Word(part.to_owned()),
        };
        let operations: Vec<(Method, Right)> = operations(path, item).collect();
        let mut methods: Vec<&str> = operations.iter().map(|(method, _)| method.as_str()).collect();
        methods.sort_unstable();
        let takes = HeaderValue::try_from(methods.join(", ")).expect("a method is plain text");
        DescribedPath { parts: parts_of(path).map(part).collect(), operations, takes: OtherMethod(takes) }
    }

    /// Tells whether the path of a request is of this form. As for the routes, a slash may follow.
    fn matches(&self, path: &str) -> bool {
        let mut given = parts_of(path);
        for part in &self.parts {
            let is_same = match (part, given.next()) {
                (Part::Rest, rest) => return rest.is_some(),
                (Part::Parameter, Some(given)) => !given.is_empty(),
                (Part::Word(word), Some(given)) => word == given,
                (_, None) => false,
            };
            if !is_same {
                return false;
            }
        }
        matches!((given.next(), given.next()), (None | Some(""), None))
    }
}

fn parts_of(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

fn operations(path: &str, item: &Map<String, Value>) -> impl Iterator<Item = (Method, Right)> {
    item.iter().filter(|(name, _)| METHODS.contains(&name.as_str())).map(move |(name, operation)| {
        let method = name.to_uppercase().parse().expect("it is one of the methods");
        let right = Right::deserialize(&operation[VERB]);
        (method, right.unwrap_or_else(|_| panic!("the description of {name} {path} names no right in {VERB}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{"paths": {
        "/v1/kv/{key}": {"x-conf-slashes": "key", "get": {"x-conf-verb": "read"}},
        "/v1/{kind}/{name}": {"parameters": [], "get": {"x-conf-verb": "read"}, "delete": {"x-conf-verb": "push"}},
        "/v1/hosts/all": {"post": {"x-conf-verb": "report"}},
        "/healthz": {"get": {"x-conf-verb": "none"}}
    }}"#;

    #[test]
    fn a_request_is_found_by_its_method_and_path() {
        let description = Description::of(DOCUMENT);
        let found = |method, path| match description.find(&method, path) {
            Ok(Right::Of(verb)) => verb.to_string(),
            Ok(Right::None(_)) => "none".to_owned(),
            Err(Unknown::Method(OtherMethod(takes))) => takes.to_str().unwrap().to_owned(),
            Err(Unknown::Path) => "no path".to_owned(),
        };
        for (method, path, expected) in [
            (Method::GET, "/healthz", "none"),
            (Method::GET, "/healthz/", "none"),
            (Method::HEAD, "/healthz", "GET"),
            (Method::GET, "/healthz//", "no path"),
            (Method::GET, "/healthzz", "no path"),
            (Method::GET, "/", "no path"),
            (Method::GET, "/v1/services/web", "read"),
            (Method::DELETE, "/v1/services/web", "push"),
            (Method::PUT, "/v1/services/web", "DELETE, GET"),
            (Method::GET, "/v1/services/", "no path"),
            (Method::GET, "/v1/services/web/latest", "no path"),
            // A path without parameters goes first.
            (Method::POST, "/v1/hosts/all", "report"),
            (Method::GET, "/v1/hosts/all", "POST"),
            (Method::GET, "/v1/kv/a/b//c", "read"),
            (Method::GET, "/v1/kv/", "read"),
            (Method::GET, "/v1/kv", "no path"),
        ] {
            assert_eq!(found(method, path), expected, "{path}");
        }
    }

    #[test]
    #[should_panic(expected = "the description of get /healthz names no right in x-conf-verb")]
    fn every_operation_names_the_right_that_it_needs() {
        Description::of(r#"{"paths": {"/healthz": {"get": {"x-conf-verb": "all"}}}}"#);
    }
}
