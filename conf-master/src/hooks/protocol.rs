//! The messages to the server from a hook, or from `conf-master receive`: one JSON line each way.

use std::path::PathBuf;

use libconf::name::PrincipalName;
use serde::{Deserialize, Serialize};

use crate::fault::Refusal;
use crate::keys::{KeyAnswer, KeyCall};
use crate::tokens::{TokenAnswer, TokenCall};

/// The socket's name in the repository; hooks run with the repository as their working directory.
pub(crate) const SOCKET: &str = "conf-master.sock";
/// The environment variable by which the server recognizes its own pushes.
pub(crate) const PUSH_VARIABLE: &str = "CONF_PUSH";
/// The longest answer, in bytes: enough for every fault of every ref.
pub(crate) const MOST_BYTES: u64 = 64 << 20;
/// The longest call, in bytes: enough for the refs of a push and its options.
pub(crate) const MOST_CALL_BYTES: u64 = 8 << 20;

/// The message of `conf-master receive`. After the answer the connection is the client's: Git's
/// protocol, both ways.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SshMessage {
    /// Who comes over SSH, and what for.
    pub(crate) ssh: SshCall,
}

/// Who comes over SSH, and what for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SshCall {
    /// The owner of the key, as the administrator wrote it.
    pub(crate) name: Option<PrincipalName>,
    /// The address of the client.
    pub(crate) from: String,
    /// What the client asks for.
    pub(crate) service: SshService,
    /// The client's `GIT_PROTOCOL`, where sshd lets it through.
    pub(crate) protocol: String,
}

/// What a client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SshService {
    /// A push.
    ReceivePack,
    /// A fetch.
    UploadPack,
}

/// The answer to it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SshAnswer {
    /// The client may talk.
    Begin,
    /// Why it may not.
    Refused(String),
}

/// The message of `conf-master token --repo`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenMessage {
    /// What is asked about tokens.
    pub(crate) tokens: TokenCall,
}

/// The answer to it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TokenReply {
    /// It was done.
    Done(TokenAnswer),
    /// Why it was not.
    Refused(String),
}

/// The message of `conf-master key`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyMessage {
    /// What is asked about the keys that sign.
    pub(crate) keys: KeyCall,
}

/// The answer to it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeyReply {
    /// It was done.
    Done(KeyAnswer),
    /// Why it was not.
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
    /// The pusher came to this machine over SSH, and pushed to a path.
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
