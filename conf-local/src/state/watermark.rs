//! Watermarks: proofs of how long a snapshot stayed its datacenter's newest.

use std::collections::VecDeque;

use conf_core::{
    api::{Pointer, WatermarkEvent},
    sign::{self, KeyError, TrustedKeys},
};
use libconf::name::{DatacenterName, Sequence};

/// States that `snapshot` is the datacenter's newest snapshot not above the change `central`. Once
/// true, it is true for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watermark {
    pub(crate) snapshot: Pointer,
    pub(crate) central: Sequence,
}

impl Watermark {
    /// Verifies that conf-master has signed this for the datacenter; any server may have sent it.
    pub(crate) fn proven(
        event: &WatermarkEvent,
        datacenter: &DatacenterName,
        keys: &TrustedKeys,
    ) -> Result<Self, KeyError> {
        sign::verify_watermark(event, datacenter, keys)?;
        Ok(Watermark { snapshot: event.newest(), central: event.central })
    }
}

/// Watermarks of 16 snapshots are kept: of the exported one, and of newer ones that are not
/// exported yet.
const MOST_WATERMARKS: usize = 16;

/// The watermarks of the exported snapshot and of newer ones, one for each; the latest is the last.
///
/// The exported snapshot's watermark stays, however long newer snapshots cannot be taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watermarks(VecDeque<Watermark>);

impl Watermarks {
    /// Adds a watermark. A late one lowers nothing.
    pub(crate) fn record(&mut self, mut watermark: Watermark) {
        if let Some(known) = self.0.iter().position(|known| known.snapshot == watermark.snapshot) {
            watermark.central =
                self.0.remove(known).map_or(watermark.central, |known| known.central.max(watermark.central));
        }
        self.0.push_back(watermark);
        if self.0.len() > MOST_WATERMARKS {
            self.0.pop_front();
        }
    }

    /// Returns the central sequence of a host that exports `snapshot`. Forgets the watermarks of
    /// older ones.
    pub(crate) fn central(&mut self, snapshot: Pointer) -> Sequence {
        self.0.retain(|known| known.snapshot.sequence >= snapshot.sequence);
        let exported = self.0.iter().position(|known| known.snapshot == snapshot);
        let Some(known) = exported.and_then(|exported| self.0.remove(exported)) else { return snapshot.sequence };
        self.0.push_back(known);
        known.central.max(snapshot.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_counts_for_its_snapshot_alone() {
        let mut watermarks = Watermarks::default();
        let at = |sequence: u64| Pointer {
            sequence: Sequence(sequence),
            commit: [u8::try_from(sequence).unwrap(); 20].into(),
        };
        let mut record = |snapshot, central| {
            watermarks.record(Watermark { snapshot: at(snapshot), central: Sequence(central) });
        };
        record(5, 9);
        record(5, 7);
        // Of a snapshot that is on its way.
        record(10, 12);
        assert_eq!(watermarks.central(at(5)), Sequence(9));
        // Of another history.
        assert_eq!(watermarks.central(Pointer { commit: [77; 20].into(), ..at(10) }), Sequence(10));
        assert_eq!(watermarks.central(at(10)), Sequence(12));
        assert_eq!(watermarks.central(at(13)), Sequence(13));
        watermarks.record(Watermark { snapshot: at(14), central: Sequence(20) });
        assert_eq!(watermarks.central(at(14)), Sequence(20));
        // Of snapshots that cannot be taken.
        for snapshot in 100..200 {
            watermarks.record(Watermark { snapshot: at(snapshot), central: Sequence(snapshot) });
            assert_eq!(watermarks.central(at(14)), Sequence(20));
        }
        assert!(watermarks.0.len() <= MOST_WATERMARKS);
    }
}
