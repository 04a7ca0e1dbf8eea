//! What else is named while a pointer is tried, and when it takes the turn of that one.

use std::time::Duration;

use conf_core::api::Pointer;
use libconf::name::CommitId;
use tokio::{sync::watch, time::sleep};

/// 1 s: for so long a source names what another one does not name yet, and is no contradiction.
const LASTING: Duration = Duration::from_secs(1);

/// A pointer that may be taken in place of the one that is tried now.
#[derive(Clone, Debug)]
pub(crate) struct Rival {
    pub(crate) source: String,
    pub(crate) pointer: Pointer,
    /// It was not tried to its end.
    pub(crate) is_untried: bool,
    /// What its source named last was nowhere, or could never be taken.
    pub(crate) is_doubtful: bool,
}

/// How much the word of another source must be worth to end an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worth {
    /// More than the one that is tried: what that one's source named last was wrong.
    More,
    /// As much.
    AsMuch,
    /// Anything: it failed too, and each has its turn.
    Any,
}

/// What else is named while a pointer is tried.
pub(crate) struct Rivals {
    pub(crate) open: watch::Receiver<Vec<Rival>>,
    /// Who named it, and the pointer.
    pub(crate) tried: Option<(String, Pointer)>,
    /// What its source named last was nowhere, or could never be taken.
    pub(crate) is_doubtful: bool,
    /// The number of attempts in a row that rivals have ended.
    pub(crate) times: u32,
}

impl Rivals {
    /// Waits until there is another pointer than `want` that was not tried.
    pub(crate) async fn any(&self, want: CommitId) {
        self.until(|open| open.iter().any(|rival| rival.is_untried && rival.pointer.commit != want)).await;
    }

    /// Waits until there has been another one for a while of a source that contradicts the one who
    /// named `want`, rather than following it, and whose words are worth so much. Returns those
    /// that there are, the better ones first.
    pub(crate) async fn foreign(&self, want: CommitId, worth: Worth) -> Vec<Pointer> {
        loop {
            self.until(|open| !self.foreign_of(open, want, worth).is_empty()).await;
            // One source hears of each change before the other.
            sleep(LASTING).await;
            let foreign = self.foreign_of(&self.open.borrow(), want, worth);
            if !foreign.is_empty() {
                return foreign;
            }
        }
    }

    pub(crate) fn foreign_of(&self, open: &[Rival], want: CommitId, worth: Worth) -> Vec<Pointer> {
        let own = self.tried.as_ref().map(|(source, _)| source);
        let is_worth = |rival: &Rival| match worth {
            Worth::More => rival.is_untried && self.is_doubtful && !rival.is_doubtful,
            Worth::AsMuch => rival.is_untried && (self.is_doubtful || !rival.is_doubtful),
            // Damage is mended without a turn.
            Worth::Any => own.is_some(),
        };
        let is_foreign = |rival: &&Rival| {
            let by_own = open.iter().any(|one| Some(&one.source) == own && one.pointer == rival.pointer);
            rival.pointer.commit != want && !by_own && is_worth(rival)
        };
        let mut foreign: Vec<&Rival> = open.iter().filter(is_foreign).collect();
        foreign.sort_by_key(|rival| rival.is_doubtful);
        foreign.into_iter().map(|rival| rival.pointer).collect()
    }

    async fn until(&self, is_so: impl Fn(&[Rival]) -> bool) {
        if self.open.clone().wait_for(|open| is_so(open)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
