//! Bringing one snapshot to this host, and putting it in place.

use std::time::{Duration, Instant};

use conf_core::{api::Pointer, daemon::chain};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::random_up_to,
    follow::{
        fetch::{Failure, prepare_templates},
        worker::{Chore, IDLE, LATER, MUCH_LATER, Worker},
    },
    transaction::{TransactionError, Unchecked},
};

/// 300 ms without a change, and up to as long more or four times as long as the change took: then
/// the work starts that can wait. Readers have their files, and other agents on this machine too.
const QUIET: Duration = Duration::from_millis(300);
/// After 16 changes without a pause that work is done in between.
const MOST_UNTIDY: u32 = 16;

impl Worker<'_> {
    /// Fetches a newer snapshot, within `limit` if there is one, verifies it, and puts it in place.
    /// Where no key has signed it that is trusted here, the servers are asked for the statements
    /// about keys before that counts.
    pub(crate) async fn bring(
        &mut self,
        wanted: Pointer,
        since: Instant,
        limit: Option<Duration>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let brought = self.bring_once(wanted, since, limit, stop).await;
        if !matches!(brought, Err(Failure::Untrusted(_))) {
            return brought;
        }
        let asking = self.sources.keys.ask(self.sources.servers.in_order());
        let is_key_new = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            is_new = asking => is_new,
        };
        if is_key_new { self.bring_once(wanted, since, limit, stop).await } else { brought }
    }

    /// Fetches a newer snapshot, within `limit` if there is one, verifies it, and puts it in place.
    async fn bring_once(
        &mut self,
        wanted: Pointer,
        since: Instant,
        limit: Option<Duration>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        self.keep_out(stop).await?;
        let have = match self.host().have_at_hand() {
            Some(have) => Some(have),
            None => self.blocking(|host, _| host.have()).await,
        };
        self.have = have;
        self.chore.get_or_insert((Chore::Release, Instant::now() + IDLE));
        let fetching = async { tokio::join!(self.fetch(wanted.commit, limit), prepare_templates()).0 };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            fetched = fetching => fetched?,
        }
        let placed = self.blocking(move |host, audience| {
            let snapshot = host.accept(wanted)?;
            host.put_in_place(&snapshot, false, since, audience)
        });
        match placed.await {
            Ok(()) => {}
            Err(error @ TransactionError::Damaged(_)) => {
                self.heal().await;
                return Err(Failure::Soon(chain(&error)));
            }
            Err(error @ TransactionError::Refused(_)) => return Err(Failure::Never(chain(&error))),
            Err(error @ TransactionError::Untrusted(_)) => return Err(Failure::Untrusted(chain(&error))),
            // The next start does it.
            Err(TransactionError::Unchecked(Unchecked::Stopped)) => return Ok(()),
            Err(error) => {
                // What the failed step left and could not remove at once.
                self.chore = Some((Chore::Tidy, Instant::now() + MUCH_LATER));
                return Err(Failure::Later(chain(&error)));
            }
        }
        self.audience.agent.update(|view| view.status.settle());
        self.in_vain = 0;
        if have.is_none() {
            self.host().repository.pool.forget();
        }
        let quiet = QUIET + random_up_to(QUIET.max(self.audience.agent.last_took() * 4));
        self.chore = Some((Chore::Tidy, Instant::now() + quiet.min(LATER)));
        self.untidy += 1;
        if self.untidy >= MOST_UNTIDY {
            self.tidy().await;
        }
        Ok(())
    }
}
