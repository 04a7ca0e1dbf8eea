//! conf-master's statements: another key signs from a change on, some count for nothing new, or the
//! history goes on in another epoch.
//!
//! The old key and the new one sign each statement, each in a namespace of its own. A statement
//! names the one before it by its hash, so whoever believes one has the others word for word.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use ssh_key::{Fingerprint, PublicKey, SshSig};

use libconf::name::Sequence;

use crate::{
    api::{KeyStatement, MOST_SIGNATURE_BYTES},
    sign::key::{KeyError, SigningKey, ed25519_only, fingerprint, read},
};

/// The namespace of the old key's signature (`ssh-keygen -Y verify -n`).
const BY_OLD: &str = "conf-key-old";
/// The namespace of the new key's signature.
const BY_NEW: &str = "conf-key-new";

/// 1,024: for twenty years a succession each week. Each has some 900 bytes.
pub const MOST_STATEMENTS: usize = 1024;
/// 16: more keys than there ever are at once.
const MOST_REVOKED: usize = 16;
/// A line with an Ed25519 key has 80 bytes, and a fingerprint or a hash 64 at most.
const MOST_WORD_BYTES: usize = 128;
/// What stands in the first statement for the hash of the one before it.
const FIRST: &str = "-";

/// The keys that have signed a statement.
#[derive(Debug)]
pub(crate) struct Signers {
    pub(crate) old: PublicKey,
    pub(crate) new: PublicKey,
}

/// Signs the statement after those of `before`: the key `new` signs in place of `old` from the
/// change `from` on, at `time` in seconds since 1970, and `revokes` count for nothing new. With
/// `new` the same as `old`, it only revokes.
pub fn sign_statement(
    before: &[KeyStatement],
    (from, time): (Sequence, i64),
    revokes: Vec<String>,
    (old, new): (&SigningKey, &SigningKey),
) -> Result<KeyStatement, KeyError> {
    sign((before, from, time), (revokes, None), (old, new))
}

/// Signs the statement after those of `before` that begins another epoch with the change `from`, at
/// `time` in seconds since 1970: of the epoch before the changes up to `continues` count, and what
/// landed above them is replaced. `from` must be above every change that anybody has seen.
pub fn sign_succession(
    before: &[KeyStatement],
    (continues, from): (Sequence, Sequence),
    time: i64,
    key: &SigningKey,
) -> Result<KeyStatement, KeyError> {
    sign((before, from, time), (Vec::new(), Some(continues)), (key, key))
}

fn sign(
    (before, from, time): (&[KeyStatement], Sequence, i64),
    (revokes, continues): (Vec<String>, Option<Sequence>),
    (old, new): (&SigningKey, &SigningKey),
) -> Result<KeyStatement, KeyError> {
    let number = u32::try_from(before.len()).unwrap_or(u32::MAX).saturating_add(1);
    if before.len() >= MOST_STATEMENTS {
        return Err(refused(number, &format!("there are {MOST_STATEMENTS} already, and no reader takes more")));
    }
    let mut statement = KeyStatement {
        number,
        from,
        time,
        previous: previous(before.last()),
        old: old.fingerprint(),
        new: plain(new.public()),
        revokes,
        continues,
        by_old: String::new(),
        by_new: String::new(),
    };
    let text = text(&statement);
    statement.by_old = old.sign_for(BY_OLD, text.as_bytes())?;
    statement.by_new = new.sign_for(BY_NEW, text.as_bytes())?;
    // What no reader would follow must not get to anybody.
    check(&statement)?;
    Ok(statement)
}

/// The text that is signed.
pub(crate) fn text(statement: &KeyStatement) -> String {
    let KeyStatement { number, from, time, previous, old, new, revokes, continues, .. } = statement;
    let mut text =
        format!("conf-keys 1\nnumber {number}\nfrom {from}\ntime {time}\nprevious {previous}\nold {old}\nnew {new}\n");
    for one in revokes {
        let _ = writeln!(text, "revokes {one}");
    }
    if let Some(last) = continues {
        let _ = writeln!(text, "continues {last}");
    }
    text
}

