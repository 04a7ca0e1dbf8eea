//! What the agent knows, as one consistent view that every task shares. Relies on `fs`, `process`,
//! `export` and `place`.

mod exported;
mod report_numbers;
mod status;
mod watermark;
mod agent;
pub(crate) mod central;
pub(crate) mod freshness;
#[cfg(test)]
mod tests;

pub use crate::state::{
    agent::{Agent, View},
    exported::{Exported, ExportedComponent, HistoryChange, HistoryEntry, Switched},
    status::Status,
};
pub(crate) use crate::state::{
    agent::{OlderSnapshot, RequestError, VerifyReport, WriterRequest},
    report_numbers::ReportNumbers,
    status::{Changes, CheckStatus, ProbeStatus, Untold, failing},
    watermark::Watermark,
};
