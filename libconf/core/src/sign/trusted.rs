//! The keys that a reader trusts: those that it was given, and those that statements lead to from
//! there.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use parking_lot::RwLock;
use ssh_key::{LineEnding, PublicKey};

use libconf::name::Sequence;

use crate::{
    api::KeyStatement,
    sign::{
        key::{KeyError, NAMESPACE, SigningKey, fingerprint, public_keys, read},
        statement::{MOST_STATEMENTS, Signers, check, fingerprint_of_new, previous, refused, text},
    },
};

/// The public keys that a reader trusts. Clones share what they follow.
#[derive(Clone, Debug)]
pub struct TrustedKeys(Arc<RwLock<Trust>>);

/// A text that a trusted key has signed.
#[derive(Debug)]
pub struct SignedText {
    /// The signature as [`SigningKey::sign`] writes it: lines may be broken elsewhere in the one
    /// that was given.
    pub signature: String,
    fingerprint: String,
    until: Option<Sequence>,
}

impl SignedText {
    /// Refuses a signature by a key that is revoked, for a change that it does not count for.
    pub fn expect_good_at(&self, change: Sequence) -> Result<(), KeyError> {
        match self.until {
            Some(until) if change >= until => Err(KeyError::Revoked { fingerprint: self.fingerprint.clone(), until }),
            _ => Ok(()),
        }
    }
}

impl SignedText {
    /// Refuses a signature by a key that is revoked, whatever it says it is about: its owner could
    /// name any change.
    pub fn expect_in_use(&self) -> Result<(), KeyError> {
        match self.until {
            Some(until) => Err(KeyError::Revoked { fingerprint: self.fingerprint.clone(), until }),
            None => Ok(()),
        }
    }
}

#[derive(Clone, Debug)]
struct Trust {
    keys: Vec<Trusted>,
    followed: Vec<KeyStatement>,
    /// By fingerprint, the first change for which a revoked key does not count. Not all of them
    /// were trusted.
    revoked: BTreeMap<String, Sequence>,
}

#[derive(Clone, Debug)]
struct Trusted {
    key: PublicKey,
    fingerprint: String,
    /// The change with which another key took its place.
    replaced: Option<Sequence>,
}

