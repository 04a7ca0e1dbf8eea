//! SSH signatures: on snapshots as `git verify-commit` knows them, on watermarks, on
//! freshness statements, on lists of who may ask, on hosts' reports, and on the nonce of a host's
//! session.
//!
//! Each purpose has a namespace of its own, so that a signature is good for nothing else.

mod key;
mod watermark;
mod freshness;
mod access;
mod session;
pub(crate) mod report;

pub(crate) use crate::sign::session::{sign_session, verify_session};
pub use crate::sign::{
    access::{sign_access, verify_access},
    freshness::{sign_freshness, verify_freshness},
    key::{KeyError, SigningKey, TrustedKeys, public_path},
    report::{Unproven, sign_report, verify_report},
    watermark::{sign_watermark, verify_watermark},
};
