//! `conf-local identity`: prints this host's public key. It needs no agent, so that it works before the first start.

use conf_core::secret::Identity;

use crate::{
    cli::{
        options::IdentityOptions,
        output::{ClientError, note, print},
    },
    snapshot::secrets::identity_path,
};

pub(crate) fn run(options: &IdentityOptions) -> Result<(), ClientError> {
    let path = identity_path(&options.state, options.identity.as_deref());
    if let Some(folder) = path.parent() {
        let what = format!("cannot create {}", folder.display());
        std::fs::create_dir_all(folder).map_err(|source| ClientError::System { what, source })?;
    }
    let (identity, created) =
        Identity::load_or_create(&path).map_err(|error| ClientError::Refused(error.to_string()))?;
    if created {
        note(format_args!("created {}; keep it on this host", path.display()));
    }
    print(&identity.recipient().to_string())
}
