//! YAML as this project reads it: one set of options, and values that know their lines.

use std::{fmt, thread};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Number, Value};
use serde_saphyr::{
    DuplicateKeyPolicy, Error, MessageFormatter as _, Options, Spanned, UserMessageFormatter, budget::BudgetBreach,
};

use crate::settings::{
    fault::{Fault, MAX_BYTES, MAX_DEPTH, shown, too_deep, without_value},
    objections::in_yaml,
};

/// Reads a program's own YAML file into a type, with the options of every YAML in this project.
///
/// Bounds: 4 MiB of text, 64 levels, and the expansion of aliases. A key that stands twice is a
/// fault, and so is a value that would be taken for something else than it says.
pub fn from_yaml<T: DeserializeOwned + Send>(text: &str) -> Result<T, Fault> {
    let read = read(text, DuplicateKeyPolicy::Error)?;
    in_yaml(text).into_iter().next().map_or(Ok(read), Err)
}

/// Writes a value as YAML, its keys in their order; `None` when the library cannot. A careful
/// caller reads it back.
pub fn to_yaml(value: &impl serde::Serialize) -> Option<String> {
    serde_saphyr::to_string(value).ok()
}

/// A value that knows its line. Keys stay in the order of the text, and may stand twice: the caller
/// decides about that.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) shape: Shape,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl Node {
    /// Reads one document.
    pub(crate) fn parse(text: &str) -> Result<Node, Fault> {
        read(text, DuplicateKeyPolicy::PassThrough)
    }

    /// The type of the value, in words.
    pub(crate) fn what(&self) -> &'static str {
        match self.shape {
            Shape::Null => "empty",
            Shape::Bool(_) => "true or false",
            Shape::Number(_) => "a number",
            Shape::Text(_) => "text",
            Shape::List(_) => "a list",
            Shape::Map(_) => "a map",
        }
    }

    /// The value without its lines; every key that stands twice in one map becomes a fault.
    pub(crate) fn into_json(self, faults: &mut Vec<Fault>) -> Value {
        match self.shape {
            Shape::Null => Value::Null,
            Shape::Bool(value) => Value::Bool(value),
            Shape::Number(value) => Value::Number(value),
            Shape::Text(value) => Value::String(value),
            Shape::List(nodes) => Value::Array(nodes.into_iter().map(|node| node.into_json(faults)).collect()),
            Shape::Map(entries) => {
                twice(&entries, faults, |_| "keep one of the two");
                let entries = entries.into_iter().map(|(key, node)| (key.text, node.into_json(faults)));
                Value::Object(entries.collect())
            }
        }
    }
}

/// Adds a fault for every key that stands twice; `remedy` says what to do about it.
pub(crate) fn twice(entries: &[(Key, Node)], faults: &mut Vec<Fault>, remedy: impl Fn(&Node) -> &'static str) {
    let mut seen = std::collections::HashMap::new();
    for (key, node) in entries {
        if let Some(first) = seen.insert(key.text.as_str(), key.line) {
            let reason = format!("`{}` already stands in line {first}; {}", shown(&key.text), remedy(node));
            faults.push(Fault::new(key.line, reason));
        }
    }
}

