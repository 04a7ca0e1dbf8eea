//! Whether a daemon can serve: the conditions that keep it from it, and the routes that tell them.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::StatusCode;
use parking_lot::Mutex;
use rustix::fs::{StatVfsMountFlags, statvfs};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use warp::Filter as _;

use crate::{
    daemon::Metrics,
    http::answer::{Routes, bytes_of, error, text},
};

/// The condition of a daemon that has nothing to serve yet.
const START: &str = "start";
/// The condition of a disk that has no room.
const DISK: &str = "disk";
/// The pause between two looks at it.
const EVERY: Duration = Duration::from_secs(2);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The bytes that must be free on it: a change takes less.
const FREE_BYTES: u64 = 4 << 20;
/// How many files must be free to be opened: a request to Git takes about this many.
const FREE_FILES: usize = 8;

/// Whether this daemon can serve, and if not, why. Every part of the daemon may report a condition
/// of its own; the daemon is ready while there is none.
#[derive(Clone, Debug)]
pub struct Health {
    /// Why it cannot serve, by condition.
    conditions: Arc<Mutex<BTreeMap<&'static str, String>>>,
    /// What a person should know although it can serve.
    remarks: Arc<Mutex<BTreeMap<&'static str, String>>>,
    metrics: Metrics,
}

impl Health {
    /// Begins as not ready.
    pub fn new(metrics: Metrics) -> Self {
        let conditions = Arc::new(Mutex::new([(START, "starting".to_owned())].into()));
        Self { conditions, remarks: Arc::default(), metrics }
    }

    /// Reports that the daemon has something to serve.
    pub fn set_ready(&self) {
        self.conditions.lock().remove(START);
    }

    /// Reports that the daemon has nothing to serve, and why.
    pub fn set_unready(&self, reason: impl Into<String>) {
        self.conditions.lock().insert(START, reason.into());
    }

    /// Reports a condition, or that it is over. The log has a line at its start and at its end.
    pub fn report(&self, condition: &'static str, problem: Option<String>) {
        let mut conditions = self.conditions.lock();
        match problem {
            Some(problem) => {
                if !conditions.contains_key(condition) {
                    tracing::error!(condition, "not ready: {problem}");
                }
                conditions.insert(condition, problem);
            }
            None if conditions.remove(condition).is_some() => {
                tracing::info!(condition, "this condition is over");
            }
            None => {}
        }
    }

    /// Makes a remark, which keeps the daemon from nothing, or takes it back.
    pub fn remark(&self, about: &'static str, words: Option<String>) {
        let mut remarks = self.remarks.lock();
        match words {
            Some(words) => drop(remarks.insert(about, words)),
            None => drop(remarks.remove(about)),
        }
    }

    /// The remark about something.
    pub fn remarked(&self, about: &'static str) -> Option<String> {
        self.remarks.lock().get(about).cloned()
    }

    /// All remarks, each one line.
    fn remarks(&self) -> Vec<String> {
        self.remarks.lock().iter().map(|(about, words)| format!("{about}: {words}")).collect()
    }

    /// Tells whether a condition stands.
    pub fn has(&self, condition: &'static str) -> bool {
        self.conditions.lock().contains_key(condition)
    }

    /// Why it cannot serve; `None` when it can.
    pub fn reason(&self) -> Option<String> {
        let conditions = self.conditions.lock();
        let reasons: Vec<&str> = conditions.values().map(String::as_str).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

/// Says that nearly all file descriptors are in use, if they are. Opens a few files for a moment.
pub fn no_files_left() -> Option<String> {
    let opened: Result<Vec<File>, _> = (0..FREE_FILES).map(|_| File::open("/dev/null")).collect();
    let cause = opened.err()?;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("a limit of {limit}"));
    Some(format!(
        "hardly any file descriptor is left ({cause}, with {limit}); raise LimitNOFILE of the service, or see who holds so \
         many connections"
    ))
}

/// Looks at the disks of `paths` again and again, and reports whether each has room. Never ends.
pub async fn watch_disks(paths: Vec<PathBuf>, health: Health) {
    let mut running: Option<JoinHandle<Option<String>>> = None;
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let shown = shown.join(" or ");
    loop {
        let at = paths.clone();
        let work = move || at.iter().find_map(|path| no_room(path));
        let look = running.get_or_insert_with(|| tokio::task::spawn_blocking(work));
        let problem = match timeout(PATIENCE, look).await {
            // The look goes on, and no other one begins.
            Err(_) => Some(format!("the disk of {shown} has not answered for {} s", PATIENCE.as_secs())),
            Ok(looked) => {
                running = None;
                looked.unwrap_or_default()
            }
        };
        health.report(DISK, problem);
        sleep(EVERY).await;
    }
}

/// Says that the disk of `path` cannot take a change, if it cannot. Blocks.
fn no_room(path: &Path) -> Option<String> {
    let shown = path.display();
    match statvfs(path) {
        Err(error) => Some(format!("the disk of {shown} cannot be asked for its room: {error}")),
        Ok(disk) if disk.f_flag.contains(StatVfsMountFlags::RDONLY) => Some(format!("{shown} is on a read-only disk")),
        Ok(disk) if disk.f_bavail.saturating_mul(disk.f_frsize) < FREE_BYTES => {
            Some(format!("the disk of {shown} is full: less than {} MiB are free", FREE_BYTES >> 20))
        }
        Ok(disk) if disk.f_files > 0 && disk.f_favail == 0 => {
            Some(format!("the disk of {shown} can hold no more files: all inodes are in use"))
        }
        Ok(_) => None,
    }
}

/// `/healthz`: the process is alive; `/readyz`: 200, or 503 with the reason, and the remarks;
/// `/metrics`: for Prometheus.
pub fn health_routes(health: Health) -> Routes {
    let ready = health.clone();
    let alive = warp::path!("healthz").and(warp::get()).map(|| text(StatusCode::OK, "ok\n"));
    let ready = warp::path!("readyz").and(warp::get()).map(move || match ready.reason() {
        None => text(StatusCode::OK, [vec!["ready".to_owned()], ready.remarks()].concat().join("\n") + "\n"),
        Some(reason) => error(StatusCode::SERVICE_UNAVAILABLE, [vec![reason], ready.remarks()].concat().join("; ")),
    });
    let metrics = warp::path!("metrics").and(warp::get()).map(move || {
        const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        bytes_of(StatusCode::OK, OPENMETRICS, health.metrics.encode().into())
    });
    alive.boxed().or(ready.boxed()).unify().or(metrics.boxed()).unify().boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_ready_while_no_condition_stands() {
        let health = Health::new(Metrics::new("test", "0"));
        assert_eq!(health.reason().as_deref(), Some("starting"));
        health.set_ready();
        assert_eq!(health.reason(), None);
        health.report("disk", Some("full".to_owned()));
        health.report("files", Some("none left".to_owned()));
        health.report("disk", Some("nearly full".to_owned()));
        // What else is said of the start changes nothing of it.
        health.set_ready();
        assert_eq!(health.reason().as_deref(), Some("nearly full; none left"));
        health.report("disk", None);
        assert!(!health.has("disk") && health.has("files"));
        health.report("files", None);
        assert_eq!(health.reason(), None);
        health.remark("freshness", Some("stale".to_owned()));
        assert_eq!((health.reason(), health.remarks()), (None, vec!["freshness: stale".to_owned()]));
        health.remark("freshness", None);
        assert_eq!(health.remarks(), Vec::<String>::new());
    }
}
