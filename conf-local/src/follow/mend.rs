//! Noticing damage on this host's disk while the agent runs, showing it, and mending it: without a
//! restart, and without waiting for the next change.

use std::time::{Duration, Instant};

use conf_core::{daemon::chain, retry::with_jitter};
use tokio_util::sync::CancellationToken;

use crate::{
    follow::{fetch::Failure, worker::Worker},
    state::VerifyReport,
    transaction::{Audience, Damage, Host, TransactionError},
};

/// 10 s between two looks at most, so that damage is mended within a minute even if the first
/// attempts fail.
const LOOK: Duration = Duration::from_secs(10);
/// 5 failures for which no damage is found: then a new repository is the last that can help.
const MOST_IN_VAIN: u32 = 5;
/// 2 s: damage stays in the status for so long at least, and a look that follows an attempt comes
/// after this.
const SOON_AGAIN: Duration = Duration::from_secs(2);

impl Worker<'_> {
    /// Looks for damage, shows it, and mends it. An attempt that fails is repeated after a growing
    /// wait.
    pub(crate) async fn look(&mut self, stop: &CancellationToken) {
        if self.unsettled && self.wanted.borrow().is_none() {
            // No pointer leads on from a start that failed.
            self.settle().await;
        }
        let found = self.blocking(look).await;
        if found == Damage::default() {
            self.mending.reset();
            self.audience.agent.set_damage(Vec::new());
            self.next_look = Instant::now() + with_jitter(LOOK);
            return;
        }
        let words = found.words();
        let shown = |end: &str| words.iter().map(|one| format!("{one}{end}")).collect();
        self.audience.agent.set_damage(shown("; conf-local puts it right"));
        if let Err(why) = self.mend(&found, false, stop).await {
            tracing::warn!(error = why, "the damage could not be mended; trying again within a minute");
            self.audience
                .agent
                .set_damage(shown(&format!("; not put right yet, and tried again within a minute: {why}")));
        }
        self.next_look = Instant::now() + SOON_AGAIN.max(self.mending.next_wait());
    }

    /// Mends damage: what a server is needed for is fetched first. With `thorough`, all objects of
    /// the repository are read.
    async fn mend(&mut self, found: &Damage, thorough: bool, stop: &CancellationToken) -> Result<(), String> {
        let missing = self.blocking(move |host, audience| host.mend_folders(thorough, audience)).await;
        let missing = missing.map_err(|error| chain(&*error))?;
        if let Some(missing) = missing {
            self.have = self.blocking(|host, _| host.have()).await;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                fetched = self.fetch(missing.commit, None) => fetched.map_err(Failure::words)?,
            }
            let accepted = self.blocking(move |host, _| host.accept(missing).map(drop)).await;
            accepted.map_err(|error| chain(&error))?;
        }
        let is_export = thorough || !found.export.is_empty();
        if is_export || !found.places.is_empty() {
            let found = found.clone();
            let mended = self.blocking(move |host, audience| host.mend_seen(&found, thorough, audience)).await;
            if let Err(TransactionError::Damaged(_)) = &mended {
                // The files cannot be made again from this repository.
                self.heal().await;
            }
            mended.map_err(|error| chain(&error))?;
        }
        Ok(())
    }

    /// Reads everything, and with `repair` mends what is wrong.
    pub(crate) async fn verify(&mut self, repair: bool, stop: &CancellationToken) -> VerifyReport {
        let first = self.blocking(|host, _| host.verify()).await;
        if !repair || first.problems.is_empty() {
            return first;
        }
        let found = self.blocking(look).await;
        if let Err(why) = self.mend(&found, true, stop).await {
            tracing::warn!(error = why, "not everything could be mended");
        }
        self.next_look = Instant::now();
        let second = self.blocking(|host, _| host.verify()).await;
        let repaired = first.problems.iter().filter(|one| !second.problems.contains(one)).cloned().collect();
        VerifyReport { problems: first.problems, repaired, ..second }
    }

    /// Mends the repository if it is damaged: all of it is read.
    pub(crate) async fn heal(&mut self) {
        if let Err(error) = self.blocking(|host, _| host.heal()).await {
            tracing::warn!(error = chain(&*error), "the repository could not be mended; trying again");
        }
    }

    /// Counts a failure that the repository here has caused. Begins a new one, once, when there
    /// were several in a row and no damage is found. Wrong answers of servers do not count: a new
    /// repository does not help against them.
    pub(crate) async fn renew_after_many(&mut self) {
        self.in_vain += 1;
        if self.in_vain != MOST_IN_VAIN {
            return;
        }
        let renewed = self.blocking(|host, _| if host.heal()? { Ok(()) } else { host.renew_repository() }).await;
        if let Err(error) = renewed {
            self.in_vain = 0;
            tracing::warn!(error = chain(&*error), "no new repository could be created");
        }
    }

    /// True while something is held back or not placed that another attempt may bring.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.host().is_troubled() || self.host().lacks_content()
    }

    /// Says why nothing may be written, if another agent has the state folder.
    pub(crate) async fn keep_out(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        if !self.host().holds_state() {
            self.look(stop).await;
        }
        if self.host().holds_state() {
            return Ok(());
        }
        let words = "the state folder was removed or replaced, and this agent cannot lock it again";
        Err(Failure::Later(words.to_owned()))
    }
}

fn look(host: &mut Host, audience: &Audience) -> Damage {
    let mut found = host.look();
    let gone = audience.watchers.gone().map(|file| format!("{} was removed", file.display()));
    found.state.extend(gone);
    found
}
