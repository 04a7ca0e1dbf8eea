//! Notices that something else has damaged the repository, by a look that reads next to nothing.

use std::{sync::Arc, time::Duration};

use conf_core::{daemon, retry::with_jitter};
use tokio::time::sleep;

use crate::mirror::Mirror;

/// The longest time between two looks: damage is mended within a minute.
const LOOK: Duration = Duration::from_secs(10);
/// The time before a second look: a change that is just being taken looks like damage.
const AGAIN: Duration = Duration::from_secs(1);

/// Looks at the repository now and then, and asks for a search for damage where it is not as it was
/// left.
pub(crate) async fn run(mirror: Arc<Mirror>) {
    loop {
        sleep(with_jitter(LOOK)).await;
        if look(&mirror).await.is_ok() {
            continue;
        }
        sleep(AGAIN).await;
        if let Err(reason) = look(&mirror).await {
            tracing::warn!(reason, "the local repository is not as it was left");
            mirror.suspicion.notify_one();
        }
    }
}

async fn look(mirror: &Arc<Mirror>) -> Result<(), String> {
    let mirror = Arc::clone(mirror);
    daemon::blocking(move || mirror.look()).await
}
