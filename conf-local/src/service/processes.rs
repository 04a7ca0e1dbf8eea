//! `POST /v1/processes`: a process reports the snapshot that it runs on. `GET /v1/processes`: all
//! such reports.

use conf_core::{
    daemon::chain,
    http::{Peer, Request},
};
use http::StatusCode;
use serde_json::json;

use crate::service::{
    process_reports::{ProcessReport, ReportError},
    refusal::{Answer, ok, reader, refusal, unnamed},
    routes::Service,
};

/// 256 KiB: a process reports at most 64 errors of a few words each.
const MOST_BYTES: usize = 256 << 10;

impl Service {
    pub(crate) fn list_processes(&self, request: &Request) -> Answer {
        ok(&self.processes.status(reader(request)))
    }

    pub(crate) async fn record_process(&self, request: Request) -> Answer {
        let Peer::Unix { uid, pid: Some(pid) } = request.peer else { return Err(unnamed()) };
        let report: ProcessReport = request.body.json(MOST_BYTES).await?;
        self.processes.record(pid, uid, report).map_err(|error| match &error {
            ReportError::Process(_) => refusal(StatusCode::BAD_REQUEST, chain(&error)),
            ReportError::TooMany { .. } => refusal(StatusCode::TOO_MANY_REQUESTS, &error),
        })?;
        ok(&json!({}))
    }
}
