//! The keys that sign, for the owner of the repository's files at the server's own machine: lists
//! them, makes another one, revokes one.

use conf_core::api::KeyStatement;
use conf_core::sign::fingerprint_of_new;
use libconf::name::Sequence;
use serde::{Deserialize, Serialize};

use crate::fault::Refusal;
use crate::landing::{KeyRequest, Lander, Published, Push, Pusher};
use crate::text::when;

/// What somebody asks about keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeyCall {
    /// All of them.
    List,
    /// Another one; the old one may be revoked at once.
    Rotate {
        /// The old one counts for nothing new from then on.
        revokes_old: bool,
    },
    /// The end of one, by its fingerprint.
    Revoke(String),
    /// A standby leads from now on, in another epoch.
    Promote {
        /// The highest number of a change that anybody has seen.
        above: Option<Sequence>,
    },
}

/// The answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct KeyAnswer {
    /// The number of the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sequence: Option<Sequence>,
    /// The public line of the key that signs now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) public: Option<String>,
    /// What was done, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
    /// The list that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keys: Option<Vec<ListedKey>>,
}

/// A key as people see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListedKey {
    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub(crate) fingerprint: String,
    /// It signs now.
    pub(crate) signs: bool,
    /// The first change that it signed, where a statement says so.
    pub(crate) from: Option<Sequence>,
    /// The time of that change, RFC 3339, UTC.
    pub(crate) since: Option<String>,
    /// The first change that another key signed in its place.
    pub(crate) replaced: Option<Sequence>,
    /// The change with which it was revoked.
    pub(crate) revoked: Option<Sequence>,
}

impl Lander {
    /// Answers a call about keys.
    pub(crate) async fn keys(&self, call: KeyCall, pusher: &Pusher) -> Result<KeyAnswer, Vec<Option<Refusal>>> {
        let request = match call {
            KeyCall::List => {
                let keys = Some(listed(&self.published.borrow()));
                return Ok(KeyAnswer { keys, ..KeyAnswer::default() });
            }
            KeyCall::Rotate { revokes_old } => KeyRequest::Rotate { revokes_old },
            KeyCall::Revoke(fingerprint) => KeyRequest::Revoke(fingerprint),
            KeyCall::Promote { .. } if self.published.borrow().leader.is_none() => {
                return Err(vec![Some("this conf-master leads already".to_owned().into())]);
            }
            KeyCall::Promote { above } => KeyRequest::Succeed { above: above.unwrap_or_default() },
        };
        let outcome = self.land(Push::keys(request, pusher)).await;
        if outcome.sequence.is_none() {
            return Err(outcome.refusals);
        }
        let public = self.published.borrow().signer.as_ref().map(|key| key.public_line());
        Ok(KeyAnswer { sequence: outcome.sequence, public, notes: outcome.notes, keys: None })
    }
}

/// Lists the keys that the statements name, and the one that signs, in the order in which they
/// came.
fn listed(published: &Published) -> Vec<ListedKey> {
    let signer = published.signer.as_ref().map(|key| key.fingerprint());
    list(&published.keys, signer)
}

fn list(statements: &[KeyStatement], signer: Option<String>) -> Vec<ListedKey> {
    let mut keys: Vec<ListedKey> = Vec::new();
    for statement in statements {
        let KeyStatement { from, time, old, revokes, .. } = statement;
        let new = fingerprint_of_new(statement);
        let is_other = new != *old;
        let before = find(&mut keys, old);
        if is_other {
            before.replaced = Some(*from);
            let key = find(&mut keys, &new);
            (key.from, key.since) = (Some(*from), Some(when(*time)));
        }
        revokes.iter().for_each(|one| find(&mut keys, one).revoked = Some(*from));
    }
    if let Some(signer) = signer {
        find(&mut keys, &signer).signs = true;
    }
    keys
}

fn find<'k>(keys: &'k mut Vec<ListedKey>, fingerprint: &str) -> &'k mut ListedKey {
    let at = keys.iter().position(|key| key.fingerprint == fingerprint).unwrap_or_else(|| {
        keys.push(ListedKey { fingerprint: fingerprint.to_owned(), ..ListedKey::default() });
        keys.len() - 1
    });
    &mut keys[at]
}

#[cfg(test)]
mod tests {
    use conf_core::sign::{SigningKey, sign_statement};

    use super::*;

    #[test]
    fn each_key_is_listed_with_what_became_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| SigningKey::generate(&folder.path().join(name), name).unwrap();
        let (first, second) = (key("first"), key("second"));
        let only = list(&[], Some(first.fingerprint()));
        assert_eq!(only, [ListedKey { fingerprint: first.fingerprint(), signs: true, ..ListedKey::default() }]);
        let rotated = sign_statement(&[], (Sequence(5), 0), Vec::new(), (&first, &second)).unwrap();
        let revokes = vec![first.fingerprint()];
        let before = [rotated];
        let revoked = sign_statement(&before, (Sequence(9), 60), revokes, (&second, &second)).unwrap();
        let [rotated] = before;
        let (five, nine) = (Some(Sequence(5)), Some(Sequence(9)));
        let expected = [
            ListedKey { fingerprint: first.fingerprint(), replaced: five, revoked: nine, ..ListedKey::default() },
            ListedKey {
                fingerprint: second.fingerprint(),
                signs: true,
                from: five,
                since: Some(when(0)),
                ..ListedKey::default()
            },
        ];
        assert_eq!(list(&[rotated, revoked], Some(second.fingerprint())), expected);
    }
}