/// What a statement after `before` names as the one before it.
pub(crate) fn previous(before: Option<&KeyStatement>) -> String {
    before.map_or_else(|| FIRST.to_owned(), |before| format!("{:x}", Sha256::digest(text(before))))
}

/// Returns the fingerprint of the key that a statement makes known; an empty text for one that
/// cannot be read, which nobody has.
pub fn fingerprint_of_new(statement: &KeyStatement) -> String {
    PublicKey::from_openssh(&statement.new).map_or_else(|_| String::new(), |key| fingerprint(&key))
}

/// Says why a statement is not followed.
pub(crate) fn refused(number: u32, reason: &str) -> KeyError {
    KeyError::Statement { number, reason: reason.to_owned() }
}

/// Checks a statement by itself: its form, and both signatures. Whether anybody trusts the keys is
/// another question.
pub(crate) fn check(statement: &KeyStatement) -> Result<Signers, KeyError> {
    let no = |reason: &str| refused(statement.number, reason);
    let KeyStatement { previous, old, new, revokes, .. } = statement;
    let words = [previous, old, new].into_iter().chain(revokes);
    if revokes.len() > MOST_REVOKED || words.clone().any(|word| word.len() > MOST_WORD_BYTES) {
        return Err(no("it is too long"));
    }
    // Nothing in it can look like another line of the text.
    if words.clone().any(|word| word.chars().any(char::is_control)) {
        return Err(no("a line of it is broken"));
    }
    let is_fingerprint =
        |word: &String| word.parse::<Fingerprint>().is_ok_and(|read| read.is_sha256() && read.to_string() == *word);
    if !revokes.iter().chain([old]).all(is_fingerprint) {
        return Err(no("it names a key by something else than its fingerprint, SHA256:…"));
    }
    let new_key = PublicKey::from_openssh(new).ok().filter(|key| ed25519_only(key.algorithm()).is_ok());
    let new_key =
        new_key.filter(|key| plain(key) == *new).ok_or_else(|| no("its new key is not one of ssh-ed25519"))?;
    if revokes.contains(&fingerprint(&new_key)) {
        return Err(no("it revokes the key that shall sign from then on"));
    }
    if let Some(last) = statement.continues {
        if last >= statement.from {
            return Err(no("its epoch begins with a change of the epoch before"));
        }
        if fingerprint(&new_key) != *old || !revokes.is_empty() {
            return Err(no("it begins an epoch and changes keys; each is a statement of its own"));
        }
    }
    let text = text(statement);
    let by_old = signature(&statement.by_old).ok_or_else(|| no("its old key has not signed it"))?;
    let old_key = PublicKey::new(by_old.public_key().clone(), "");
    if fingerprint(&old_key) != *old || ed25519_only(old_key.algorithm()).is_err() {
        return Err(no("its old key has not signed it"));
    }
    old_key
        .verify(BY_OLD, text.as_bytes(), &by_old)
        .map_err(|_| no("the signature of its old key belongs to another text"))?;
    let by_new = signature(&statement.by_new).filter(|by_new| by_new.public_key() == new_key.key_data());
    let by_new = by_new.ok_or_else(|| no("its new key has not signed it"))?;
    new_key
        .verify(BY_NEW, text.as_bytes(), &by_new)
        .map_err(|_| no("the signature of its new key belongs to another text"))?;
    Ok(Signers { old: old_key, new: new_key })
}

fn signature(text: &str) -> Option<SshSig> {
    (text.len() <= MOST_SIGNATURE_BYTES).then(|| read(text).ok()).flatten()
}

