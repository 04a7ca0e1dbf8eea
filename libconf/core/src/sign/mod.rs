//! SSH signatures: on snapshots as `git verify-commit` knows them, on watermarks, on
//! freshness statements, on lists of who may ask, on statements about conf-master's keys, on hosts'
//! reports, and on the nonce of a host's session.
//!
//! Each purpose has a namespace of its own, so that a signature is good for nothing else.

mod key;
mod statement;
mod trusted;
mod kept;
mod watermark;
mod freshness;
mod access;
mod session;
pub(crate) mod report;

pub(crate) use crate::sign::session::{sign_session, verify_session};
pub use crate::sign::{
    access::{sign_access, verify_access},
    freshness::{sign_freshness, verify_freshness},
    kept::KeptKeys,
    key::{KeyError, SigningKey, public_path},
    report::{Unproven, sign_report, verify_report},
    statement::{MOST_STATEMENTS, fingerprint_of_new, sign_statement, sign_succession},
    trusted::{SignedText, TrustedKeys},
    watermark::{sign_watermark, verify_watermark},
};
