//! `conf-local watch`: has a running process signalled.

use std::{process::ExitCode, time::Duration};

use conf_core::daemon::chain;

use crate::cli::{ClientError, note, print, socket::Socket};
use crate::{
    cli::config::WatchOptions,
    process::handle as process,
    service::{RegisterRequest, Registered},
};

pub(crate) async fn run(options: WatchOptions) -> Result<ExitCode, ClientError> {
    let socket = Socket(options.socket.socket);
    // The agent then refuses another process that got the number meanwhile.
    let start = process::started(options.pid).map_err(|error| ClientError::Refused(chain(&error)))?;
    let request = RegisterRequest {
        components: options.components.into_iter().collect(),
        pid: Some(options.pid),
        start: Some(start),
        signal: Some(options.signal.as_str().to_owned()),
        delay_seconds: None,
    };
    let registered: Registered = socket.post("/v1/watchers", &request, Duration::ZERO).await?;
    for absent in &registered.absent {
        note(format_args!("this host does not run {absent} now; the process is told when it comes"));
    }
    let watcher = registered.watcher;
    let components: Vec<String> = watcher.components.iter().map(ToString::to_string).collect();
    print(&format!("{} at every change of {} after {}", watcher.target, components.join(", "), watcher.sequence))?;
    Ok(ExitCode::SUCCESS)
}
