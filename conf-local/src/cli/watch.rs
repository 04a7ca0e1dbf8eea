//! `conf-local watch`: has a running process signalled.

use std::time::Duration;

use crate::{
    cli::{
        near::near,
        options::WatchOptions,
        output::{note, print},
    },
    process::start_time,
    service::{RegisterRequest, Registered},
};

pub(crate) async fn run(options: WatchOptions) -> anyhow::Result<()> {
    // With the time of its start, the agent refuses another process that gets the number meanwhile.
    let start = start_time(options.pid)?;
    let request = RegisterRequest {
        components: options.components.into_iter().collect(),
        pid: Some(options.pid),
        start: Some(start),
        signal: Some(options.signal.as_str().to_owned()),
        delay_seconds: None,
        relay: None,
    };
    let registered: Registered = options.socket.post("/v1/watchers", &request, Duration::ZERO).await?;
    for absent in &registered.absent {
        let near = registered.current.as_ref().map(|current| near(current, absent)).unwrap_or_default();
        note(format_args!("this host does not run {absent}{near} now; the process gets a signal when it comes"));
    }
    let watcher = registered.watcher;
    let components: Vec<String> = watcher.components.iter().map(ToString::to_string).collect();
    print(&format!("{} at every change of {} after {}", watcher.target, components.join(", "), watcher.sequence))
}
