//! The watermarks that conf-master signs: each states that a snapshot is a datacenter's newest one
//! up to a change.

use std::{collections::BTreeMap, sync::Arc};

use conf_core::sign::KeyError;
use conf_core::{
    api::{Pointer, WatermarkEvent},
    sign,
};
use libconf::name::DatacenterName;
use parking_lot::Mutex;

use crate::landing::Published;

/// Signs each watermark once for all readers.
#[derive(Debug, Default)]
pub(crate) struct Watermarks {
    /// The last watermark of each datacenter.
    signed: Mutex<BTreeMap<DatacenterName, Arc<WatermarkEvent>>>,
}

impl Watermarks {
    /// Returns the watermark of a datacenter's newest snapshot in `published`; `None` when it has
    /// no snapshot.
    pub(crate) fn of(
        &self,
        published: &Published,
        datacenter: &DatacenterName,
    ) -> Result<Option<Arc<WatermarkEvent>>, KeyError> {
        let (Some(snapshot), Some(key)) = (published.datacenters.get(datacenter), &published.signer) else {
            return Ok(None);
        };
        let newest = Pointer { sequence: snapshot.sequence, commit: snapshot.commit };
        let last = self.signed.lock().get(datacenter).cloned();
        if let Some(last) = last.filter(|last| last.central == published.sequence && last.newest() == newest) {
            return Ok(Some(last));
        }
        // Signs without the lock, so that others sign theirs meanwhile.
        let signed = Arc::new(sign::sign_watermark(published.sequence, datacenter, newest, key)?);
        self.signed.lock().insert(datacenter.clone(), Arc::clone(&signed));
        Ok(Some(signed))
    }
}
