//! SSH signatures: on snapshots as `git verify-commit` knows them, on watermarks, on
//! freshness statements, on lists of who may ask, and on hosts' reports.
//!
//! Each purpose has a namespace of its own, so that a signature is good for nothing else.

mod key;
mod watermark;
mod freshness;
mod access;
pub(crate) mod report;

pub use crate::sign::{
    access::{sign_access, verify_access},
    freshness::{sign_freshness, verify_freshness},
    key::{KeyError, SigningKey, TrustedKeys, public_path},
    report::{Unproven, sign_report, verify_report},
    watermark::{sign_watermark, verify_watermark},
};
