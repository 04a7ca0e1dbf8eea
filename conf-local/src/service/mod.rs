//! The local service: answers to processes of this host, over a Unix socket or a loopback port.
//!
//! | `GET` | answers |
//! |---|---|
//! | `/v1/config/COMPONENT[?sequence=N]` | settings, of any snapshot that is kept |
//! | `/v1/at/W[?timeout=SECONDS]` | the folder that was the datacenter's newest at change `W` |
//! | `/v1/explain/COMPONENT[?key=KEY]` | the layers that set each exported key, lowest first |
//! | `/v1/schema/COMPONENT[?sequence=N]` | `config.schema.json`, or `null` |
//! | `/v1/status[?after=N&timeout=SECONDS]` | the host's state |
//! | `/v1/wait/COMPONENT[?at=PIN&sequence=N&timeout=SECONDS]` | whether that is exported |
//! | `/v1/events` | a server-sent event `change` for every switch |
//! | `/v1/history` | the switches of the past, newest first |
//! | `/v1/processes` | the snapshots that processes report |
//!
//! | `POST` | does |
//! |---|---|
//! | `/v1/processes` | takes a process's report |
//! | `/v1/watchers` | has a process signalled from now on |
//! | `/v1/verify[?repair=true]` | checks repository and export |
//!
//! `COMPONENT` is `<kind>/<name>[/<version>]`, `PIN` is `<branch>/<commit>`. `/v1/at` fetches the
//! snapshot where needed; `/v1/status` with `after` waits for a later change.
//!
//! In settings, `{"$secret": "NAME"}` replaces each secret, except for root and the agent's own
//! user over the Unix socket.
//!
//! The service answers from memory and this host's disk. It waits for the network only for a
//! snapshot that is not here yet, as long as the caller allows, and for a repair. Every user of
//! this host may read. Registering a process and starting a check need the Unix socket, where the
//! kernel names the caller.

mod process_reports;
mod refusal;
mod routes;
mod remembered;
mod settings;
mod at;
mod explain;
mod events;
mod status;
mod wait;
mod processes;
mod watchers;

pub(crate) use crate::service::{
    explain::Explanation,
    refusal::LONGEST_WAIT,
    wait::WaitAnswer,
    watchers::{RegisterRequest, Registered},
};
pub use crate::service::{
    process_reports::Reader,
    routes::{Service, routes},
    status::StatusAnswer,
};