/// Calls the YAML library; nothing else does.
fn read<T: DeserializeOwned + Send>(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<T, Fault> {
    if text.len() > MAX_BYTES {
        return Err(Fault::new(0, format!("it has {} bytes; at most {MAX_BYTES} are read", text.len())));
    }
    // YAML readers disagree about a tab at the start of a line, so such a line is refused.
    if let Some(line) = text.lines().position(|line| line.starts_with('\t') && !line.trim().is_empty()) {
        return Err(Fault::new(line + 1, TAB));
    }
    let parse = |levels| serde_saphyr::from_str_with_options(text, options(duplicate_keys, levels));
    // Whatever is wrong, deep files may have it too.
    if let Ok(parsed) = parse(SHALLOW) {
        return Ok(parsed);
    }
    // The library recurses with about 30 KiB a level (measured, without optimisation), and the 2
    // MiB of a usual thread do not hold 64 levels. Of these 16 MiB only touched pages cost memory.
    let parsed = thread::scope(|scope| {
        let thread =
            thread::Builder::new().name("yaml".into()).stack_size(16 << 20).spawn_scoped(scope, || parse(MAX_DEPTH));
        thread.map(|thread| thread.join().expect("a panic ends the process, or this test"))
    });
    match parsed {
        Ok(parsed) => parsed.map_err(|error| fault(&error, text)),
        Err(cause) => Err(Fault::new(0, format!("no thread to read it with: {cause}"))),
    }
}

/// Files with so many levels are read where they are asked for: most have fewer, and a thread for
/// each costs more than the reading. At 30 KiB a level it is a quarter of a MiB of any stack.
const SHALLOW: usize = 8;

const TAB: &str = "a tab stands where YAML wants spaces; indent with spaces";

/// Text stays as it is written (`no`, `0755`, `1_000`). No text costs more than its size suggests:
/// the bounds on aliases count their expansion.
fn options(duplicate_keys: DuplicateKeyPolicy, levels: usize) -> Options {
    serde_saphyr::options! {
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        duplicate_keys: duplicate_keys,
        with_snippet: false,
        // 30,000 pins are 240,000 nodes.
        budget: serde_saphyr::budget! {
            max_depth: levels,
            max_documents: 1,
            max_nodes: 1_000_000,
            max_events: 2_000_000,
            max_aliases: 10_000,
            max_total_scalar_bytes: 2 * MAX_BYTES,
            max_recorded_anchor_bytes: 2 * MAX_BYTES,
            // A hundred hosts may share one anchor.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 200_000 },
    }
}

/// The library's error in this project's words.
fn fault(error: &Error, text: &str) -> Fault {
    let error = match error.without_snippet() {
        Error::AliasError { error, .. } => error,
        error => error,
    };
    let line = error.location().map_or(0, |location| usize::try_from(location.line()).unwrap_or(0));
    let reason = match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("`{}` stands twice; keep one", shown(key)),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => too_deep(),
        Error::Budget { breach: BudgetBreach::Documents { .. }, .. } | Error::MultipleDocuments { .. } => {
            "a second document begins here (`---`); write one document a file".to_owned()
        }
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. } => {
            "it grows too large when it is read; write less in one file, and fewer aliases".to_owned()
        }
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "an alias refers to what it stands in; write the values out".to_owned()
        }
        Error::NonFiniteFloat { .. } => {
            "the number is not finite, and JSON has no other; write it in quotes".to_owned()
        }
        Error::SerdeUnknownVariant { expected, .. } => {
            format!("this word is not known, expected one of {}", expected.join(", "))
        }
        Error::UnsupportedTag { .. }
        | Error::TaggedStructFieldName { .. }
        | Error::TaggedEnumMismatch { .. }
        | Error::TaggedScalarCannotDeserializeIntoString { .. } => {
            "the tag before this value is not known; take it out, or write all of it in quotes".to_owned()
        }
        error => {
            let words = without_value(&UserMessageFormatter.format_message(error));
            words.chars().take(500).flat_map(printable).collect()
        }
    };
    // After a plain value the library reports a tab one line too early.
    if let Some(line) = [line, line + 1].into_iter().find(|line| indented_by_tab(text, *line)) {
        return Fault::new(line, TAB);
    }
    match reason.as_str() {
        "recursion limit exceeded" => Fault::new(line, too_deep()),
        "invalid u64" | "invalid i64" => {
            Fault::new(line, "`!!int` stands before what is no whole number of 64 bits; write the value without it")
        }
        _ => Fault::new(line, reason),
    }
}

fn indented_by_tab(text: &str, line: usize) -> bool {
    let indent = |line: &str| line.chars().take_while(|char| char.is_whitespace()).any(|char| char == '\t');
    line > 0 && text.lines().nth(line - 1).is_some_and(indent)
}