/// Writes a key without a comment.
fn plain(key: &PublicKey) -> String {
    PublicKey::new(key.key_data().clone(), "").to_openssh().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(folder: &tempfile::TempDir, name: &str) -> SigningKey {
        SigningKey::generate(&folder.path().join(name), name).unwrap()
    }

    #[test]
    fn both_keys_must_sign_the_very_text() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new, other) = (key(&folder, "old"), key(&folder, "new"), key(&folder, "other"));
        let at = (Sequence(7), 100);
        let good = sign_statement(&[], at, vec![old.fingerprint()], (&old, &new)).unwrap();
        let signers = check(&good).unwrap();
        assert_eq!(fingerprint(&signers.old), old.fingerprint());
        assert_eq!(fingerprint(&signers.new), fingerprint_of_new(&good));
        let others = sign_statement(&[], at, vec![old.fingerprint()], (&other, &new)).unwrap();
        let KeyStatement { by_old, by_new, .. } = good.clone();
        let text = text(&good);
        for (bad, words) in [
            (KeyStatement { by_old: String::new(), ..good.clone() }, "its old key has not signed it"),
            (KeyStatement { by_new: String::new(), ..good.clone() }, "its new key has not signed it"),
            (KeyStatement { by_old: by_new.clone(), by_new: by_old.clone(), ..good.clone() }, "old key has not signed"),
            // By the right keys, for the other purpose.
            (
                KeyStatement { by_old: old.sign_for(BY_NEW, text.as_bytes()).unwrap(), ..good.clone() },
                "signature of its old key belongs to another text",
            ),
            (
                KeyStatement { by_new: new.sign_for(BY_OLD, text.as_bytes()).unwrap(), ..good.clone() },
                "signature of its new key belongs to another text",
            ),
            (KeyStatement { by_old: others.by_old, ..good.clone() }, "its old key has not signed it"),
            (KeyStatement { from: Sequence(8), ..good.clone() }, "belongs to another text"),
            (KeyStatement { number: 2, ..good.clone() }, "belongs to another text"),
            (KeyStatement { revokes: Vec::new(), ..good.clone() }, "belongs to another text"),
            (KeyStatement { previous: "-\nold x".to_owned(), ..good.clone() }, "a line of it is broken"),
            (KeyStatement { revokes: vec![old.fingerprint(); 17], ..good.clone() }, "too long"),
            (KeyStatement { new: "x".repeat(200), ..good.clone() }, "too long"),
            (KeyStatement { revokes: vec!["old".to_owned()], ..good.clone() }, "fingerprint"),
            (KeyStatement { new: format!("{} c", good.new), ..good.clone() }, "ssh-ed25519"),
            (KeyStatement { by_old: "x".repeat(5000), ..good.clone() }, "its old key has not signed it"),
        ] {
            let error = check(&bad).unwrap_err().to_string();
            assert!(error.contains(words), "{error}: {words}");
        }
    }

    #[test]
    fn a_succession_begins_above_what_it_continues_and_changes_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let (own, other) = (key(&folder, "own"), key(&folder, "other"));
        sign_succession(&[], (Sequence(7), Sequence(7)), 0, &own).unwrap_err();
        let good = sign_succession(&[], (Sequence(7), Sequence(2000)), 0, &own).unwrap();
        assert!(check(&good).is_ok() && text(&good).ends_with("continues 7\n"));
        for bad in [
            KeyStatement { continues: Some(Sequence(8)), ..good.clone() },
            KeyStatement { continues: None, ..good.clone() },
            KeyStatement { from: Sequence(3000), ..good.clone() },
        ] {
            assert!(check(&bad).unwrap_err().to_string().contains("belongs to another text"));
        }
        let rotation = sign((&[], Sequence(2000), 0), (Vec::new(), Some(Sequence(7))), (&own, &other)).unwrap_err();
        assert!(rotation.to_string().contains("each is a statement of its own"), "{rotation}");
    }

    #[test]
    fn none_is_made_that_nobody_would_follow() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (key(&folder, "old"), key(&folder, "new"));
        sign_statement(&[], (Sequence(1), 0), vec![new.fingerprint()], (&old, &new)).unwrap_err();
        let mut all: Vec<KeyStatement> = Vec::new();
        let first = sign_statement(&[], (Sequence(1), 0), Vec::new(), (&old, &old)).unwrap();
        all.resize(MOST_STATEMENTS, first);
        let error = sign_statement(&all, (Sequence(9000), 0), Vec::new(), (&old, &old)).unwrap_err().to_string();
        assert!(error.contains("there are 1024 already"), "{error}");
    }
}
