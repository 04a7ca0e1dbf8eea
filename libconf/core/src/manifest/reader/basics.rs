//! Reads maps, lists, texts and names, and collects faults.

use std::{collections::BTreeMap, str::FromStr};

use serde_json::{Map, Value};

use crate::{
    manifest::{
        model::Strictness,
        reader::place::{Place, unknown},
    },
    settings::{Fault, Key, Node, Shape, shown, twice},
};
use libconf::name::BadName;

/// The most faults in one answer; the rest are counted.
const MAX_FAULTS: usize = 50;

/// The known keys of one map.
pub(crate) struct Fields {
    pub(crate) line: usize,
    pub(crate) nodes: BTreeMap<String, Node>,
}

impl Fields {
    pub(crate) fn take(&mut self, key: &str) -> Option<Node> {
        self.nodes.remove(key)
    }
}

pub(crate) struct Reader {
    pub(crate) strict: bool,
    pub(crate) faults: Vec<Fault>,
}

impl Reader {
    pub(crate) fn new(strictness: Strictness) -> Self {
        Reader { strict: strictness == Strictness::Strict, faults: Vec::new() }
    }

    pub(crate) fn document(&mut self, text: &str, place: &Place) -> Result<Fields, Vec<Fault>> {
        let node = Node::parse(text).map_err(|fault| vec![fault])?;
        if node.shape == Shape::Null {
            return Err(vec![Fault::new(0, "the file is empty; write at least `services: []`")]);
        }
        self.fields(node, place).ok_or_else(|| std::mem::take(&mut self.faults))
    }

    pub(crate) fn finish<T>(self, manifest: T) -> Result<T, Vec<Fault>> {
        if self.faults.is_empty() { Ok(manifest) } else { Err(self.faults()) }
    }

    pub(crate) fn faults(mut self) -> Vec<Fault> {
        self.faults.sort();
        self.faults.dedup();
        let more = self.faults.len().saturating_sub(MAX_FAULTS);
        if more > 0 {
            self.faults.truncate(MAX_FAULTS);
            self.faults.push(Fault::new(0, format!("and {more} more faults")));
        }
        self.faults
    }

    pub(crate) fn fault<T>(&mut self, line: usize, reason: impl Into<String>) -> Option<T> {
        self.faults.push(Fault::new(line, reason));
        None
    }

    /// Adds a fault for a value of another type.
    pub(crate) fn wrong<T>(&mut self, node: &Node, label: &str, wanted: &str) -> Option<T> {
        self.fault(node.line, format!("{label} must be {wanted}, but it is {}", node.what()))
    }

    /// The entries of a map, with a fault for each key that stands twice; `None` when the value is
    /// no map.
    pub(crate) fn entries(&mut self, node: Node, label: &str) -> Option<Vec<(Key, Node)>> {
        let Shape::Map(entries) = node.shape else {
            let wanted = if node.shape == Shape::Null { "a map (an empty one is {})" } else { "a map" };
            return self.wrong(&node, label, wanted);
        };
        twice(&entries, &mut self.faults, |node| match node.shape {
            Shape::List(_) => "merge the two lists",
            Shape::Map(_) => "merge the two maps",
            _ => "keep one of the two",
        });
        Some(entries)
    }

    /// The known keys of a map. Other keys are faults, or ignored by a lenient reader; `None` when
    /// the value is no map.
    pub(crate) fn fields(&mut self, node: Node, place: &Place) -> Option<Fields> {
        let line = node.line;
        let mut nodes = BTreeMap::new();
        for (key, node) in self.entries(node, place.what)? {
            if place.known.iter().chain(place.earlier).any(|known| *known == key.text) {
                nodes.insert(key.text, node);
            } else if self.strict {
                self.faults.push(Fault::new(key.line, unknown(&key.text, place)));
            }
        }
        Some(Fields { line, nodes })
    }

    pub(crate) fn list(&mut self, node: Node, key: &str, example: &str) -> Vec<Node> {
        match node.shape {
            Shape::List(nodes) => return nodes,
            Shape::Null => self.wrong(&node, &quoted(key), "a list (an empty one is [])"),
            _ => self.wrong(&node, &quoted(key), &format!("a list, as in {example}")),
        }
        .unwrap_or_default()
    }

    pub(crate) fn text(&mut self, node: Node, key: &str) -> Option<(String, usize)> {
        match node.shape {
            Shape::Text(text) => Some((text, node.line)),
            Shape::Number(_) | Shape::Bool(_) => self.wrong(&node, &quoted(key), "text (put it in quotes)"),
            _ => self.wrong(&node, &quoted(key), "text"),
        }
    }

    pub(crate) fn name<T: FromStr<Err = BadName>>(&mut self, text: &str, line: usize, key: &str) -> Option<T> {
        match text.parse() {
            Ok(name) => Some(name),
            Err(bad) => self.fault(line, format!("`{}`: {bad}", shown(key))),
        }
    }

    /// A map of anything, kept as it is.
    pub(crate) fn object(&mut self, fields: &mut Fields, key: &str) -> Map<String, Value> {
        let Some(node) = fields.take(key) else { return Map::new() };
        let entries = self.entries(node, &quoted(key)).unwrap_or_default();
        entries.into_iter().map(|(key, node)| (key.text, node.into_json(&mut self.faults))).collect()
    }

    /// A map of names to values.
    pub(crate) fn named<K: FromStr<Err = BadName> + Ord, V>(
        &mut self,
        node: Option<Node>,
        key: &str,
        read: impl Fn(&mut Self, usize, Node) -> V,
    ) -> BTreeMap<K, V> {
        let entries = node.and_then(|node| self.entries(node, &quoted(key))).unwrap_or_default();
        let mut named = BTreeMap::new();
        for (key, node) in entries {
            let value = read(self, key.line, node);
            if let Some(name) = self.name(&key.text, key.line, &key.text) {
                named.insert(name, value);
            }
        }
        named
    }
}

pub(crate) fn quoted(key: &str) -> String {
    format!("`{}`", shown(key))
}
