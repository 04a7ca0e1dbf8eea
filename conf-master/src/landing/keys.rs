//! Stages requests for statements: about the keys that sign, and that begin another epoch.

use std::sync::Arc;

use conf_core::access::Principal;
use conf_core::api::KeyStatement;
use conf_core::daemon::chain;
use conf_core::sign::{KeyError, SigningKey, fingerprint_of_new, public_path, sign_statement, sign_succession};
use libconf::name::{RefName, Sequence};
use tracing::error;

use crate::catalog::{Delta, Deltas};
use crate::fault::{Refusal, RefusalKind};
use crate::judge::Judgement;
use crate::landing::push::{Anew, KeyRequest, Outcome, Push, epoch_of};
use crate::landing::staging::{Staged, Staging};
use crate::store::ledger::TABLE_EVERY;
use crate::store::{self, RefChanges, signer};
use crate::text::now;

/// 2^52: JSON's readers know whole numbers up to twice as much.
const MOST_SEQUENCE: u64 = 1 << 52;

impl Staging {
    /// Stages a request about keys. Another key signs this very change: with it every datacenter
    /// gets a snapshot that the new key has signed, so that nobody needs the old one any more.
    pub(crate) fn stage_keys(&mut self, push: &Push, request: &KeyRequest, by: String) -> anyhow::Result<Staged> {
        let time = now();
        let (key, statement) = match self.key_statement(push, request, time) {
            Ok(made) => made,
            Err(why) => return Ok((Outcome::refused(push.updates.len(), &why), Vec::new())),
        };
        let statements = [self.keys.as_slice(), std::slice::from_ref(&statement)].concat();
        let parent = self.catalog.table.target(&RefName::Keys).map(|tip| tip.commit);
        let target = store::keys::write(&self.objects, parent, &statements, time)?;
        let changes = RefChanges::from([(RefName::Keys, Some(target))]);
        let judgement = Judgement { refusals: vec![None; push.updates.len()], changes, ..Judgement::default() };
        let before = (self.key.clone(), self.keys.clone());
        let is_rotation = !Arc::ptr_eq(&key, &self.key);
        self.anew = match statements.last().filter(|last| last.continues.is_some()) {
            Some(succession) => Some(Anew::Epoch(succession.from)),
            None => is_rotation.then_some(Anew::Key),
        };
        (self.key, self.keys) = (key, Arc::new(statements));
        let staged = self.stage_judged(push, judgement, by);
        self.anew = None;
        let (outcome, moves) = staged?;
        if outcome.sequence.is_none() {
            (self.key, self.keys) = before;
            return Ok((outcome, moves));
        }
        self.has_next_key |= is_rotation;
        Ok((Outcome { notes: self.words_of(&statement, request), ..outcome }, moves))
    }

    /// The number of the change that is staged, and where it begins an epoch the one before it.
    pub(crate) fn next_change(&self) -> (Option<Sequence>, Sequence) {
        match self.anew {
            Some(Anew::Epoch(first)) => (Some(self.sequence), first),
            Some(Anew::Key) | None => (None, self.sequence.next()),
        }
    }

    /// The epoch of the history, with what is staged.
    pub(crate) fn epoch(&self) -> u32 {
        epoch_of(&self.keys)
    }

