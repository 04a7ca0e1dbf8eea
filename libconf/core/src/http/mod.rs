//! An HTTP server: requests with bounded bodies, answers, server-sent events, health, and the
//! accept loop.
//!
//! warp gives the routes; handlers see only `Request` and `Response`, so that routing stays
//! replaceable. In a route the path comes before the method: a known path with another method is
//! then 405, and an unknown one 404.

mod peer;
mod who;
mod shares;
mod pace;
mod rates;
mod spool;
mod answer;
mod tries;
mod joining;
mod authenticator;
mod open_session;
mod sessions;
mod description;
mod unrouted;
mod gate;
mod request;
mod events;
mod health;
mod connection;
mod handshake;
mod server;
mod listener;
mod beside;
mod places;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;

pub(crate) use crate::http::pace::LONGEST;
pub(crate) use crate::http::spool::{NotTaken, SpoolFile, Spooled, counted};
pub use crate::http::{
    answer::{Response, Routes, busy, bytes_of, error, json, stream, text},
    authenticator::{Authenticator, TokenUse},
    beside::{bind_health, serve_health},
    description::described,
    events::{Event, events},
    gate::Gate,
    health::{Health, health_routes, no_files_left, watch_disks},
    joining::{Joined, Joining, NotJoined},
    listener::{Listener, bind_tcp, bind_unix, serve, serve_spooling},
    peer::{Peer, crowded_out},
    places::{StreamPlace, StreamPlaces},
    request::{Body, Request, asker, request},
    sessions::session_routes,
    shares::{Crowded, Share, ShareBounds, Shares},
    spool::Spools,
    who::Who,
};
