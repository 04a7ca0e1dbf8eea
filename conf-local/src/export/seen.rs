//! What looks at the export remember.

use std::collections::BTreeMap;

use conf_core::render::StoreHash;
use libconf::name::ComponentName;

/// What the last looks found, and where the next one goes on.
#[derive(Default)]
pub(crate) struct Seen {
    /// What the system said of a rendering when its content was last right.
    pub(crate) renderings: BTreeMap<StoreHash, u64>,
    /// The same for a folder of links, by its name.
    pub(crate) links: BTreeMap<StoreHash, u64>,
    /// The component that was looked at last; `None` at the beginning.
    pub(crate) last: Option<ComponentName>,
}
