//! An HTTP server: requests with bounded bodies, answers, server-sent events, health, and the
//! accept loop.
//!
//! warp gives the routes; handlers see only `Request` and `Response`, so that routing stays
//! replaceable. In a route the path comes before the method: a known path with another method is
//! then 405, and an unknown one 404.

mod peer;
mod answer;
mod request;
mod events;
mod health;
mod listener;
#[cfg(test)]
mod tests;

pub use crate::http::{
    answer::{Response, Routes, bytes_of, error, json, stream, text},
    events::{Event, events},
    health::{Health, health_routes, no_files_left},
    listener::{Listener, bind_tcp, bind_unix, most_connections, serve},
    peer::Peer,
    request::{Body, Request, request},
};
