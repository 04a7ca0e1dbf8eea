//! `conf-local identity`: prints this host's public key. It needs no agent, so that it works before
//! the first start.

use anyhow::Context as _;
use conf_core::secret::Identity;

use crate::{
    cli::{
        options::IdentityOptions,
        output::{note, print},
    },
    snapshot::identity_path,
};

pub(crate) fn run(options: &IdentityOptions) -> anyhow::Result<()> {
    let path = identity_path(&options.state, options.identity.as_deref());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let (identity, created) = Identity::load_or_create(&path)?;
    if created {
        note(format_args!("created {}; keep it on this host", path.display()));
    }
    print(&identity.recipient().to_string())
}