impl TrustedKeys {
    /// Reads a `.pub` file or an `allowed_signers` file; a file without a usable key is an error.
    ///
    /// In `allowed_signers`, lines for other namespaces than `git`, and lines that name a
    /// certificate authority, are ignored. Source: ssh-keygen(1), "ALLOWED SIGNERS".
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        Ok(Self::given(public_keys(path)?))
    }

    /// Trusts what one key signs.
    pub fn of(key: &SigningKey) -> Self {
        Self::given(vec![key.public().clone()])
    }

    fn given(keys: Vec<PublicKey>) -> Self {
        let keys = keys.into_iter().map(Trusted::new).collect();
        TrustedKeys(Arc::new(RwLock::new(Trust { keys, followed: Vec::new(), revoked: BTreeMap::new() })))
    }

    /// Trusts besides whatever key these statements name, whoever has signed them: for the history
    /// of a repository that only conf-master writes.
    #[must_use]
    pub fn and_all_of(&self, statements: &[KeyStatement]) -> Self {
        let mut keys: Vec<PublicKey> = self.0.read().keys.iter().map(|one| one.key.clone()).collect();
        let signers = statements.iter().filter_map(|one| check(one).ok());
        keys.extend(signers.flat_map(|Signers { old, new }| [old, new]));
        Self::given(keys)
    }

    /// Tells whether what this key signs now is trusted.
    pub fn trusts(&self, key: &SigningKey) -> bool {
        let trust = self.0.read();
        trust.keys.iter().any(|one| one.key.key_data() == key.public().key_data() && !trust.is_revoked(one))
    }

    /// Follows statements about keys, which are all that there are, from the first one on. Those
    /// that were followed before must be the same.
    ///
    /// After an error, those before the bad one are followed.
    pub fn follow(&self, statements: &[KeyStatement]) -> Result<(), KeyError> {
        self.0.write().follow(statements)
    }

    /// Returns the statements that were followed, in order.
    pub fn followed(&self) -> Vec<KeyStatement> {
        self.0.read().followed.clone()
    }

    /// The epoch of conf-master's history, as far as statements were followed; the first is 1.
    pub fn epoch(&self) -> u32 {
        let trust = self.0.read();
        1 + u32::try_from(trust.successions().count()).unwrap_or(u32::MAX - 1)
    }

    /// The epoch in which a change landed, by the numbers of the changes alone: a conf-master that
    /// was replaced and did not know it may have landed some under numbers of a later one.
    pub fn epoch_at(&self, change: Sequence) -> u32 {
        let trust = self.0.read();
        1 + u32::try_from(trust.successions().filter(|(_, from)| *from <= change).count()).unwrap_or(u32::MAX - 1)
    }

    /// Finds the change after which the history of a `later` epoch left that of an `earlier` one,
    /// if it did so below `change`: that change, of the earlier epoch, is replaced.
    pub fn replaced_after(&self, (earlier, change): (u32, Sequence), later: u32) -> Option<Sequence> {
        let trust = self.0.read();
        let (skipped, count) = (earlier.saturating_sub(1) as usize, later.saturating_sub(earlier) as usize);
        let between = trust.successions().skip(skipped).take(count);
        between.map(|(continues, _)| continues).find(|continues| *continues < change)
    }

    /// Finds the last change before and the first one after a stretch of the history that was
    /// replaced and that a change is in: nobody knows any more what landed with it.
    pub fn gap(&self, change: Sequence) -> Option<(Sequence, Sequence)> {
        let trust = self.0.read();
        trust.successions().find(|(continues, from)| *continues < change && change < *from)
    }

    /// Returns the number of statements that were followed.
    pub fn count(&self) -> usize {
        self.0.read().followed.len()
    }

    /// Checks a commit's signature over its text. Whoever knows the change of the commit must ask
    /// the answer whether the key counts for it.
    pub fn verify(&self, commit: &[u8], signature: &str) -> Result<SignedText, KeyError> {
        self.0.read().verify(NAMESPACE, commit, signature)
    }

    pub(crate) fn verify_for(
        &self,
        namespace: &str,
        text: &[u8],
        signature: &str,
        change: Sequence,
    ) -> Result<(), KeyError> {
        self.0.read().verify(namespace, text, signature)?.expect_good_at(change)
    }
}

impl TrustedKeys {
    /// The same for a text about the present, which no revoked key signs.
    pub(crate) fn verify_present(&self, namespace: &str, text: &[u8], signature: &str) -> Result<(), KeyError> {
        self.0.read().verify(namespace, text, signature)?.expect_in_use()
    }
}

impl Trusted {
    fn new(key: PublicKey) -> Self {
        Trusted { fingerprint: fingerprint(&key), key, replaced: None }
    }
}

impl Trust {
    fn verify(&self, namespace: &str, text: &[u8], signature: &str) -> Result<SignedText, KeyError> {
        let bad = |words: String| KeyError::BadSignature(words);
        let signature = read(signature)?;
        let found = self.keys.iter().find(|one| one.key.key_data() == signature.public_key());
        let other = || bad(format!("it is by a key that is not trusted here, {}", of(&signature)));
        let Trusted { key, fingerprint, .. } = found.ok_or_else(other)?;
        key.verify(namespace, text, &signature).map_err(|_| bad("it does not belong to this text".to_owned()))?;
        Ok(SignedText {
            signature: signature.to_pem(LineEnding::LF).map_err(|error| bad(error.to_string()))?,
            fingerprint: fingerprint.clone(),
            until: self.revoked.get(fingerprint).copied(),
        })
    }

    /// The successions that were followed: the last change of each epoch that counts in the next
    /// one, and the first change of that.
    fn successions(&self) -> impl Iterator<Item = (Sequence, Sequence)> {
        self.followed.iter().filter_map(|one| Some((one.continues?, one.from)))
    }

    fn find(&self, fingerprint: &str) -> Option<&Trusted> {
        self.keys.iter().find(|one| one.fingerprint == fingerprint)
    }

    fn is_revoked(&self, key: &Trusted) -> bool {
        self.revoked.contains_key(&key.fingerprint)
    }

