//! Compares the settings of a component without a schema before and after a change, where its class
//! asks for that. Every key counts as needed by programs, and the type of its value as the only one
//! that they read.

use std::collections::BTreeSet;

use conf_core::layers::{self, Origin, Stack};
use conf_core::settings::JsonPointer;
use conf_core::settings::asked_secret;
use git2::Repository;
use libconf::name::{ComponentVersion, HostName, ObjectId};
use serde_json::{Map, Value};

use crate::catalog::{DatacenterChange, DatacenterView};
use crate::fault::{Caused, Fault, Findings};
use crate::judge::compatibility::pins::{Successor, successors};
use crate::judge::compatibility::trailer::{self, Trailer};
use crate::judge::compatibility::violation::{Direction, WAY_OUT, directions};
use crate::judge::schema::compile::{FILE, MOST_FAULTS};
use crate::store::RefChanges;

/// Compares the settings of components without a schema before and after a change. `changes` are
/// the refs that move with it. An error is the repository's.
pub(crate) fn compare(
    repo: &Repository,
    change: &DatacenterChange<'_>,
    changes: &RefChanges,
) -> Result<Findings, git2::Error> {
    let mut outcome = Findings::default();
    let Some(before) = &change.before else { return Ok(outcome) };
    let directions = directions(before.manifest.settings_compatibility);
    if directions.is_empty() {
        return Ok(outcome);
    }
    let name = before.name;
    let comparing = Comparing { repo, change, before, after: &change.after, directions };
    for successor in successors(repo, change)? {
        let found = comparing.component(&successor)?;
        let Some(first) = found.first() else { continue };
        let mut reasons = Vec::new();
        let causes: BTreeSet<_> = first.causes.iter().collect();
        for (cause, tip) in causes.into_iter().filter_map(|cause| Some((cause, (*changes.get(cause)?)?))) {
            match trailer::in_commit(repo, tip.commit)? {
                Trailer::Breaking(reason) => reasons.push((cause.clone(), reason)),
                Trailer::Unclear(reason) => {
                    outcome.faults.push(Caused { fault: Fault::new(reason), causes: first.causes.clone() });
                }
                Trailer::Absent => {}
            }
        }
        match reasons.pop() {
            Some((by, reason)) => {
                outcome.breaks.insert(by);
                outcome.notes.push(format!("{name}: {} breaks compatibility: {reason}", successor.new));
            }
            None => outcome.faults.extend(found),
        }
    }
    Caused::place_in(&mut outcome.faults, name);
    Ok(outcome)
}

struct Comparing<'a, 'v> {
    repo: &'a Repository,
    change: &'a DatacenterChange<'v>,
    before: &'a DatacenterView<'v>,
    after: &'a DatacenterView<'v>,
    directions: &'a [Direction],
}

impl Comparing<'_, '_> {
    fn component(&self, successor: &Successor) -> Result<Vec<Caused>, git2::Error> {
        let Successor { old: former, new: name } = successor;
        let mut goes_back = None;
        let mut found = Vec::new();
        let (Some(old), Some(new)) = (self.before.sources(former), self.after.sources(name)) else { return Ok(found) };
        // A schema that is added now does not change the earlier promise.
        if old.raw || new.raw || self.has_schema(old.component_tree)? {
            return Ok(found);
        }
        let stack = |sources| layers::stack(self.repo, sources, &name.component, None).ok();
        // Layers that cannot be read are refused elsewhere.
        let (Some(old), Some(new)) = (stack(&old), stack(&new)) else { return Ok(found) };
        let mut told = BTreeSet::new();
        for group in self.change.groups(self.repo, name)? {
            let host = group.host();
            let before = self.before.ingredients(self.repo, former, host)?;
            // Programs of a host that did not run it have read nothing.
            if before.is_none() || before == self.after.ingredients(self.repo, name, host)? {
                continue;
            }
            let old = old.clone().on_host(&self.before.manifest.instance, &name.component, host);
            let new = new.clone().on_host(&self.after.manifest.instance, &name.component, host);
            let merged = [old.merged(), new.merged()];
            for direction in self.directions {
                for (place, reason) in differences(*direction, &merged[0], &merged[1]) {
                    let of_component = |stack: &Stack| {
                        stack.winner(&place.to_string()).is_none_or(|layer| layer.origin == Origin::Component)
                    };
                    if of_component(&old) && of_component(&new) {
                        let back = match goes_back {
                            Some(known) => known,
                            None => *goes_back.insert(successor.goes_back(self.repo, self.change)?),
                        };
                        if back {
                            continue;
                        }
                    }
                    // A difference that hosts have in common is told once.
                    if told.len() < MOST_FAULTS && told.insert((*direction, place.clone())) {
                        found.push(self.fault(name, host, [&old, &new], &place, reason));
                    }
                }
            }
        }
        Ok(found)
    }

