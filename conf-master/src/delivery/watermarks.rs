//! The watermarks that conf-master signs: that a datacenter's newest snapshot not above a change is this one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use conf_core::{
    api::{Pointer, WatermarkEvent},
    sign::{self, KeyError, SigningKey},
};
use libconf::name::DatacenterName;

use crate::landing::Published;

/// Signs each watermark once, for all who ask.
#[derive(Debug)]
pub struct Watermarks {
    key: SigningKey,
    /// The last one of each datacenter.
    signed: Mutex<BTreeMap<DatacenterName, Arc<WatermarkEvent>>>,
}

impl Watermarks {
    /// Signs by this key.
    pub fn new(key: SigningKey) -> Self {
        Watermarks { key, signed: Mutex::default() }
    }

    /// What is so of a datacenter's newest snapshot once everything in `published` has landed; `None` where it has none.
    pub fn of(
        &self,
        published: &Published,
        datacenter: &DatacenterName,
    ) -> Result<Option<Arc<WatermarkEvent>>, KeyError> {
        let Some(snapshot) = published.datacenters.get(datacenter) else { return Ok(None) };
        let newest = Pointer { sequence: snapshot.sequence, commit: snapshot.commit };
        let last = self.signed().get(datacenter).cloned();
        if let Some(last) = last.filter(|last| last.central == published.central && last.newest() == newest) {
            return Ok(Some(last));
        }
        // Without the lock: others sign theirs meanwhile.
        let signed = Arc::new(sign::sign_watermark(published.central, datacenter, newest, &self.key)?);
        self.signed().insert(datacenter.clone(), Arc::clone(&signed));
        Ok(Some(signed))
    }

    fn signed(&self) -> MutexGuard<'_, BTreeMap<DatacenterName, Arc<WatermarkEvent>>> {
        self.signed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
