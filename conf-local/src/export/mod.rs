//! What readers see, `export/`: a new snapshot is built beside the current one, made durable, and
//! switched to in one step. Relies on `fs`.
//!
//! ```text
//! store/<hash>/files/…, settings.json     a rendering, immutable, named by the hash of its content
//! names/<hash>/<version>, <version>.json  links into the store: the versions of one component
//! snapshots/<sequence>/<kind>/<name>      link to names/; snapshot.json identifies the snapshot
//! snapshots/<sequence>.<number>           the same snapshot before it was rendered again
//! current                                 link to snapshots/<sequence>: the step that readers see
//! ```
//!
//! Settings with secrets have `shown.json` beside them: the same with the names of secrets in their
//! place.
//!
//! A component that did not change costs one more name of its link in the snapshot before.
//! (Measured with 3,000: new folders and links take five times as long.) A crash at any step leaves
//! `current` as it was, and at most entries that no kept snapshot uses, which `Export::open`
//! sweeps.

mod plan;
mod names;
mod error;
mod seen;
mod folder;
mod kept;
mod read;
mod build;
mod retire;
mod look;
#[cfg(test)]
mod tests;

pub use crate::export::plan::ChangeKind;
pub(crate) use crate::export::{
    error::ExportError,
    folder::Export,
    kept::{directory, header, kept, renew, sequences},
    look::changed_words,
    names::{CURRENT, MOST_FILE_BYTES, SHOWN},
    plan::{Contents, Faults, Header, KeptSnapshot, Retention, plan},
    seen::Seen,
};
