//! `GET /api/v1/config/<section>`: the content of a section, now or at an earlier moment.

use bytes::Bytes;
use conf_core::http::{Request, Response, Routes, bytes_of, error, json, request};
use conf_core::settings;
use git2::{Repository, Tree};
use http::{HeaderValue, StatusCode, header};
use libconf::name::Sequence;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use warp::{Filter as _, path::Tail};

use crate::http::server::{Answered, ConfigForm, Server, answer, etag_of, near_ref};
use crate::inspect::InspectError;
use crate::landing::{SectionFile, SectionName};
use crate::store::{Moment, PastBranch, history};

#[derive(Deserialize)]
struct SectionQuery {
    version: Option<i64>,
    sequence: Option<Sequence>,
    #[serde(default)]
    config: ConfigForm,
}

/// The route.
pub(crate) fn routes(server: Server) -> Routes {
    warp::path!("api" / "v1" / "config" / ..)
        .and(warp::path::tail())
        .and(warp::get())
        .and(warp::query::<SectionQuery>())
        .and(request())
        .then(move |tail: Tail, query: SectionQuery, request: Request| {
            let server = server.clone();
            answer(async move { server.section(tail.as_str(), query, request).await })
        })
        .boxed()
}

impl Server {
    async fn section(&self, path: &str, query: SectionQuery, request: Request) -> Answered {
        request.check_query(&["version", "sequence", "config"])?;
        let bad = |words: &dyn std::fmt::Display| error(StatusCode::BAD_REQUEST, words);
        let path = percent_decode_str(path).decode_utf8().map_err(|cause| bad(&cause))?;
        if path == "update" {
            return Err(error(StatusCode::METHOD_NOT_ALLOWED, "this path takes POST alone"));
        }
        let section: SectionName = path.parse().map_err(|cause| bad(&cause))?;
        let at = query.sequence.map(Moment::Sequence).or(query.version.map(Moment::Version));
        let known = request.header("if-none-match").map(str::to_owned);
        let reference = section.reference();
        let (place, version, ledger, newest) = {
            let durable = self.lander.durable();
            let version = section.version(&durable.table, &durable.layers);
            (durable.table.place(&reference), version, durable.ledger, durable.sequence)
        };
        if let Some(Moment::Sequence(wanted)) = at
            && wanted > newest
        {
            let words = format!("the newest change is #{newest}; there is no #{wanted} yet");
            return Err(error(StatusCode::NOT_FOUND, words));
        }
        self.read(request.who(), move |repo| {
            let past = match at {
                None => place.target.map(|target| PastBranch { commit: target.commit, version, sequence: newest }),
                Some(at) => history::find(repo, ledger, &reference, place, at)?,
            };
            // With a version and a sequence both must hold.
            let past = past.filter(|past| query.version.is_none_or(|wanted| wanted == past.version));
            let Some(past) = past else {
                let near = if place.target.is_some() { String::new() } else { near_ref(repo, &reference) };
                return Ok(not_there(&section, at, version, &near));
            };
            let tree = repo.find_commit(past.commit.into())?.tree()?;
            let file = section.file(&tree)?;
            if at.is_some() && section.layer().is_some() && file.found.is_none() {
                return Ok(not_there(&section, at, version, ""));
            }
            let etag = etag_of(past.commit)?;
            if known.as_deref().is_some_and(|known| is_one_of(known, &etag)) {
                let mut response = bytes_of(StatusCode::NOT_MODIFIED, "", Bytes::new());
                response.headers_mut().remove(header::CONTENT_TYPE);
                response.headers_mut().insert(header::ETAG, etag);
                return Ok(response);
            }
            let mut response = show(repo, &section, (&tree, file), past, at.is_some(), query.config)?;
            response.headers_mut().insert(header::ETAG, etag);
            Ok(response)
        })
        .await
    }
}

/// Tells whether `If-None-Match` names this tag, or any.
fn is_one_of(known: &str, etag: &HeaderValue) -> bool {
    let strip = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    known.split(',').map(strip).any(|tag| tag == "*" || tag.as_bytes() == etag.as_bytes())
}

fn not_there(section: &SectionName, at: Option<Moment>, version: i64, near: &str) -> Response {
    let words = match at {
        None => format!("{section} is not there{near}; an update that expects version -1 makes it"),
        Some(Moment::Version(wanted)) => format!("{section} has no version {wanted}{near}; it is at version {version}"),
        Some(Moment::Sequence(wanted)) => {
            format!("{section} was not there at #{wanted}{near}, or that is too long ago to look for")
        }
    };
    json(StatusCode::NOT_FOUND, &json!({"error": words, "version": version}))
}

fn show(
    repo: &Repository,
    section: &SectionName,
    (tree, file): (&Tree<'_>, SectionFile),
    past: PastBranch,
    is_past: bool,
    form: ConfigForm,
) -> Result<Response, InspectError> {
    let text = match file.found {
        Some((id, _)) => repo.find_blob(id)?.content().to_owned(),
        None => b"{}".to_vec(),
    };
    let config = match (form, file.found) {
        (ConfigForm::Text, Some(_)) => Value::String(String::from_utf8_lossy(&text).into_owned()),
        (ConfigForm::Text, None) => Value::String(String::new()),
        (ConfigForm::Object, None) => Value::Object(Map::new()),
        (ConfigForm::Object, Some(_)) => {
            let values = settings::parse(&file.path, file.format, &text)?;
            // A program that sends back what it got must not write a rounded number.
            if let Some(objection) = settings::objections(&file.path, file.format, &text).into_iter().next() {
                return Err(objection.into());
            }
            Value::Object(values)
        }
    };
    let mut body = json!({
        "section": section,
        "config": config,
        "schemaVersion": section.schema_version(repo, tree)?,
        "version": past.version,
        "commit": past.commit,
        "file": file.found.map(|_| file.path),
    });
    if is_past {
        body["sequence"] = json!(past.sequence);
    }
    Ok(json(StatusCode::OK, &body))
}
