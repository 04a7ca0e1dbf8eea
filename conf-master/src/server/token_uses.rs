//! The last use of each token, kept beside the repository over a restart: no landing is worth it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use conf_core::access::TokenId;
use conf_core::git::{self, Durability};
use conf_core::http::{Authenticator, TokenUse};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How often it is written, if there is something new.
const EVERY: Duration = Duration::from_secs(60);

type Uses = BTreeMap<TokenId, TokenUse>;

fn file(repo: &Path) -> PathBuf {
    repo.join("conf-token-uses.json")
}

/// Reads what was written last; what cannot be read is forgotten, since nothing depends on it.
pub(crate) fn read(repo: &Path) -> Uses {
    let text = std::fs::read(file(repo));
    text.ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Writes it now and then, and at the stop.
pub(crate) async fn keep(repo: PathBuf, authenticator: Authenticator, stop: CancellationToken) {
    let mut written = authenticator.uses();
    loop {
        let is_over = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(EVERY) => false,
        };
        let uses = authenticator.uses();
        if uses != written {
            if let Err(error) = write(&repo, &uses) {
                warn!(%error, "the last uses of tokens cannot be kept");
            }
            written = uses;
        }
        if is_over {
            return;
        }
    }
}

fn write(repo: &Path, uses: &Uses) -> std::io::Result<()> {
    git::replace_file(&file(repo), &serde_json::to_vec(uses)?, 0o600, Durability::None)
}
