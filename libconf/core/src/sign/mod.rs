//! SSH signatures: on snapshots as `git verify-commit` knows them, on watermarks, on lists of
//! who may ask, on statements about conf-master's keys, and on hosts' reports.
//!
//! Each purpose has a namespace of its own, so that a signature is good for nothing else.

mod key;
mod statement;
mod trusted;
mod kept;
mod watermark;
mod access;
pub(crate) mod report;

pub use crate::sign::{
    access::{sign_access, verify_access},
    kept::KeptKeys,
    key::{KeyError, SigningKey, public_path},
    report::{Unproven, sign_report, verify_report},
    statement::{MOST_STATEMENTS, fingerprint_of_new, sign_statement},
    trusted::{SignedText, TrustedKeys},
    watermark::{sign_watermark, verify_watermark},
};