    fn follow(&mut self, statements: &[KeyStatement]) -> Result<(), KeyError> {
        if let Some(over) = statements.get(MOST_STATEMENTS) {
            return Err(refused(over.number, &format!("there are more than {MOST_STATEMENTS}")));
        }
        for (mine, offered) in self.followed.iter().zip(statements) {
            if text(mine) != text(offered) {
                let words = "another one with this number was followed before, and conf-master signs one of each; look at \
                             `conf-master key list`, and see docs/operating.md, \"Keys\"";
                return Err(refused(offered.number, words));
            }
        }
        // Those before the first one that leads from a key or to a key that is trusted here.
        let mut past = Vec::new();
        for (at, statement) in statements.iter().enumerate().skip(self.followed.len()) {
            let no = |words: &str| refused(statement.number, words);
            let before = at.checked_sub(1).and_then(|before| statements.get(before));
            if usize::try_from(statement.number) != Ok(at + 1) || statement.previous != previous(before) {
                return Err(no("it does not follow from the one before it"));
            }
            if before.is_some_and(|before| statement.from <= before.from) {
                return Err(no("its change is not after that of the one before it"));
            }
            let signers = check(statement)?;
            let is_trusted = self.is_trusted(statement)?;
            if !is_trusted && !self.followed.is_empty() {
                return Err(no("its old key is not trusted here"));
            }
            past.push((statement, signers));
            if is_trusted {
                past.drain(..).for_each(|(statement, signers)| self.take(statement, signers));
            }
        }
        match past.first() {
            None => Ok(()),
            Some((statement, _)) => {
                Err(refused(statement.number, "neither its old key nor its new one is trusted here"))
            }
        }
    }

    /// Tells whether one of the keys that signed a statement is trusted: the old one may make the
    /// new one known, and the new one vouches for what was before it.
    fn is_trusted(&self, statement: &KeyStatement) -> Result<bool, KeyError> {
        let no = |words: String| Err(refused(statement.number, &words));
        let (old, new) = (&statement.old, fingerprint_of_new(statement));
        if self.revoked.contains_key(old) {
            return no(format!("its old key {old} is revoked"));
        }
        if let Some(replaced) = self.find(old).and_then(|key| key.replaced) {
            return no(format!("another key took the place of its old key {old} with change #{replaced}"));
        }
        let was_new = self.find(&new).is_some_and(|key| key.replaced.is_some());
        if new != *old && (was_new || self.revoked.contains_key(&new)) {
            return no(format!("its new key {new} was replaced or revoked before"));
        }
        Ok(self.find(old).is_some() || self.find(&new).is_some())
    }

    fn take(&mut self, statement: &KeyStatement, signers: Signers) {
        let new = Trusted::new(signers.new);
        if new.fingerprint != statement.old
            && let Some(old) = self.keys.iter_mut().find(|key| key.fingerprint == statement.old)
        {
            old.replaced = Some(statement.from);
            if self.find(&new.fingerprint).is_none() {
                self.keys.push(new);
            }
        }
        for revoked in &statement.revokes {
            // What it signed while it was in use still counts.
            let until = self.find(revoked).and_then(|key| key.replaced).unwrap_or(statement.from);
            self.revoked.entry(revoked.clone()).or_insert(until);
        }
        self.followed.push(statement.clone());
    }
}

