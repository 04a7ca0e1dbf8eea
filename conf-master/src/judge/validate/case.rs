//! A group of hosts whose settings are checked, and the places in those settings.

use conf_core::layers::{Ingredients, Origin, Stack};
use conf_core::settings;
use conf_core::settings::JsonPointer;
use libconf::name::{ComponentVersion, HostName};
use serde_json::Value;

use crate::catalog::DatacenterView;
use crate::fault::{Caused, Fault};
use crate::judge::schema::compile::FILE;
use crate::judge::schema::fault::SchemaFault;

/// A group of hosts that share all ingredients of a component.
pub(crate) struct Case {
    /// One of the hosts; `None` when no host differs from the others.
    pub(crate) host: Option<HostName>,
    /// The ingredients.
    pub(crate) ingredients: Ingredients,
    /// The layers.
    pub(crate) stack: Stack,
    /// The merged settings.
    pub(crate) settings: Value,
    /// The settings with a placeholder for each secret, when they ask for any.
    pub(crate) filled: Option<Value>,
    /// Something is wrong with it. The other checks go on: what is wrong may be older than the
    /// change, and must not hide what the change brings.
    pub(crate) is_faulty: bool,
}

impl Case {
    /// Tells whether a role or a host lays something over the settings.
    pub(crate) fn is_of_hosts(&self) -> bool {
        self.stack.layers.iter().any(|layer| layer.origin.is_of_hosts())
    }

    /// Places a fault of the settings in the file of the layer that set the value.
    pub(crate) fn fault(&self, view: &DatacenterView<'_>, name: &ComponentVersion, fault: SchemaFault) -> Caused {
        let SchemaFault { pointer, reason, .. } = fault;
        let Ok(place) = pointer.parse::<JsonPointer>();
        // When no layer sets the place itself, the fault belongs to the nearest value around it.
        let mut around = (0..=place.parts().len()).rev().map(|length| {
            place.parts()[..length].iter().fold(JsonPointer::default(), |place, part| place.join(part)).to_string()
        });
        let layer = around.find_map(|place| Some((self.stack.winner(&place)?, place)));
        let (origin, file, line) = match &layer {
            Some((layer, place)) => (&layer.origin, layer.file.as_str(), layer.line_of(place)),
            None => match self.stack.layers.first() {
                Some(layer) => (&layer.origin, layer.file.as_str(), None),
                None => (&Origin::Component, FILE, None),
            },
        };
        let reference = view.reference(name, origin);
        let mut fault = Fault { pointer: Some(pointer), ..Fault::of_file(&reference, file, line, reason) };
        // A fault that all hosts have in common names no host.
        if self.is_of_hosts() {
            fault.host.clone_from(&self.host);
        }
        Caused { fault, causes: view.causes(name, reference) }
    }

    /// Lists the JSON Pointers at which the settings ask for a secret.
    pub(crate) fn secret_places(&self) -> Vec<String> {
        fn look(value: &Value, at: &JsonPointer, found: &mut Vec<String>) {
            match value {
                asking if settings::asked_secret(asking).is_some() => found.push(at.to_string()),
                _ => members(value).for_each(|(key, inner)| look(inner, &at.join(&key), found)),
            }
        }
        let mut found = Vec::new();
        look(&self.settings, &JsonPointer::default(), &mut found);
        found
    }

    /// Lists the places that are nested deeper than `levels`, each once.
    pub(crate) fn deeper_than(&self, levels: usize) -> Vec<JsonPointer> {
        fn look(value: &Value, left: usize, at: &JsonPointer, found: &mut Vec<JsonPointer>) {
            if !value.is_array() && !value.is_object() {
                return;
            }
            match left {
                0 => found.push(at.clone()),
                _ => members(value).for_each(|(key, inner)| look(inner, left - 1, &at.join(&key), found)),
            }
        }
        let mut found = Vec::new();
        look(&self.settings, levels, &JsonPointer::default(), &mut found);
        found
    }
}

/// Lists the members of an object or the items of a list, with their keys.
fn members(value: &Value) -> Box<dyn Iterator<Item = (String, &Value)> + '_> {
    match value {
        Value::Array(items) => Box::new(items.iter().enumerate().map(|(number, item)| (number.to_string(), item))),
        Value::Object(members) => Box::new(members.iter().map(|(key, item)| (key.clone(), item))),
        _ => Box::new(std::iter::empty()),
    }
}

/// Tells whether a JSON Pointer leads to a place or into it.
pub(crate) fn is_within(pointer: &str, place: &str) -> bool {
    pointer.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
