//! The agent's socket. It is made again where something else has removed it, so that programs of
//! this host reach the agent without its restart.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use conf_core::{
    http::{self as web, Listener, Routes},
    retry::with_jitter,
};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

/// The permission bits of the socket: every user of this host may ask. The routes decide what each
/// user may do.
pub(crate) const MODE: u32 = 0o666;
/// 10 s between two looks at most.
const LOOK: Duration = Duration::from_secs(10);

/// Serves `routes` on the bound socket at `path`, until `stop`. Joins every task.
pub(crate) async fn serve(listener: Listener, path: PathBuf, routes: Routes, stop: CancellationToken) {
    let mut serving = JoinSet::new();
    let mut bound = identity(&path);
    let mut end = stop.child_token();
    serving.spawn(web::serve(listener, routes.clone(), end.clone()));
    let mut failed = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(with_jitter(LOOK)) => {}
        }
        while serving.try_join_next().is_some() {}
        if bound.is_some() && identity(&path) == bound {
            continue;
        }
        match web::bind_unix(&path, MODE).await {
            Ok(again) => {
                tracing::warn!(path = %path.display(), "the socket was removed or replaced; it is there again");
                // Nobody can get to the former one.
                end.cancel();
                end = stop.child_token();
                (bound, failed) = (identity(&path), None);
                serving.spawn(web::serve(again, routes.clone(), end.clone()));
            }
            Err(error) if failed.as_ref() != Some(&error.to_string()) => {
                tracing::warn!(%error, "the socket was removed or replaced, and cannot be made again; trying on");
                failed = Some(error.to_string());
            }
            Err(_) => {}
        }
    }
    serving.join_all().await;
}

/// Device and inode of the socket.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let about = fs::symlink_metadata(path).ok()?;
    Some((about.dev(), about.ino()))
}
