//! The messages between the hook program and the server: one JSON line each way.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::fault::Refusal;

/// The socket's name in the repository; hooks run with the repository as their working directory.
pub(crate) const SOCKET: &str = "conf-master.sock";
/// The environment variable by which the server recognizes its own pushes.
pub(crate) const PUSH_VARIABLE: &str = "CONF_PUSH";
/// The longest answer, in bytes: enough for every fault of every ref.
pub(crate) const MOST_BYTES: u64 = 64 << 20;
/// The longest call, in bytes: enough for the refs of a push and its options.
pub(crate) const MOST_CALL_BYTES: u64 = 8 << 20;

/// The question of `conf-master receive`: a place for a push over SSH.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlaceMessage {
    /// Who asks.
    pub(crate) place: PlaceCall,
}

/// Who asks for a place.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PlaceCall {
    /// The owner of the key, as the administrator wrote it.
    pub(crate) name: Option<String>,
    /// The address of the client.
    pub(crate) from: String,
}

/// The answer to it. The place is held until the connection is closed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PlaceAnswer {
    /// The id of the push.
    Push(String),
    /// Why there is no place.
    Refused(String),
}

/// The hook that calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// Objects are in quarantine.
    PreReceive,
    /// The push may land.
    ProcReceive,
}

/// A call of a hook.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    /// The hook.
    pub(crate) stage: Stage,
    /// The id that the server gave to the push, when it started Git itself.
    pub(crate) push: Option<String>,
    /// The push came over SSH.
    pub(crate) over_ssh: bool,
    /// The folder of the objects in quarantine.
    pub(crate) quarantine: Option<PathBuf>,
    /// All refs or none.
    pub(crate) atomic: bool,
    /// The push options.
    pub(crate) options: Vec<String>,
    /// The refs. The name in the message is an older one, which a server that still runs may
    /// expect.
    #[serde(rename = "wishes")]
    pub(crate) updates: Vec<HookUpdate>,
}

/// Old id, new id and name of a ref.
pub(crate) type HookUpdate = (libconf::name::ObjectId, libconf::name::ObjectId, String);

/// The server's answer.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// For each ref, in order: `None` when it may land or landed, else the reason.
    pub(crate) refusals: Vec<Option<Refusal>>,
    /// What the pusher is told.
    pub(crate) notes: Vec<String>,
}
