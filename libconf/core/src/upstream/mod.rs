//! The servers above: JSON, events and fetches from the first that answers.

mod error;
mod refusal;
mod bearer;
mod credentials;
mod hops;
mod session;
mod spread;
mod standing;
mod server;
mod servers;
mod events;
mod fetch;
mod hedge;
mod passing;

pub use crate::upstream::{
    bearer::HostProof,
    credentials::Credentials,
    error::{FetchError, UpstreamError},
    events::{Event, Events},
    fetch::{Fetched, fetch},
    hedge::Hedge,
    hops::{Hops, MOST_TIERS},
    server::Upstream,
    servers::{Asking, Trust, Upstreams},
};
