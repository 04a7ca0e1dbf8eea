//! A ref that is supposed to be at another commit.

use libconf::name::{BadName, RefName};

/// A ref that is supposed to be at another commit: `REF=COMMIT`.
#[derive(Clone, Debug)]
pub(crate) struct SupposedRef {
    /// The name of the ref.
    pub(crate) name: RefName,
    /// Its supposed commit, as `git rev-parse` takes it.
    pub(crate) commit: String,
}

impl std::str::FromStr for SupposedRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, commit) = text.split_once('=').ok_or("write REF=COMMIT, as in services/web/master=HEAD")?;
        let full = if name.starts_with("refs/") { name.to_owned() } else { format!("refs/heads/{name}") };
        let name = full.parse().map_err(|error: BadName| error.to_string())?;
        Ok(SupposedRef { name, commit: commit.to_owned() })
    }
}
