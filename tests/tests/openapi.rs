//! The three descriptions of APIs: they agree with each other, and every operation names the right
//! that it needs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

const DOCUMENTS: [(&str, &str); 3] = [
    ("conf-master", include_str!("../../conf-master/src/http/openapi.json")),
    ("conf-slave", include_str!("../../conf-slave/src/http/openapi.json")),
    ("conf-local", include_str!("../../conf-local/src/service/openapi.json")),
];

fn documents() -> impl Iterator<Item = (&'static str, Value)> {
    DOCUMENTS.into_iter().map(|(name, text)| (name, serde_json::from_str(text).expect("it is JSON")))
}

/// The operations of a document, each with its method and path.
fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    let paths = document["paths"].as_object().expect("it has paths");
    paths.iter().flat_map(|(path, item)| {
        let operations = item.as_object().expect("a path is an object").iter();
        let operations = operations.filter(|(_, operation)| operation.get("operationId").is_some());
        operations.map(move |(method, operation)| (format!("{method} {path}"), operation))
    })
}

#[test]
fn only_health_and_proofs_need_no_right() {
    let verbs = ["read", "report", "push", "secrets", "administer"];
    for (name, document) in documents() {
        for (operation, described) in operations(&document) {
            let verb = described["x-conf-verb"].as_str().unwrap_or_default();
            let is_free = ["get /healthz", "get /readyz", "post /api/v1/sessions"].contains(&operation.as_str());
            let is_right = if is_free { verb == "none" } else { verbs.contains(&verb) };
            assert!(is_right, "{name}: {operation} needs the right {verb:?}");
        }
    }
}

#[test]
fn an_operation_has_a_name_of_its_own() {
    for (name, document) in documents() {
        let mut known = BTreeSet::new();
        for (operation, described) in operations(&document) {
            let id = described["operationId"].as_str().expect("text").to_owned();
            assert!(known.insert(id), "{name}: the name of {operation} is another one's too");
        }
        assert!(known.len() > 15, "{name} has only {} operations", known.len());
    }
}

/// What the daemons share is described by the same words.
#[test]
fn one_name_means_one_shape() {
    let mut known: BTreeMap<String, (&str, Value)> = BTreeMap::new();
    for (name, document) in documents() {
        let schemas = document["components"]["schemas"].as_object().expect("it has schemas");
        let of_server = ["/healthz", "/readyz", "/metrics", "/api/v1/openapi.json"];
        let paths = document["paths"].as_object().expect("it has paths").iter();
        let paths = paths.filter(|(path, _)| of_server.contains(&path.as_str()));
        for (shared, shape) in schemas.iter().chain(paths) {
            let (first, known) = known.entry(shared.clone()).or_insert_with(|| (name, shape.clone()));
            assert_eq!(known, shape, "{shared} of {first} and of {name}");
        }
    }
}
