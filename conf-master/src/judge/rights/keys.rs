//! The keys of files that need a right of their own, and which of them a change changes.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::access::Verb;
use conf_core::manifest::{ClassManifest, InstanceManifest};
use conf_core::secret::{Declaration, Source};
use conf_core::settings::Compatibility;
use git2::{ObjectType, Repository};
use libconf::name::{CommitId, ComponentName, RefName, SecretName};
use serde_json::{Map, Value};

use crate::catalog::{Manifest, resolve};
use crate::judge::compatibility::schemas::{IGNORED, KEY, UNKNOWN_KEYS};
use crate::judge::compatibility::violation::directions;
use crate::judge::schema::compile::{self, FILE};
use crate::store::Place;

/// What a secret is: its source and its readers, wherever they stand in the file.
type Meaning<'a> = (&'a Source, BTreeSet<&'a ComponentName>);

/// Finds the rights that a branch needs for the keys of its files that change as it moves to
/// `after`.
pub(crate) fn changed(
    repo: &Repository,
    name: &RefName,
    before: Place,
    after: CommitId,
) -> Result<BTreeSet<Verb>, git2::Error> {
    let mut verbs = BTreeSet::new();
    let old = before.target.map(|target| target.commit);
    // Whoever deletes a branch and makes it anew has not kept its promise.
    let promised = before.target.or(before.last).map(|target| target.commit);
    match name {
        RefName::Class(_) => {
            // What cannot be read declares nothing. What lands was read before.
            let nothing = || ClassManifest { settings_compatibility: Compatibility::None, ..ClassManifest::default() };
            let read = |commit: Option<CommitId>| -> ClassManifest {
                commit.and_then(|commit| resolve::class(repo, name, commit).ok()).unwrap_or_else(nothing)
            };
            let after = read(Some(after));
            if meanings(&read(old).secrets) != meanings(&after.secrets) {
                verbs.insert(Verb::Secrets);
            }
            if read(promised).settings_compatibility != after.settings_compatibility {
                verbs.insert(Verb::Breaking);
            }
        }
        RefName::Datacenter(_) => {
            let read = |commit: CommitId| resolve::instance(repo, name, commit).ok();
            let before = old.and_then(read);
            if read(after).is_none_or(|after| has_new_secrets(before.as_ref(), &after)) {
                verbs.insert(Verb::Secrets);
            }
        }
        RefName::Branch(..) => {
            let is_weaker = match promised {
                Some(before) => is_weaker(&schema(repo, before)?, &schema(repo, after)?),
                None => false,
            };
            if is_weaker {
                verbs.insert(Verb::Breaking);
            }
        }
        _ => {}
    }
    Ok(verbs)
}

/// Tells whether a datacenter's own file declares its secrets otherwise, gives a host another key,
/// or takes a host with its key away: another one could join under that name.
fn has_new_secrets(before: Option<&InstanceManifest>, after: &InstanceManifest) -> bool {
    let declared = before.map(|before| meanings(&before.secrets)).unwrap_or_default();
    let key = |host| before.and_then(|before| before.hosts.get(host)?.key.as_ref());
    let is_other = after.hosts.iter().any(|(name, host)| key(name) != host.key.as_ref());
    let had = before.iter().flat_map(|before| &before.hosts).filter(|(_, host)| host.key.is_some());
    let is_gone = had.into_iter().any(|(name, _)| !after.hosts.contains_key(name));
    declared != meanings(&after.secrets) || is_other || is_gone
}

/// Finds the rights that a datacenter needs since its class says other things than before: another
/// class, or another tag of it.
pub(crate) fn of_another_class(before: &Manifest, after: &Manifest) -> BTreeSet<Verb> {
    let mut verbs = BTreeSet::new();
    if before.instance.class_ref() == after.instance.class_ref() {
        return verbs;
    }
    let secrets = |manifest: &Manifest| -> BTreeMap<SecretName, Declaration> {
        let secrets = manifest.secrets.iter();
        secrets.map(|(name, declared)| (name.clone(), declared.declaration.clone())).collect()
    };
    if meanings(&secrets(before)) != meanings(&secrets(after)) {
        verbs.insert(Verb::Secrets);
    }
    if before.settings_compatibility != after.settings_compatibility {
        verbs.insert(Verb::Breaking);
    }
    verbs
}

fn meanings(secrets: &BTreeMap<SecretName, Declaration>) -> BTreeMap<&SecretName, Meaning<'_>> {
    secrets.iter().map(|(name, one)| (name, (&one.source, one.readers.iter().collect()))).collect()
}

/// The promise of a component's schema.
#[derive(Debug)]
struct Promise {
    compatibility: Compatibility,
    ignores_unknown_keys: bool,
}

/// Reads the promise of the schema in a commit; without a schema that can be read there is none.
fn schema(repo: &Repository, commit: CommitId) -> Result<Promise, git2::Error> {
    let tree = repo.find_commit(commit.into())?.tree()?;
    let Some(entry) = tree.get_name(FILE).filter(|entry| entry.kind() == Some(ObjectType::Blob)) else {
        return Ok(NO_PROMISE);
    };
    let blob = repo.find_blob(entry.id())?;
    let schema = std::str::from_utf8(blob.content()).ok().and_then(|text| compile::parse(text).ok());
    Ok(schema.map_or(NO_PROMISE, |schema| promise(&schema)))
}

const NO_PROMISE: Promise = Promise { compatibility: Compatibility::None, ignores_unknown_keys: false };

fn promise(schema: &Map<String, Value>) -> Promise {
    let word = |key: &str| schema.get(key).and_then(Value::as_str);
    Promise {
        compatibility: word(KEY).and_then(|word| word.parse().ok()).unwrap_or_default(),
        ignores_unknown_keys: word(UNKNOWN_KEYS) == Some(IGNORED),
    }
}

/// Tells whether a schema promises less than before: less would be checked from the next change on.
fn is_weaker(before: &Promise, after: &Promise) -> bool {
    let kept = directions(after.compatibility);
    let loses = directions(before.compatibility).iter().any(|direction| !kept.contains(direction));
    let ignores = after.ignores_unknown_keys && !before.ignores_unknown_keys;
    loses || ignores && !directions(before.compatibility).is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_that_promises_less_is_weaker() {
        let of = |schema: Value| schema.as_object().map_or(NO_PROMISE, promise);
        let word = |word: &str| json!({KEY: word});
        let ignoring = json!({KEY: "full", UNKNOWN_KEYS: IGNORED});
        for (before, after, weaker) in [
            (Value::Null, word("none"), false),
            (Value::Null, word("full"), false),
            (word("full"), word("full"), false),
            (word("full"), word("backward"), true),
            (word("full"), Value::Null, true),
            (word("backward"), word("full"), false),
            (word("backward"), word("forward"), true),
            (word("none"), word("full"), false),
            (word("full"), ignoring.clone(), true),
            (ignoring.clone(), ignoring.clone(), false),
            (ignoring, word("full"), false),
            // Without the word there is a promise, too.
            (json!({}), word("none"), true),
            (json!({}), word("backward"), false),
        ] {
            assert_eq!(is_weaker(&of(before.clone()), &of(after.clone())), weaker, "{before} {after}");
        }
    }
}
