//! The line of each value in a text, for messages that send people there.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use crate::settings::{
    format::Format,
    json_pointer::JsonPointer,
    yaml::{Node, Shape},
};

/// The line of a value, and the lines of the values in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    line: usize,
    /// Items of a list by their number.
    below: BTreeMap<String, Lines>,
}

impl Lines {
    /// The lines of a text that was read already; `None` when its notation does not tell them.
    pub fn of(format: Format, bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match format {
            Format::Yaml => Node::parse(text).ok().map(|node| Lines::of_node(&node)),
            // JSON is YAML except for tabs, which JSON allows between values alone.
            Format::Json => Node::parse(&text.replace('\t', " ")).ok().map(|node| Lines::of_node(&node)),
            Format::Toml => Lines::of_toml(text),
            Format::Hocon => None,
        }
    }

    /// The line of the value at `pointer`, counted from 1.
    pub fn at(&self, pointer: &JsonPointer) -> Option<usize> {
        let found = pointer.parts().iter().try_fold(self, |lines, part| lines.below.get(part))?;
        (found.line > 0).then_some(found.line)
    }

    pub(crate) fn of_node(node: &Node) -> Self {
        let below = match &node.shape {
            Shape::List(nodes) => {
                nodes.iter().enumerate().map(|(at, node)| (at.to_string(), Lines::of_node(node))).collect()
            }
            Shape::Map(entries) => Lines::of_entries(entries.iter().map(|(key, node)| (key.text.as_str(), node))),
            _ => BTreeMap::new(),
        };
        Lines { line: node.line, below }
    }

    fn of_entries<'a>(entries: impl Iterator<Item = (&'a str, &'a Node)>) -> BTreeMap<String, Lines> {
        entries.map(|(key, node)| (key.to_owned(), Lines::of_node(node))).collect()
    }

    fn of_toml(text: &str) -> Option<Self> {
        let table = DeTable::parse(text).ok()?;
        let ends: Vec<usize> = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        let line = |at: usize| 1 + ends.partition_point(|end| *end < at);
        Some(Lines { line: 1, below: toml_entries(table.get_ref(), &line) })
    }
}

fn toml_entries(table: &DeTable<'_>, line: &impl Fn(usize) -> usize) -> BTreeMap<String, Lines> {
    let entry = |(key, value): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
        let lines = Lines { line: line(key.span().start), below: toml_below(value.get_ref(), line) };
        (key.get_ref().clone().into_owned(), lines)
    };
    table.iter().map(entry).collect()
}

fn toml_below(value: &DeValue<'_>, line: &impl Fn(usize) -> usize) -> BTreeMap<String, Lines> {
    match value {
        DeValue::Table(table) => toml_entries(table, line),
        DeValue::Array(values) => values
            .iter()
            .enumerate()
            .map(|(at, value)| {
                let lines = Lines { line: line(value.span().start), below: toml_below(value.get_ref(), line) };
                (at.to_string(), lines)
            })
            .collect(),
        _ => BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notation_tells_its_lines() {
        for (format, text) in [
            (Format::Yaml, "a:\n  b: 1\n  c:\n    - x\n    - y: 2\nd: 3\n"),
            (Format::Json, "{\"a\":\n\t{\"b\": 1,\n\t\"c\": [\n\t\"x\",\n\t{\"y\": 2}]},\n\"d\": 3}"),
            (Format::Toml, "# first\n[a]\nb = 1\nc = [\n \"x\",\n {y = 2}]\n[d]\n"),
        ] {
            let lines = Lines::of(format, text.as_bytes()).unwrap();
            let at = |pointer: &str| lines.at(&pointer.parse().unwrap());
            let shift = usize::from(format == Format::Toml);
            assert_eq!(at("/a/b"), Some(2 + shift), "{text}");
            assert_eq!(at("a.c.0"), Some(4 + shift), "{text}");
            assert_eq!(at("/a/c/1/y"), Some(5 + shift), "{text}");
            assert_eq!(at("/d"), Some(6 + shift), "{text}");
            assert_eq!(at("/a/x"), None, "{text}");
        }
    }
}