    /// Makes the statement for a request, and the key that signs with it.
    fn key_statement(
        &self,
        push: &Push,
        request: &KeyRequest,
        time: i64,
    ) -> Result<(Arc<SigningKey>, KeyStatement), Refusal> {
        if !matches!(push.pusher.principal, Principal::Owner(_) | Principal::Server) {
            let words =
                "only the owner of the repository's files changes the keys that sign, on the machine of conf-master";
            return Err(Refusal::new(RefusalKind::Denied, words));
        }
        let at = (self.sequence.next(), time);
        let refused = |error: KeyError| Refusal::new(RefusalKind::Invalid, chain(&error));
        match request {
            KeyRequest::Succeed { above } => {
                let first = first_of_epoch(self.sequence.max(*above))?;
                let statement =
                    sign_succession(&self.keys, (self.sequence, first), time, &self.key).map_err(refused)?;
                Ok((self.key.clone(), statement))
            }
            KeyRequest::Rotate { .. } if self.has_next_key && signer::next_path(&self.path).exists() => {
                let words = "another change of keys is not in place yet; try again in a moment";
                Err(Refusal::new(RefusalKind::Busy, words))
            }
            KeyRequest::Rotate { revokes_old } => {
                let failed = |error: anyhow::Error| {
                    Refusal::new(RefusalKind::Failed, format!("no new key can be made: {}", chain(&*error)))
                };
                let next = signer::make_next(&self.path, &self.keys).map_err(failed)?;
                let revokes = revokes_old.then(|| self.key.fingerprint()).into_iter().collect();
                let statement = sign_statement(&self.keys, at, revokes, (&self.key, &next)).map_err(refused)?;
                Ok((Arc::new(next), statement))
            }
            KeyRequest::Revoke(fingerprint) => {
                let own = self.key.fingerprint();
                if *fingerprint == own {
                    let words = format!(
                        "{own} is the key that signs now; make another one with `conf-master key rotate --revoke-old`, which \
                         revokes this one"
                    );
                    return Err(words.into());
                }
                if self.keys.iter().any(|one| one.revokes.contains(fingerprint)) {
                    return Err(format!("{fingerprint} is revoked already").into());
                }
                let revokes = vec![fingerprint.clone()];
                let statement = sign_statement(&self.keys, at, revokes, (&self.key, &self.key)).map_err(refused)?;
                Ok((self.key.clone(), statement))
            }
        }
    }

    /// Says what a request has done.
    fn words_of(&self, statement: &KeyStatement, request: &KeyRequest) -> Vec<String> {
        let KeyStatement { from, old, revokes, .. } = statement;
        let signed = self.catalog.datacenters.values().filter(|one| one.snapshot.is_some()).count();
        let have = if signed == 1 { "datacenter has" } else { "datacenters have" };
        let mut words = Vec::new();
        if let Some(last) = statement.continues {
            words.push(format!(
                "the history goes on after #{last} with #{from}, in epoch {}; {signed} {have} a snapshot of it, and whatever \
                 landed elsewhere between the two is replaced",
                self.epoch()
            ));
        }
        if let KeyRequest::Rotate { .. } = request {
            let new = fingerprint_of_new(statement);
            words.push(format!(
                "{new} signs from #{from} on, in place of {old}; {signed} {have} a snapshot that it has signed"
            ));
            let file = public_path(&store::key_path(&self.path));
            words.push(format!("conf-slaves and hosts follow by themselves; give new ones {}", file.display()));
        }
        words.extend(revokes.iter().map(|one| format!("{one} is revoked: it counts for nothing new")));
        words
    }

    /// Adds to the deltas of a change of keys or of the epoch every datacenter that has a snapshot.
    pub(crate) fn and_signed_anew(&self, mut deltas: Deltas) -> Deltas {
        let all = self.catalog.datacenters.iter().filter(|(_, one)| self.anew.is_some() && one.snapshot.is_some());
        for (name, _) in all {
            deltas.entry(name.clone()).or_insert_with(|| Some(Delta::default()));
        }
        deltas
    }

    /// Puts a key that has signed a landed change in the place of the one before it. Nothing may be
    /// staged.
    pub(crate) fn put_key(&mut self) {
        if !self.has_next_key {
            return;
        }
        match signer::load(&self.path, &self.keys) {
            Ok(_) => self.has_next_key = false,
            // The next change or the next start does it.
            Err(cause) => error!(error = chain(&*cause), "the key that signs now is not in its place yet"),
        }
    }
}