    fn has_schema(&self, tree: ObjectId) -> Result<bool, git2::Error> {
        Ok(self.repo.find_tree(tree.into())?.get_name(FILE).is_some())
    }

    /// Places a fault in the file of the layer that sets the value, or did.
    fn fault(
        &self,
        name: &ComponentVersion,
        host: Option<&HostName>,
        [old, new]: [&Stack; 2],
        place: &JsonPointer,
        reason: String,
    ) -> Caused {
        let pointer = place.to_string();
        let (layer, line) = match new.winner(&pointer) {
            Some(layer) => (Some(layer), layer.line_of(&pointer)),
            None => (old.winner(&pointer), None),
        };
        let reference = layer.map_or_else(|| self.after.own_ref(), |layer| self.after.reference(name, &layer.origin));
        let of_hosts = layer.is_some_and(|layer| layer.origin.is_of_hosts());
        let fault = Fault {
            reference: Some(reference.short()),
            file: layer.map(|layer| layer.file.clone()),
            line,
            pointer: Some(pointer),
            host: host.filter(|_| of_hosts).cloned(),
            ..Fault::new(reason)
        };
        Caused { fault, causes: self.after.causes(name, reference) }
    }
}

/// Finds the differences that a program may not read.
fn differences(direction: Direction, old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<(JsonPointer, String)> {
    let (inner, outer) = match direction {
        Direction::Backward => (new, old),
        Direction::Forward => (old, new),
    };
    let mut found = Vec::new();
    objects(inner, outer, &JsonPointer::default(), &mut found);
    let word = direction.word();
    let told = found.into_iter().map(|(place, differs)| {
        let what = match (direction, differs) {
            (Direction::Backward, None) => {
                "the key is gone, and programs written for the old settings may need it".into()
            }
            (Direction::Forward, None) => "the key is new, and programs that need it may read the old settings".into(),
            (Direction::Backward, Some((inner, outer))) => format!("this is {inner} now and was {outer} before"),
            (Direction::Forward, Some((inner, outer))) => format!("this was {inner} before and is {outer} now"),
        };
        (place, format!("not {word} compatible: {what}; {WAY_OUT}, or `breaking` in a request"))
    });
    told.collect()
}

/// The kinds of the two values; `None` when one of them is absent.
type Differs = Option<(&'static str, &'static str)>;

fn objects(
    inner: &Map<String, Value>,
    outer: &Map<String, Value>,
    place: &JsonPointer,
    found: &mut Vec<(JsonPointer, Differs)>,
) {
    for (key, wanted) in outer {
        let place = place.join(key);
        match inner.get(key) {
            None => found.push((place, None)),
            Some(given) => values(given, wanted, &place, found),
        }
    }
}

fn values(inner: &Value, outer: &Value, place: &JsonPointer, found: &mut Vec<(JsonPointer, Differs)>) {
    match (inner, outer) {
        (Value::Object(one), Value::Object(other)) if kind(inner) == kind(outer) => objects(one, other, place, found),
        (Value::Array(items), Value::Array(known)) => {
            // The items of a list that was empty are unknown. Lists may be long, kinds are few.
            let kinds: BTreeSet<_> = known.iter().map(kind).collect();
            let stranger = items.iter().find(|item| !kinds.iter().any(|known| fits(kind(item), known)));
            if let (Some(stranger), Some(known)) = (stranger, known.first()) {
                found.push((place.join("*"), Some((kind(stranger), kind(known)))));
            }
        }
        _ if fits(kind(inner), kind(outer)) => {}
        _ => found.push((place.clone(), Some((kind(inner), kind(outer))))),
    }
}

const WHOLE: &str = "a whole number";
const FRACTION: &str = "a number with a fraction";

/// Tells whether a program that reads the wanted kind reads the given one.
fn fits(given: &str, wanted: &str) -> bool {
    given == wanted || (given == WHOLE && wanted == FRACTION)
}

fn kind(value: &Value) -> &'static str {
    match value {
        // The value of a secret is text.
        asking if asked_secret(asking).is_some() => "a string",
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => FRACTION,
        Value::Number(_) => WHOLE,
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Applies a JSON Merge Patch.
    fn patch(settings: &mut Map<String, Value>, change: Map<String, Value>) {
        for (key, value) in change {
            match (settings.get_mut(&key), value) {
                (_, Value::Null) => drop(settings.remove(&key)),
                (Some(Value::Object(inner)), Value::Object(change)) => patch(inner, change),
                (_, value) => drop(settings.insert(key, value)),
            }
        }
    }

    #[test]
    fn removed_keys_and_changed_types_of_settings_are_found() {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        let old = object(json!({
            "port": 80, "ratio": 0.5, "name": "a", "pool": {"size": 1, "tags": ["x"]}, "empty": [], "password": {"$secret": "P"},
        }));
        let places = |direction: Direction, change: Value| -> Vec<String> {
            let mut new = old.clone();
            patch(&mut new, object(change));
            differences(direction, &old, &new).into_iter().map(|(place, _)| place.to_string()).collect()
        };
        for (change, backward, forward) in [
            (
                json!({"port": 81, "name": "b", "pool": {"tags": ["y", "z"]}, "password": {"$secret": "Q"}}),
                vec![],
                vec![],
            ),
            (json!({"port": null}), vec!["/port"], vec![]),
            (json!({"more": {"a": 1}}), vec![], vec!["/more"]),
            (json!({"pool": {"size": null, "max": 1}}), vec!["/pool/size"], vec!["/pool/max"]),
            (json!({"port": "80"}), vec!["/port"], vec!["/port"]),
            (json!({"port": 80.5}), vec!["/port"], vec![]),
            (json!({"ratio": 1}), vec![], vec!["/ratio"]),
            (json!({"pool": 1}), vec!["/pool"], vec!["/pool"]),
            (json!({"pool": {"tags": ["x", 1]}}), vec!["/pool/tags/*"], vec![]),
            (json!({"empty": [1]}), vec![], vec![]),
            (json!({"password": "plain"}), vec![], vec![]),
            (json!({"password": 1}), vec!["/password"], vec!["/password"]),
        ] {
            assert_eq!(places(Direction::Backward, change.clone()), backward, "backward {change}");
            assert_eq!(places(Direction::Forward, change.clone()), forward, "forward {change}");
        }
        // The time grows with the length of the lists, not with the product of both lengths.
        let long = |most: Value| {
            let mut items = vec![most; 500_000];
            items.push(json!(""));
            object(json!({"list": items}))
        };
        assert_eq!(differences(Direction::Backward, &long(json!(1)), &long(json!(""))), []);
        let words = differences(Direction::Backward, &old, &object(json!({"port": "80"}))).remove(0).1;
        assert!(words.contains("is a string now and was a whole number before") && words.contains(WAY_OUT), "{words}");
    }
}
