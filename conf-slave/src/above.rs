//! What is known of the servers above: how many conf-slaves are on the way to conf-master, and
//! whether that has the datacenter.

use conf_core::{
    api::{AbsentEvent, DeletedEvent},
    upstream::MOST_TIERS,
};
use tokio::sync::watch;

/// Why conf-master has no snapshot of the datacenter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// Its branch was deleted.
    Deleted(DeletedEvent),
    /// There was none.
    Unknown(AbsentEvent),
}

/// What the servers above said last.
#[derive(Debug)]
pub(crate) struct Above {
    tiers: watch::Sender<u32>,
    absence: watch::Sender<Option<Absence>>,
}

/// There are too many conf-slaves on the way. Those that follow each other count on and on, and so
/// come to this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it follows this conf-slave in turn, or there are more than {MOST_TIERS} conf-slaves on the way to conf-master; name \
     conf-master with --central, or a conf-slave that follows it"
)]
pub(crate) struct TooFar;

impl Default for Above {
    fn default() -> Self {
        Above { tiers: watch::Sender::new(1), absence: watch::Sender::default() }
    }
}

impl Above {
    /// Notes that the way up is open, through so many conf-slaves above this one. Those that follow
    /// this one hear of it each time.
    pub(crate) fn open(&self, through: u32) -> Result<(), TooFar> {
        // One above the most says enough.
        let tiers = through.min(MOST_TIERS) + 1;
        self.tiers.send_replace(tiers);
        if tiers > MOST_TIERS { Err(TooFar) } else { Ok(()) }
    }

    /// The conf-slaves from conf-master to here, this one included.
    pub(crate) fn tiers(&self) -> u32 {
        *self.tiers.borrow()
    }

    /// Subscribes to their number, which is also told anew when the way is open again.
    pub(crate) fn subscribe_tiers(&self) -> watch::Receiver<u32> {
        self.tiers.subscribe()
    }

    /// Notes whether conf-master has the datacenter.
    pub(crate) fn set_absence(&self, absence: Option<Absence>) {
        self.absence.send_if_modified(|now| {
            let is_new = *now != absence;
            *now = absence;
            is_new
        });
    }

    /// Subscribes to the reason why it has no snapshot of it.
    pub(crate) fn subscribe_absence(&self) -> watch::Receiver<Option<Absence>> {
        self.absence.subscribe()
    }

    /// Tells whether it has none.
    pub(crate) fn is_absent(&self) -> bool {
        self.absence.borrow().is_some()
    }

    /// Tells whether conf-master has deleted the datacenter, as far as this slave heard.
    pub(crate) fn is_deleted(&self) -> bool {
        matches!(*self.absence.borrow(), Some(Absence::Deleted(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_follow_each_other_count_to_the_most_and_stay_there() {
        let (one, other) = (Above::default(), Above::default());
        assert_eq!(one.open(0), Ok(()));
        assert_eq!((one.tiers(), other.open(one.tiers())), (1, Ok(())));
        assert_eq!(other.tiers(), 2);
        for _ in 0..MOST_TIERS {
            let _ = (one.open(other.tiers()), other.open(one.tiers()));
        }
        for _ in 0..2 {
            assert_eq!((one.open(other.tiers()), other.open(one.tiers())), (Err(TooFar), Err(TooFar)));
            assert_eq!((one.tiers(), other.tiers()), (MOST_TIERS + 1, MOST_TIERS + 1));
        }
        // One of them hears conf-master again.
        assert_eq!((one.open(0), other.open(one.tiers())), (Ok(()), Ok(())));
        assert_eq!(other.open(u32::MAX), Err(TooFar));
    }

    #[test]
    fn that_the_way_is_open_again_is_told_also_where_nothing_else_is_new() {
        let above = Above::default();
        let mut told = above.subscribe_tiers();
        above.open(0).unwrap();
        assert!(told.has_changed().unwrap());
        told.mark_unchanged();
        above.open(0).unwrap();
        assert!(told.has_changed().unwrap());
    }
}