/// The first change of an epoch above a change: it holds the whole tables.
fn first_of_epoch(above: Sequence) -> Result<Sequence, Refusal> {
    if above.0 >= MOST_SEQUENCE {
        return Err(format!("#{above} is no number of a change: so many never land").into());
    }
    Ok(Sequence((above.0 / TABLE_EVERY + 2) * TABLE_EVERY))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use conf_core::http::Who;

    use super::*;
    use crate::judge::{ReportingHosts, Rights};
    use crate::landing::push::Pusher;
    use crate::landing::tests::{Room, kind};

    fn open(path: &Path) -> Room {
        Room::under(path, ReportingHosts::default(), Rights::open())
    }

    async fn ask(room: &Room, principal: Principal, request: KeyRequest) -> Outcome {
        let pusher = Pusher { principal, through: "path".to_owned(), who: Who::User(1) };
        room.lander.land(Push::keys(request, &pusher)).await
    }

    fn signer(room: &Room) -> String {
        room.lander.published.borrow().signer.as_ref().unwrap().fingerprint()
    }

    #[test]
    fn an_epoch_begins_a_thousand_changes_later_at_least() {
        let first = |above: u64| first_of_epoch(Sequence(above)).map(|first| first.0).ok();
        assert_eq!([0, 999, 1000, 1001].map(first), [2000, 2000, 3000, 3000].map(Some));
        assert_eq!([MOST_SEQUENCE, u64::MAX].map(first), [None, None]);
    }

    #[tokio::test]
    async fn a_key_that_did_not_land_signs_nothing_and_one_that_did_is_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("central.git");
        store::init(&path).unwrap();
        let (key, next) = (store::key_path(&path), signer::next_path(&path));
        let old = store::beside(&key, ".old");
        let on_disk = |path: &Path| SigningKey::load(path).unwrap().fingerprint();
        let first = on_disk(&key);
        let owner = || Principal::Owner("root".to_owned());
        let rotate = || KeyRequest::Rotate { revokes_old: false };
        let room = open(&path);
        let refused = ask(&room, Principal::Anybody, rotate()).await;
        assert_eq!(kind(&refused), Some(RefusalKind::Denied));
        // A program of Git was killed.
        let lock = path.join("refs/conf/ledger.lock");
        fs::write(&lock, "").unwrap();
        assert_eq!(kind(&ask(&room, owner(), rotate()).await), Some(RefusalKind::Failed));
        assert_eq!((signer(&room), on_disk(&key)), (first.clone(), first.clone()));
        assert!(!next.exists() && room.lander.published.borrow().keys.is_empty());
        fs::remove_file(&lock).unwrap();
        let done = ask(&room, owner(), rotate()).await;
        assert!(done.sequence.is_some(), "{done:?}");
        let second = signer(&room);
        assert!(second != first && done.notes[0].contains(&second) && done.notes[0].contains(&first), "{done:?}");
        // Other work is done after it.
        room.lander.exclusively(|| ()).await;
        assert_eq!((on_disk(&key), on_disk(&old)), (second.clone(), first.clone()));
        let line = fs::read_to_string(public_path(&key)).unwrap();
        assert_eq!(line.trim(), SigningKey::load(&key).unwrap().public_line());
        assert!(!next.exists());
        for (fingerprint, lands) in [(&second, false), (&first, true), (&first, false)] {
            let outcome = ask(&room, owner(), KeyRequest::Revoke(fingerprint.clone())).await;
            assert_eq!(outcome.sequence.is_some(), lands, "{outcome:?}");
        }
        room.close().await;
        // A crash after the change, and before the key was in its place.
        fs::rename(&key, &next).unwrap();
        fs::rename(&old, &key).unwrap();
        let room = open(&path);
        assert_eq!((signer(&room), on_disk(&key)), (second.clone(), second));
        assert!(!next.exists());
        assert_eq!(room.lander.published.borrow().keys.len(), 2);
        room.close().await;
        // A key that was put back is one that hosts take nothing from.
        fs::rename(&old, &key).unwrap();
        let repo = git2::Repository::open_bare(&path).unwrap();
        let newest = repo.refname_to_id(&RefName::Ledger.to_string()).unwrap().into();
        let table = store::ledger::replay(&repo, newest).unwrap().table;
        let statements = store::keys::read(&repo, &table).unwrap();
        let found = SigningKey::load(&key).unwrap();
        let error = signer::check(&repo, &table, &statements, (&found, &key)).unwrap_err().to_string();
        assert!(
            error.contains("is an older one") && error.contains(line.trim().rsplit_once(' ').unwrap().0),
            "{error}"
        );
    }
}
