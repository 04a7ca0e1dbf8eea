//! The shrink guard: a change that removes most of something is more often a mistake than intended.

use std::collections::BTreeSet;

use libconf::name::{ComponentName, HostName};
use serde_json::{Map, Value};

use crate::catalog::DatacenterView;
use crate::judge::hosts::HostEffect;
use crate::text::{count, some_of};

/// A datacenter with fewer components may lose them. Each host counts from its first component on.
const MIN_COMPONENTS: usize = 2;
/// Settings with at most this many keys may lose any of them.
const FEW_KEYS: usize = 5;
/// The most removed components, and hosts, that a message names.
const MOST_NAMED: usize = 5;

/// How much may be removed at once, in percent; 100 is all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaxShrink(pub(crate) u8);

impl Default for MaxShrink {
    fn default() -> Self {
        MaxShrink(50)
    }
}

impl MaxShrink {
    fn allows(self, removed: usize, of: usize) -> bool {
        removed * 100 <= usize::from(self.0) * of
    }

    /// Says what is wrong with the components that a datacenter would lose. A component that
    /// changes its version is not lost. The only component of a datacenter may go.
    pub(crate) fn components(self, before: &DatacenterView<'_>, after: &DatacenterView<'_>) -> Option<String> {
        let names = |view: &DatacenterView<'_>| -> BTreeSet<ComponentName> {
            view.manifest.requests.keys().map(|name| name.component.clone()).collect()
        };
        let (before, after) = (names(before), names(after));
        let (removed, all) = (before.difference(&after).count(), before.len());
        if all < MIN_COMPONENTS || self.allows(removed, all) {
            return None;
        }
        let named = some_of(before.difference(&after), MOST_NAMED).join(", ");
        Some(format!("this would remove {removed} of its {all} components ({named}){}", self.remedy()))
    }

    /// Says what is wrong with the components that listed hosts would lose: the first such hosts,
    /// with the reason. A host that is shut out keeps its files.
    pub(crate) fn hosts<'a>(self, effects: &[HostEffect<'a>]) -> Option<(&'a HostName, String)> {
        let shrinks = |one: &&HostEffect<'_>| !self.allows(one.lost.len(), one.before.len()) && !one.hosts.is_empty();
        let shrinking: Vec<&HostEffect<'_>> = effects.iter().filter(shrinks).collect();
        let first = *shrinking.first()?.hosts.first()?;
        let told = some_of(
            shrinking.iter().map(|one| {
                let hosts = some_of(&one.hosts, MOST_NAMED).join(", ");
                let lost = some_of(&one.lost, MOST_NAMED).join(", ");
                format!("{} of the {} on {hosts} ({lost})", one.lost.len(), count(one.before.len(), "component"))
            }),
            MOST_NAMED,
        );
        Some((first, format!("this would remove {}{}", told.join("; "), self.remedy())))
    }

    /// Says what is wrong with the keys that settings would lose.
    pub(crate) fn keys(self, before: &Map<String, Value>, after: &Map<String, Value>) -> Option<String> {
        let all = before.values().map(keys).sum();
        let removed = removed_in(before, Some(after));
        if all <= FEW_KEYS || self.allows(removed, all) {
            return None;
        }
        Some(format!("this would remove {removed} of the {all} keys of its settings{}", self.remedy()))
    }

    fn remedy(self) -> String {
        format!(
            ", more than {} %; if that is meant, say so: `git push -o allow-shrink`, or \"allowShrink\": true in a request",
            self.0
        )
    }
}

/// Counts the leaves: an object counts for its members, every other value for one.
fn keys(value: &Value) -> usize {
    match value {
        Value::Object(inner) if !inner.is_empty() => inner.values().map(keys).sum(),
        _ => 1,
    }
}

fn removed_in(before: &Map<String, Value>, after: Option<&Map<String, Value>>) -> usize {
    let removed = |(key, old): (&String, &Value)| match (old, after.and_then(|after| after.get(key))) {
        (Value::Object(old), new) if !old.is_empty() => removed_in(old, new.and_then(Value::as_object)),
        (_, None) => 1,
        (_, Some(_)) => 0,
    };
    before.iter().map(removed).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_may_remove_its_share_of_the_keys_and_no_more() {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        let before = object(json!({"a": 1, "b": {"c": 1, "d": {"e": 1, "f": [1, 2]}}, "g": {}, "h": null}));
        for (after, percent, removed) in [
            (json!({"a": 1, "b": {"c": 2}, "g": {}, "h": 1}), 50, None),
            (json!({"a": 1, "b": {"c": 2}, "g": {}}), 50, None),
            (json!({"a": 1, "b": 1, "g": {}}), 50, Some("4 of the 6")),
            (json!({"b": {"d": {}}, "x": 1, "y": 2, "z": 3}), 50, Some("6 of the 6")),
            (json!({"a": 1, "b": {"c": 2}, "g": {}}), 49, Some("3 of the 6")),
            (json!({}), 100, None),
            (json!({}), 99, Some("6 of the 6")),
        ] {
            let found = MaxShrink(percent).keys(&before, &object(after.clone()));
            match (removed, &found) {
                (None, None) => {}
                (Some(removed), Some(found)) => assert!(found.contains(removed), "{after}: {found}"),
                _ => panic!("{after} at {percent} %: {found:?}"),
            }
        }
        let few = object(json!({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}));
        assert_eq!(MaxShrink(0).keys(&few, &Map::new()), None, "few keys may go");
    }
}