/// Control characters of a file would act on the terminal that shows the message.
fn printable(char: char) -> impl Iterator<Item = char> {
    let (escaped, plain) = if char.is_control() { (Some(char.escape_default()), None) } else { (None, Some(char)) };
    escaped.into_iter().flatten().chain(plain)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Shape>::deserialize(deserializer)?;
        Ok(Node { line: usize::try_from(referenced.line()).unwrap_or(0), shape: value })
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<String>::deserialize(deserializer)?;
        Ok(Key { line: usize::try_from(referenced.line()).unwrap_or(0), text: value })
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        Shape::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Number(value.into()))
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Shape, E> {
        Err(E::custom("a whole number needs at most 64 bits; write it as text, in quotes"))
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Shape, E> {
        Err(E::custom("a whole number needs at most 64 bits; write it as text, in quotes"))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Shape, E> {
        Number::from_f64(value)
            .map(Shape::Number)
            .ok_or_else(|| E::custom("JSON has no such number; write it as text, in quotes"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Shape, E> {
        Ok(Shape::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element()? {
            nodes.push(node);
        }
        Ok(Shape::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Key>()? {
            // The key's line stands for its value: asking the library for the value's costs more
            // than reading the value.
            let node = Node { line: key.line, shape: map.next_value()? };
            entries.push((key, node));
        }
        Ok(Shape::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::format_collect, clippy::format_push_string, reason = "the texts are small")]

    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> String {
        match Node::parse(text) {
            Ok(node) => {
                let mut faults = Vec::new();
                let mut value = node.into_json(&mut faults);
                // Sorted, so that the order of keys does not matter here.
                value.sort_all_objects();
                faults.iter().map(Fault::to_string).fold(value.to_string(), |all, fault| all + "; " + &fault)
            }
            Err(fault) => fault.to_string(),
        }
    }

    #[test]
    fn values_keep_their_written_form() {
        for (text, want) in [
            ("a: no\nb: 0755\nc: 1_000\nd: yes\n", r#"{"a":"no","b":"0755","c":"1_000","d":"yes"}"#),
            ("a: true\nb: 1.0\nc: 0x1F\nd: ~\ne:\n", r#"{"a":true,"b":1.0,"c":31,"d":null,"e":null}"#),
            ("1: x\nd: 2024-01-02\n", r#"{"1":"x","d":"2024-01-02"}"#),
            ("%YAML 1.1\n---\na: on\n", r#"{"a":"on"}"#),
            ("a: &x {p: 1}\nb: {<<: *x, q: 2}\nc: *x\n", r#"{"a":{"p":1},"b":{"p":1,"q":2},"c":{"p":1}}"#),
            ("\u{feff}a: |\n  x\n  \ty\n", r#"{"a":"x\n\ty\n"}"#),
        ] {
            assert_eq!(read(text), want, "{text}");
        }
    }

    #[test]
    fn faults_name_the_line() {
        for (text, want) in [
            ("a: 1\nb: 2\na: 3\n", r#"{"a":3,"b":2}; line 3: `a` already stands in line 1; keep one of the two"#),
            ("\ta: 1\n", "line 1: a tab stands where YAML wants spaces; indent with spaces"),
            ("a:\n\tb: 1\n", "line 2: a tab stands where YAML wants spaces; indent with spaces"),
            ("a:\n  - x\n \t- y\n", "line 3: a tab stands where YAML wants spaces; indent with spaces"),
            ("a: 1\n---\nb: 2\n", "line 2: a second document begins here (`---`); write one document a file"),
            ("a:\n- &a [*a]\n", "line 2: an alias refers to what it stands in; write the values out"),
            ("a: 1\nb: .inf\n", "line 2: the number is not finite, and JSON has no other; write it in quotes"),
            ("a: [1, 2\n", "line 1: unclosed bracket '['"),
            ("a: b: c\n", "line 1: mapping values are not allowed in this context"),
        ] {
            assert_eq!(read(text), want, "{text}");
        }
        assert_eq!(from_yaml::<Value>("a: 1\na: 2\n").unwrap_err().to_string(), "line 2: `a` stands twice; keep one");
    }

    #[test]
    fn every_depth_up_to_the_limit_is_read_on_a_small_stack() {
        let block = |depth: usize| {
            let keys: String = (0..depth).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
            format!("{keys}{}1\n", " ".repeat(depth))
        };
        let flow = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        for depth in [1, MAX_DEPTH - 1, MAX_DEPTH] {
            Node::parse(&block(depth)).unwrap();
            Node::parse(&flow(depth)).unwrap();
        }
        for depth in [MAX_DEPTH + 1, 300, 1_000] {
            for text in [block(depth), flow(depth)] {
                let fault = Node::parse(&text).unwrap_err();
                assert_eq!(fault.reason, too_deep());
                assert_eq!(fault, from_yaml::<Value>(&text).unwrap_err());
            }
        }
        assert_eq!(Node::parse(&"[".repeat(10_000)).unwrap_err().reason, too_deep());
    }

    #[test]
    fn only_deep_texts_are_read_in_a_thread_of_their_own() {
        /// Where a value was read.
        struct Reader(std::thread::ThreadId);
        impl<'de> Deserialize<'de> for Reader {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Node::deserialize(deserializer).map(|_| Reader(std::thread::current().id()))
            }
        }
        let reader = |depth: usize| from_yaml::<Reader>(&("[".repeat(depth) + &"]".repeat(depth))).unwrap().0;
        let here = std::thread::current().id();
        assert_eq!(reader(SHALLOW), here);
        assert_ne!(reader(SHALLOW + 1), here);
    }

    #[test]
    fn texts_that_grow_are_refused() {
        let grows = "it grows too large when it is read; write less in one file, and fewer aliases";
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(","));
        }
        assert_eq!(Node::parse(&bomb).unwrap_err().reason, grows);
        let scalar = format!("a: &a {}\nb: [{}]\n", "x".repeat(200_000), vec!["*a"; 9_000].join(","));
        assert_eq!(Node::parse(&scalar).unwrap_err().reason, grows);
        let merges = format!(
            "a: &a {{{}}}\nb:\n{}",
            (0..1_000).map(|k| format!("k{k}: 1,")).collect::<String>(),
            "- {<<: *a}\n".repeat(1_000)
        );
        assert_eq!(Node::parse(&merges).unwrap_err().reason, grows);
        assert!(Node::parse(&" ".repeat(MAX_BYTES + 1)).unwrap_err().reason.contains("at most"));
    }

    #[test]
    fn a_large_datacenter_is_read() {
        let pins = (0..30_000).map(|n| format!("  - {{name: service{n}, branch: master, tag: latest}}\n"));
        let text = format!("services:\n{}", pins.collect::<String>());
        let hosts = (0..1_000).map(|n| format!("  h{n}: *host\n")).collect::<String>();
        Node::parse(&text).unwrap();
        Node::parse(&format!("x: &host {{roles: [web]}}\nhosts:\n{hosts}")).unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(text in "(?s)[\\x00-\\x7f\u{85}\u{2028}ä]{0,200}") {
            let _ = Node::parse(&text);
        }

        #[test]
        fn any_soup_of_yaml_is_read_or_refused(parts in prop::collection::vec("([&*]a|[\\[\\]{},:?|>%@`'\"!#-]|<<: |\\n| |\\t|a|1){1,3}", 0..60)) {
            let _ = Node::parse(&parts.concat());
        }
    }
}
