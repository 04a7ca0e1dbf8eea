//! Tells the agent which snapshot this process runs on, on a thread of its own: an agent that is
//! away or hangs holds nothing up. Once it is back, it gets one message, the newest.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc::Receiver},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::client::{agent, error::Error};
use crate::name::{ComponentSelector, Sequence};

/// The time between two messages. The agent forgets processes that it has not heard of in a while.
const AGAIN: Duration = Duration::from_secs(60);

/// The same after a message that did not arrive.
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The deadline of a message. The agent takes it into memory; one that takes longer hangs.
const WITHIN: Duration = Duration::from_secs(2);

/// Faults in one message; more of one process would help nobody.
const MOST_FAULTS: usize = 32;

/// The snapshot that this process runs on.
pub(crate) struct Taken {
    pub(crate) sequence: Sequence,
    pub(crate) faults: Vec<(ComponentSelector, Arc<Error>)>,
}

/// Returns the name of this process's executable.
pub(crate) fn program() -> String {
    let path = std::env::current_exe().ok().or_else(|| std::env::args_os().next().map(PathBuf::from));
    let name = path.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "unknown".to_owned())
}

/// Starts the thread, which ends when `taken` returns `None`. It sends a message whenever `due` has
/// an item, and once a minute. Nothing joins it, since a socket whose owner is stopped may hold it.
/// If the system gives no thread, the agent is not told.
pub(crate) fn start(
    due: Receiver<()>,
    socket: PathBuf,
    program: String,
    taken: impl Fn() -> Option<Taken> + Send + 'static,
) {
    let thread = thread::Builder::new().name("libconf-tell".to_owned());
    let _ = thread.spawn(move || {
        while let Some(taken) = taken() {
            let request = agent::post("/v1/processes", &message(&program, &taken));
            drop(taken);
            let answer = agent::ask(&socket, &request, Instant::now() + WITHIN);
            let arrived = answer.is_ok_and(|answer| answer.status == 200);
            let _ = due.recv_timeout(if arrived { AGAIN } else { AGAIN_AFTER_FAILURE });
        }
    });
}

fn message(program: &str, taken: &Taken) -> Vec<u8> {
    #[derive(Serialize)]
    struct Message<'a> {
        sequence: Sequence,
        program: &'a str,
        errors: Vec<Fault>,
    }
    #[derive(Serialize)]
    struct Fault {
        component: String,
        sequence: Sequence,
        error: String,
    }
    let fault = |(selector, error): &(ComponentSelector, Arc<Error>)| Fault {
        component: error.component().map_or_else(|| selector.to_string(), ToString::to_string),
        sequence: taken.sequence,
        error: describe(error),
    };
    let errors = taken.faults.iter().take(MOST_FAULTS).map(fault).collect();
    serde_json::to_vec(&Message { sequence: taken.sequence, program, errors }).unwrap_or_default()
}

/// Describes the error without any value: settings may hold secrets, and the agent shows this to
/// everybody on the host.
fn describe(error: &Error) -> String {
    let Error::Shape { source, .. } = error else { return error.to_string() };
    let Some(fault) = source.downcast_ref::<serde_json::Error>() else { return error.to_string() };
    let message = fault.to_string();
    let names_keys_alone = ["missing field `", "unknown field `", "duplicate field `"];
    if names_keys_alone.iter().any(|start| message.starts_with(start)) {
        return format!("{error}: {message}");
    }
    // `invalid type: string "…", expected u16 at line 1 column 2`: the expected type is no secret.
    let wrong = ["invalid type: ", "invalid value: ", "invalid length "].iter().any(|start| message.starts_with(start));
    match message.rfind(", expected ").filter(|_| wrong) {
        Some(at) => format!("{error}:{}", &message[at + 1..]),
        None => format!("{error}: a value at line {} column {}", fault.line(), fault.column()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_sent() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Web {
            #[serde(rename = "port")]
            _port: u16,
            #[serde(rename = "mode", default)]
            _mode: Option<Mode>,
            #[serde(rename = "at", default)]
            _at: Option<std::net::IpAddr>,
        }
        #[derive(Debug, serde::Deserialize)]
        enum Mode {}
        let described = |settings: &str| {
            let source = Box::new(serde_json::from_str::<Web>(settings).unwrap_err());
            describe(&Error::Shape { component: "services/web/latest".parse().unwrap(), sequence: Sequence(1), source })
        };
        for secret in [
            r#"{"port":"s3cret"}"#,
            r#"{"port":"s3cret, expected s3cret"}"#,
            r#"{"port":1,"mode":"s3cret"}"#,
            r#"{"port":1,"at":"s3cret"}"#,
        ] {
            let described = described(secret);
            assert!(!described.contains("s3cret"), "{described}");
        }
        assert!(described("{}").contains("missing field `port`"));
        assert!(described(r#"{"port":1,"prot":2}"#).contains("unknown field `prot`"));
        assert!(described(r#"{"port":"x"}"#).contains("expected u16 at line 1"));
    }
}
