//! Trusted keys that outlive a restart: the statements that were followed are kept in a file of the
//! state folder. The file of the keys that were given is never written.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    api::{KeyStatement, KeysEvent},
    daemon::chain,
    git::{Durability, replace_file},
    sign::{key::KeyError, trusted::TrustedKeys},
};

/// The file in the state folder.
const FILE: &str = "keys.json";

/// Trusted keys, and the statements that lead to some of them.
#[derive(Debug)]
pub struct KeptKeys {
    path: PathBuf,
    keys: TrustedKeys,
    told: watch::Sender<Arc<Vec<KeyStatement>>>,
    taking: Mutex<()>,
}

impl KeptKeys {
    /// Follows from `given` what was followed before the start. Blocks.
    ///
    /// What cannot be read or does not lead from there counts as absent: whoever knows the
    /// statements is asked for them again.
    pub fn open(state: &Path, given: TrustedKeys) -> Self {
        let path = state.join(FILE);
        let read = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| chain(&error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(KeysEvent::default()),
            Err(error) => Err(error.to_string()),
        };
        let followed = read.and_then(|read| given.follow(&read.statements).map_err(|error| chain(&error)));
        if let Err(error) = followed {
            tracing::warn!(error, path = %path.display(), "the statements about keys are asked for anew");
        }
        let told = watch::Sender::new(Arc::new(given.followed()));
        KeptKeys { path, keys: given, told, taking: Mutex::new(()) }
    }

    /// Returns the keys, which follow whatever is taken later.
    pub fn keys(&self) -> &TrustedKeys {
        &self.keys
    }

    /// Follows statements that somebody offers, and keeps them. Tells whether there was a new one.
    /// Those before a bad one are followed. Blocks.
    pub fn take(&self, offered: &[KeyStatement]) -> Result<bool, KeyError> {
        let _one_at_a_time = self.taking.lock();
        let before = self.keys.count();
        let taken = self.keys.follow(offered);
        let followed = self.keys.followed();
        let is_new = followed.len() > before;
        if is_new {
            let kept = KeysEvent { statements: followed };
            let written = serde_json::to_vec(&kept).map_err(io::Error::from);
            let written = written.and_then(|text| replace_file(&self.path, &text, 0o600, Durability::Full));
            if let Err(error) = written {
                let path = self.path.display();
                tracing::error!(%error, %path, "the statements about keys cannot be kept over a restart");
            }
            kept.statements[before..].iter().for_each(tell);
            self.told.send_replace(Arc::new(kept.statements));
        }
        taken.map(|()| is_new)
    }

    /// Returns the statements that were followed.
    pub fn followed(&self) -> Arc<Vec<KeyStatement>> {
        self.told.borrow().clone()
    }

    /// Subscribes to them.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Vec<KeyStatement>>> {
        self.told.subscribe()
    }
}

fn tell(KeyStatement { number, from, new, revokes, continues, .. }: &KeyStatement) {
    if let Some(last) = continues {
        tracing::warn!(
            sequence = from.0,
            "follows statement {number} of conf-master: its history goes on after #{last} with #{from}, and whatever \
             landed between the two is replaced"
        );
        return;
    }
    let revokes = revokes.join(" ");
    tracing::info!(sequence = from.0, new, revokes, "follows statement {number} about conf-master's keys");
}

#[cfg(test)]
mod tests {
    use std::slice;

    use libconf::name::Sequence;

    use super::*;
    use crate::sign::{key::SigningKey, statement::sign_statement};

    #[test]
    fn what_was_followed_outlives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| SigningKey::generate(&folder.path().join(name), name).unwrap();
        let (old, new, other) = (key("old"), key("new"), key("other"));
        let open = || KeptKeys::open(folder.path(), TrustedKeys::of(&old));
        let first = sign_statement(&[], (Sequence(3), 0), Vec::new(), (&old, &new)).unwrap();
        let bad = sign_statement(slice::from_ref(&first), (Sequence(4), 0), Vec::new(), (&other, &other)).unwrap();
        let kept = open();
        let told = kept.subscribe();
        assert!(kept.take(&[]).is_ok_and(|is_new| !is_new));
        // The good one before a bad one is kept.
        kept.take(&[first.clone(), bad]).unwrap_err();
        assert_eq!(told.borrow().as_slice(), slice::from_ref(&first));
        assert!(kept.take(slice::from_ref(&first)).is_ok_and(|is_new| !is_new));
        let again = open();
        assert!(again.keys().trusts(&new) && again.followed().len() == 1);
        // Another file of given keys follows from there.
        assert!(KeptKeys::open(folder.path(), TrustedKeys::of(&new)).keys().trusts(&new));
        assert!(!KeptKeys::open(folder.path(), TrustedKeys::of(&other)).keys().trusts(&new));
        fs::write(folder.path().join(FILE), "{").unwrap();
        let damaged = open();
        assert!(damaged.keys().trusts(&old) && !damaged.keys().trusts(&new));
        assert!(damaged.take(&[first]).is_ok_and(|is_new| is_new));
    }
}
