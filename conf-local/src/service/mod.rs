//! The local service: answers to processes of this host, over a Unix socket or a loopback port. Relies on
//! everything up to `on_demand`.
//!
//! | route | answers |
//! |---|---|
//! | `GET /v1/config/<kind>/<name>[/<version>][?sequence=N]` | a component's settings, of any snapshot that is kept |
//! | `GET /v1/at/<w>[?timeout=SECONDS]` | the folder that was the datacenter's newest at change `w`, brought where needed |
//! | `GET /v1/explain/<kind>/<name>[/<version>][?key=KEY]` | the layers that set each exported key, lowest first |
//! | `GET /v1/schema/<kind>/<name>[/<version>][?sequence=N]` | the component's `config.schema.json`, or `null` |
//! | `GET /v1/status[?after=N&timeout=SECONDS]` | the host's state; with `after`, once a newer change is exported |
//! | `GET /v1/wait/<kind>/<name>[/<version>][?at=BRANCH/COMMIT][&sequence=N][&timeout=SECONDS]` | whether the export is there |
//! | `GET /v1/events` | a server-sent event `change` for every switch |
//! | `GET /v1/history` | the switches of the past, newest first |
//! | `POST /v1/processes`, `GET /v1/processes` | a process reports its snapshot; all such reports |
//! | `POST /v1/watchers` | has a process signalled from now on |
//! | `POST /v1/verify[?repair=true]` | checks repository and export |
//!
//! In settings, `{"$secret": "NAME"}` replaces each secret, except for root and the agent's own user over the
//! Unix socket.
//!
//! The service answers from memory and this host's disk. It waits for the network only for a snapshot that is
//! not here yet, and only as long as the caller allows. Every user of this host may read. Registering a process
//! and starting a check need the Unix socket, where the kernel names the caller.

mod refusal;
mod process_reports;
mod routes;
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
    wait::Reached,
    watchers::{RegisterRequest, Registered},
};
pub use crate::service::{
    process_reports::Reader,
    routes::{Service, routes},
    status::StatusAnswer,
};
