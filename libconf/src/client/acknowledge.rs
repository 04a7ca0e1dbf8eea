//! Tells the agent which snapshot this process runs on, by a thread of its own: an agent that is away or hangs holds
//! nothing up, and what it missed is one message, the newest.

use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{Error, agent};
use crate::name::{ComponentSelector, Sequence};

/// The agent lets go of processes that it has not heard of in a while.
const AGAIN: Duration = Duration::from_secs(60);

/// After a message that did not arrive.
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The agent takes a message from memory; one that takes longer hangs.
const WITHIN: Duration = Duration::from_secs(2);

/// More of one process tell nobody more.
const MOST_FAULTS: usize = 32;

/// What a process runs on.
pub(super) struct Taken {
    pub(super) sequence: Sequence,
    pub(super) faults: Vec<(ComponentSelector, Arc<Error>)>,
}

/// Says when there is something to tell; the thread looks here.
#[derive(Debug, Default)]
pub(super) struct Acknowledge {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    due: bool,
    stop: bool,
}

impl Acknowledge {
    /// A snapshot was taken.
    pub(super) fn soon(&self) {
        self.state().due = true;
        self.changed.notify_all();
    }

    /// The thread ends, at the latest when the agent has answered or the system gave up on it.
    pub(super) fn stop(&self) {
        self.state().stop = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False at the end.
    fn wait(&self, time: Duration) -> bool {
        let idle = |state: &mut State| !state.due && !state.stop;
        let waited = self.changed.wait_timeout_while(self.state(), time, idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.due = false;
        !state.stop
    }
}

/// The name of this process's executable.
pub(super) fn program() -> String {
    let path = std::env::current_exe().ok().or_else(|| std::env::args_os().next().map(PathBuf::from));
    let name = path.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "unknown".to_owned())
}

/// Starts the thread, which nobody waits for: it may be held by a socket whose owner is stopped. Without one, nobody is told.
pub(super) fn start(
    acknowledge: &Arc<Acknowledge>,
    socket: PathBuf,
    program: String,
    taken: impl Fn() -> Option<Taken> + Send + 'static,
) {
    let acknowledge = Arc::clone(acknowledge);
    let thread = thread::Builder::new().name("libconf-tell".to_owned());
    let _ = thread.spawn(move || {
        while let Some(taken) = taken() {
            let request = agent::post("/v1/processes", &message(&program, &taken));
            drop(taken);
            let answer = agent::ask(&socket, &request, Instant::now() + WITHIN);
            let arrived = answer.is_ok_and(|answer| answer.status == 200);
            if !acknowledge.wait(if arrived { AGAIN } else { AGAIN_AFTER_FAILURE }) {
                return;
            }
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
        error: words(error),
    };
    let errors = taken.faults.iter().take(MOST_FAULTS).map(fault).collect();
    serde_json::to_vec(&Message { sequence: taken.sequence, program, errors }).unwrap_or_default()
}

/// What is wrong, without any value: settings may hold secrets, and the agent shows this to everybody on the host.
fn words(error: &Error) -> String {
    let Error::Shape { source, .. } = error else { return error.to_string() };
    let Some(fault) = source.downcast_ref::<serde_json::Error>() else { return error.to_string() };
    let said = fault.to_string();
    let names_keys_alone = ["missing field `", "unknown field `", "duplicate field `"];
    if names_keys_alone.iter().any(|start| said.starts_with(start)) {
        return format!("{error}: {said}");
    }
    // `invalid type: string "…", expected u16 at line 1 column 2`: what was expected is the program's own word.
    let wrong = ["invalid type: ", "invalid value: ", "invalid length "].iter().any(|start| said.starts_with(start));
    match said.rfind(", expected ").filter(|_| wrong) {
        Some(at) => format!("{error}:{}", &said[at + 1..]),
        None => format!("{error}: a value at line {} column {}", fault.line(), fault.column()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_told() {
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
        let told = |settings: &str| {
            let source = Box::new(serde_json::from_str::<Web>(settings).unwrap_err());
            words(&Error::Shape { component: "services/web/latest".parse().unwrap(), sequence: Sequence(1), source })
        };
        for secret in [
            r#"{"port":"s3cret"}"#,
            r#"{"port":"s3cret, expected s3cret"}"#,
            r#"{"port":1,"mode":"s3cret"}"#,
            r#"{"port":1,"at":"s3cret"}"#,
        ] {
            let told = told(secret);
            assert!(!told.contains("s3cret"), "{told}");
        }
        assert!(told("{}").contains("missing field `port`"));
        assert!(told(r#"{"port":1,"prot":2}"#).contains("unknown field `prot`"));
        assert!(told(r#"{"port":"x"}"#).contains("expected u16 at line 1"));
    }
}
