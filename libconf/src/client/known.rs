//! The newest snapshot, and the changes that it covers.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use serde::Deserialize;

use crate::{client::snapshot::Snapshot, name::Sequence};

/// Bytes of `export/central` that are read: two numbers and their names.
const MOST_CENTRAL_BYTES: u64 = 4096;

/// The newest snapshot, replaced as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// The newest snapshot of the export.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The highest change for which the agent said that `snapshot` is the datacenter's newest not
    /// above it.
    pub(crate) central: Sequence,
}

/// Reads from `export/central` up to which change `snapshot` is the newest. The file may be
/// missing, or be about another snapshot for a moment; then it is the snapshot's own sequence.
pub(crate) fn central_of(export_dir: &Path, snapshot: &Snapshot) -> Sequence {
    #[derive(Deserialize)]
    struct Central {
        sequence: Sequence,
        central: Sequence,
    }
    let read = || {
        let mut bytes = Vec::new();
        File::open(export_dir.join("central")).ok()?.take(MOST_CENTRAL_BYTES).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice::<Central>(&bytes).ok()
    };
    let found = read().filter(|found| found.sequence == snapshot.sequence && found.central > snapshot.sequence);
    found.map_or(snapshot.sequence, |found| found.central)
}