fn of(signature: &ssh_key::SshSig) -> String {
    signature.public_key().fingerprint(ssh_key::HashAlg::Sha256).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{key::public_path, statement::sign_statement};

    /// Keys by their names, and the statements of a conf-master.
    struct Case {
        folder: tempfile::TempDir,
        keys: BTreeMap<&'static str, SigningKey>,
    }

    impl Case {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let make = |name: &'static str| (name, SigningKey::generate(&folder.path().join(name), name).unwrap());
            let keys = ["a", "b", "c", "d"].map(make).into();
            Case { folder, keys }
        }

        fn key(&self, name: &str) -> &SigningKey {
            &self.keys[name]
        }

        fn trusting(&self, names: &[&str]) -> TrustedKeys {
            let lines: Vec<String> = names.iter().map(|name| self.key(name).public_line()).collect();
            let file = self.folder.path().join("trusted");
            std::fs::write(&file, lines.join("\n")).unwrap();
            TrustedKeys::load(&file).unwrap()
        }

        /// The statements of rotations along keys at the changes 10, 20 and so on; each revokes
        /// some.
        fn chain(&self, steps: &[(&str, &str, &[&str])]) -> Vec<KeyStatement> {
            let mut all = Vec::new();
            for ((old, new, revokes), at) in steps.iter().zip(1..) {
                let revokes = revokes.iter().map(|name| self.key(name).fingerprint()).collect();
                let keys = (self.key(old), self.key(new));
                let next = sign_statement(&all, (Sequence(10 * at), 0), revokes, keys).unwrap();
                all.push(next);
            }
            all
        }

        /// Tells whether what a key signs for a change is good.
        fn is_good(&self, trusted: &TrustedKeys, name: &str, change: u64) -> bool {
            let signature = self.key(name).sign("text").unwrap();
            let signed = trusted.verify(b"text", &signature);
            signed.and_then(|signed| signed.expect_good_at(Sequence(change))).is_ok()
        }
    }

    #[track_caller]
    fn refused_for(trusted: &TrustedKeys, statements: &[KeyStatement], words: &str) {
        let error = trusted.follow(statements).unwrap_err().to_string();
        assert!(error.contains(words), "{error}: {words}");
    }

    #[test]
    fn a_signature_holds_for_its_text_and_its_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        let key = SigningKey::generate(&ours, "conf-master").unwrap();
        SigningKey::generate(&theirs, "other").unwrap();
        assert!(SigningKey::generate(&ours, "again").is_err(), "an existing key is never replaced");
        let signature = SigningKey::load(&ours).unwrap().sign("text").unwrap();
        let trusted = TrustedKeys::load(&public_path(&ours)).unwrap();
        trusted.verify(b"text", &signature).unwrap();
        assert!(trusted.verify(b"other", &signature).is_err());
        assert!(trusted.verify(b"text", "garbage").is_err());
        assert!(TrustedKeys::load(&public_path(&theirs)).unwrap().verify(b"text", &signature).is_err());
        assert!(key.public_line().starts_with("ssh-ed25519 "));
        assert!(trusted.trusts(&key) && !TrustedKeys::load(&public_path(&theirs)).unwrap().trusts(&key));
        TrustedKeys::of(&key).verify(b"text", &signature).unwrap();
    }

    #[test]
    fn a_chain_leads_from_a_trusted_key_to_the_newest() {
        let case = Case::new();
        let chain = case.chain(&[("a", "b", &[]), ("b", "c", &[])]);
        // In one go, and one after the other.
        for steps in [&[2][..], &[1, 2]] {
            let trusted = case.trusting(&["a"]);
            steps.iter().for_each(|upto| trusted.follow(&chain[..*upto]).unwrap());
            assert!(["a", "b", "c"].iter().all(|name| case.is_good(&trusted, name, 99)));
            assert!(!case.is_good(&trusted, "d", 99));
            assert_eq!(trusted.followed(), chain);
            // A conf-slave that has fewer takes nothing away.
            trusted.follow(&chain[..1]).unwrap();
            trusted.follow(&[]).unwrap();
            assert_eq!(trusted.count(), 2);
        }
        // Clones share what they follow.
        let trusted = case.trusting(&["a"]);
        let clone = trusted.clone();
        trusted.follow(&chain).unwrap();
        assert!(case.is_good(&clone, "c", 99));
    }

    #[test]
    fn whoever_was_given_a_later_key_follows_from_there_and_trusts_none_before() {
        let case = Case::new();
        let chain = case.chain(&[("a", "b", &["a"]), ("b", "c", &[]), ("c", "d", &["b"])]);
        for (given, good, bad) in [("b", "cd", "a"), ("c", "d", "ab"), ("d", "d", "abc")] {
            let trusted = case.trusting(&[given]);
            trusted.follow(&chain).unwrap();
            assert!(good.chars().all(|name| case.is_good(&trusted, &name.to_string(), 99)), "{given}");
            assert!(!bad.chars().any(|name| case.is_good(&trusted, &name.to_string(), 99)), "{given}");
            // It passes all of them on.
            assert_eq!(trusted.count(), 3);
        }
    }

    #[test]
    fn a_revoked_key_counts_for_what_it_signed_while_it_was_in_use() {
        let case = Case::new();
        let trusted = case.trusting(&["a", "d"]);
        let chain = case.chain(&[("a", "b", &[]), ("b", "b", &["a", "d"])]);
        trusted.follow(&chain[..1]).unwrap();
        assert!(case.is_good(&trusted, "a", 15) && case.is_good(&trusted, "d", 15));
        trusted.follow(&chain).unwrap();
        // It was replaced with #10, and revoked with #20.
        assert!(case.is_good(&trusted, "a", 9) && !case.is_good(&trusted, "a", 10));
        // Nobody replaced this one.
        assert!(case.is_good(&trusted, "d", 19) && !case.is_good(&trusted, "d", 20));
        assert!(case.is_good(&trusted, "b", 99));
        assert!(trusted.trusts(case.key("b")) && !trusted.trusts(case.key("a")));
        let error = trusted.verify(b"text", &case.key("a").sign("text").unwrap()).unwrap();
        let error = error.expect_good_at(Sequence(10)).unwrap_err().to_string();
        assert!(error.contains("is revoked and counts only for changes below #10"), "{error}");
    }

    #[test]
    fn a_chain_that_no_trusted_key_signed_is_refused() {
        let case = Case::new();
        let trusted = case.trusting(&["a"]);
        refused_for(&trusted, &case.chain(&[("c", "d", &[])]), "neither its old key nor its new one");
        assert!(trusted.count() == 0 && !case.is_good(&trusted, "d", 99));
        // By one key alone.
        let good = case.chain(&[("a", "b", &[])]).remove(0);
        let half = KeyStatement { by_old: String::new(), ..good.clone() };
        refused_for(&trusted, &[half], "its old key has not signed it");
        let half = KeyStatement { by_new: String::new(), ..good.clone() };
        refused_for(&trusted, &[half], "its new key has not signed it");
        // What was good before a bad one stays.
        let chain = case.chain(&[("a", "b", &[]), ("c", "d", &[])]);
        refused_for(&trusted, &chain, "statement 2 about keys is refused: its old key is not trusted here");
        assert!(trusted.count() == 1 && case.is_good(&trusted, "b", 99) && !case.is_good(&trusted, "d", 99));
    }

    #[test]
    fn a_key_that_was_replaced_or_revoked_makes_none_known() {
        let case = Case::new();
        for (steps, words) in [
            (&[("a", "b", &[][..]), ("a", "c", &[])][..], "another key took the place of its old key"),
            (&[("a", "b", &["a"]), ("a", "c", &[])], "its old key SHA256:"),
            (&[("a", "b", &["a"]), ("a", "a", &["c"])], "is revoked"),
            (&[("a", "b", &[]), ("a", "a", &["c"])], "took the place"),
            (&[("a", "b", &[]), ("b", "a", &[])], "its new key SHA256:"),
            (&[("a", "b", &["c"]), ("b", "c", &[])], "was replaced or revoked before"),
        ] {
            let trusted = case.trusting(&["a"]);
            refused_for(&trusted, &case.chain(steps), words);
            assert_eq!(trusted.count(), 1, "{words}");
        }
    }

    #[test]
    fn statements_are_followed_in_their_order_and_none_twice() {
        let case = Case::new();
        let chain = case.chain(&[("a", "b", &[]), ("b", "c", &[]), ("c", "d", &[])]);
        let [one, two, three] = chain.clone().try_into().unwrap();
        let trusted = case.trusting(&["a", "b"]);
        for wrong in [
            vec![two.clone(), one.clone()],
            vec![two.clone()],
            vec![one.clone(), one.clone()],
            vec![one.clone(), three.clone()],
        ] {
            refused_for(&trusted, &wrong, "it does not follow from the one before it");
        }
        trusted.follow(&chain).unwrap();
        // Another one in the place of one that was followed.
        let other = case.chain(&[("a", "d", &[])]);
        refused_for(&trusted, &other, "another one with this number was followed before");
        // Another past in front of a good one.
        let trusted = case.trusting(&["b"]);
        refused_for(&trusted, &[other[0].clone(), two], "it does not follow from the one before it");
        assert_eq!(trusted.count(), 0);
    }

    #[test]
    fn there_are_not_too_many() {
        let case = Case::new();
        let chain = case.chain(&vec![("a", "a", &[][..]); MOST_STATEMENTS]);
        let trusted = case.trusting(&["a"]);
        trusted.follow(&chain).unwrap();
        let more = [chain.clone(), vec![chain[MOST_STATEMENTS - 1].clone()]].concat();
        refused_for(&trusted, &more, "there are more than 1024");
        assert_eq!(trusted.count(), MOST_STATEMENTS);
    }
}
