//! Replaces the substitutions of a tree, and merges what is defined several times.
//!
//! A field is looked up when it is needed, by its path, and never earlier, so that an object may
//! refer to its own fields. While a definition is being worked out, it and all later definitions of
//! its field are not there for those who look the field up: `a = ${a} [3]` sees the earlier `a`.
//!
//! Bounds: [`DEEPEST`] calls into one another, and [`MOST`] for all values that are made, so that
//! substitutions which double a value at each step end.

use std::{borrow::Cow, collections::HashMap};

use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::settings::fault::{Fault, MAX_BYTES, MAX_DEPTH, shown, too_deep};
use crate::settings::hocon::{
    beside::MIXED,
    tree::{Node, Object, Scalar, Shape, Substitution},
};

/// Calls into one another: levels of objects and lists, and substitutions that lead to
/// substitutions. A call takes some 1 KiB of stack, and threads have 2 MiB.
const DEEPEST: usize = 3 * MAX_DEPTH;
/// Bytes of text, and [`COST`] for each value: substitutions make more of less, but not any amount.
const MOST: usize = 12 * MAX_BYTES;
/// What a value costs beside its text; in memory it takes some 70 bytes.
const COST: usize = 16;

/// The settings that a tree describes.
pub(crate) fn resolve(root: &Object<'_>) -> Result<Value, Fault> {
    let mut resolver =
        Resolver { root, known: HashMap::new(), busy: Vec::new(), asked: Vec::new(), depth: 0, left: MOST };
    let keys = root.0.keys().cloned().collect::<Vec<_>>();
    match resolver.fields(root, &mut Vec::new(), 0, keys) {
        Ok(settings) => to_json(settings, 0),
        Err(Stop::Fault(fault)) => Err(fault),
        Err(Stop::Cycle) => Err(Fault::new(0, "its values need themselves; write them out")),
    }
}

/// A value without substitutions. Numbers are text still, since they may become part of a text.
#[derive(Clone, Debug)]
enum Resolved<'a> {
    Scalar(Scalar<'a>),
    Array(Vec<Resolved<'a>>),
    Object(IndexMap<Cow<'a, str>, Resolved<'a>>),
}

struct Resolver<'a> {
    root: &'a Object<'a>,
    /// The values of substitutions, by their numbers; `None` for one that is undefined.
    known: HashMap<usize, Option<Resolved<'a>>>,
    /// The definitions that are being worked out.
    busy: Vec<usize>,
    /// The substitutions that are being worked out.
    asked: Vec<usize>,
    depth: usize,
    left: usize,
}

/// A definition of the field that is looked up; or one of a field above it, whose value has yet to
/// be looked into for the last `below` keys.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    node: &'a Node<'a>,
    below: usize,
}

impl<'a> Resolver<'a> {
    /// An object of the fields below `path` that have a value.
    fn fields(
        &mut self,
        top: &'a Object<'a>,
        path: &mut Vec<Cow<'a, str>>,
        asked: usize,
        keys: impl IntoIterator<Item = Cow<'a, str>>,
    ) -> Result<Resolved<'a>, Stop> {
        self.deeper(0)?;
        let mut object = IndexMap::new();
        for key in keys {
            if object.contains_key(&key) {
                continue;
            }
            self.charge(key.len())?;
            path.push(key);
            let value = self.field(top, path, asked)?;
            if let (Some(key), Some(value)) = (path.pop(), value) {
                object.insert(key, value);
            }
        }
        self.depth -= 1;
        Ok(Resolved::Object(object))
    }

    /// Counts a call into another. The caller counts back when it returns a value.
    fn deeper(&mut self, line: usize) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > DEEPEST {
            let reason = "keys or substitutions lead into one another too many times; write it flatter";
            return Err(Fault::new(line, reason));
        }
        Ok(())
    }

    /// The value of a field; `None` where it is undefined. The first `asked` keys of its path are
    /// those that somebody asked for; the others were found on the way to the whole value.
    fn field(
        &mut self,
        top: &'a Object<'a>,
        path: &mut Vec<Cow<'a, str>>,
        asked: usize,
    ) -> Result<Option<Resolved<'a>>, Stop> {
        let candidates = self.candidates(top, path, asked)?;
        // The keys of the objects that are merged, those of the newest object first.
        let mut merged: Vec<Vec<Cow<'a, str>>> = Vec::new();
        for Candidate { node, below } in candidates {
            if let (Shape::Object(object), 0) = (&node.shape, below) {
                merged.push(object.0.keys().cloned().collect());
                continue;
            }
            let Some(value) = self.node(top, node)? else { continue };
            match look_below(value, &path[path.len() - below..]) {
                Below::Value(Resolved::Object(object)) => merged.push(object.into_keys().collect()),
                Below::Value(value) if merged.is_empty() => return Ok(Some(value)),
                Below::Value(_) | Below::Hidden => break,
                Below::Absent => {}
            }
        }
        if merged.is_empty() {
            return Ok(None);
        }
        self.fields(top, path, asked, merged.into_iter().rev().flatten()).map(Some)
    }

    /// The value of a node by itself; fields that it defines begin at `top` or, within a list, at
    /// the node.
    fn node(&mut self, top: &'a Object<'a>, node: &'a Node<'a>) -> Result<Option<Resolved<'a>>, Stop> {
        self.deeper(node.line)?;
        self.charge(COST)?;
        let value = match &node.shape {
            Shape::Scalar(scalar) => {
                self.charge(scalar.as_text().len())?;
                Some(Resolved::Scalar(scalar.clone()))
            }
            Shape::Array(elements) => {
                let values = elements.iter().filter_map(|element| self.node(top, element).transpose());
                Some(Resolved::Array(values.collect::<Result<_, _>>()?))
            }
            Shape::Object(object) => {
                let keys = object.0.keys().cloned().collect::<Vec<_>>();
                Some(self.fields(object, &mut Vec::new(), 0, keys)?)
            }
            Shape::Substitution(substitution) => {
                self.busy.push(node.definition);
                let value = self.substitution(top, substitution, node.line)?;
                self.busy.pop();
                value
            }
            Shape::Concatenation(parts) => {
                self.busy.push(node.definition);
                let values = parts.iter().map(|part| self.node(top, part)).collect::<Result<Vec<_>, _>>()?;
                self.busy.pop();
                concatenate(values, node.line)?
            }
        };
        self.depth -= 1;
        Ok(value)
    }

    fn substitution(
        &mut self,
        top: &'a Object<'a>,
        substitution: &'a Substitution<'a>,
        line: usize,
    ) -> Result<Option<Resolved<'a>>, Stop> {
        let Substitution { number, path, is_optional, must_be_object, is_own } = substitution;
        if self.asked.contains(number) {
            return Err(Stop::Cycle);
        }
        let value = if let Some(known) = self.known.get(number) {
            known.clone()
        } else {
            self.asked.push(*number);
            let (busy, depth) = (self.busy.len(), self.depth);
            let found = self.field(if *is_own { top } else { self.root }, &mut path.clone(), path.len());
            self.asked.pop();
            let value = match found {
                Err(Stop::Cycle) if *is_optional => {
                    self.busy.truncate(busy);
                    self.depth = depth;
                    None
                }
                Err(Stop::Cycle) => return Err(Fault::new(line, needs_itself(path)).into()),
                found => found?,
            };
            self.known.insert(*number, value.clone());
            value
        };
        match &value {
            None if !is_optional => return Err(Fault::new(line, undefined(path)).into()),
            Some(value) if *must_be_object && !matches!(value, Resolved::Object(_)) => {
                return Err(Fault::new(line, MIXED).into());
            }
            Some(value) => self.charge(size(value))?,
            None => {}
        }
        Ok(value)
    }

    /// All definitions of a field that count, the newest first, without looking into any value. A
    /// definition that is being worked out does not count, nor does a newer one; neither does an
    /// older one of a field above, where a newer one is no object.
    fn candidates(
        &mut self,
        top: &'a Object<'a>,
        path: &[Cow<'a, str>],
        asked: usize,
    ) -> Result<Vec<Candidate<'a>>, Stop> {
        let stack = |object: &'a Object<'a>, key: &Cow<'a, str>| {
            object.0.get(key).into_iter().flatten().rev().map(|node| Candidate { node, below: 0 })
        };
        let mut level = Vec::new();
        for (depth, key) in path.iter().enumerate() {
            let mut next = Vec::new();
            if depth == 0 {
                next.extend(stack(top, key));
            }
            for Candidate { node, below } in level {
                match &node.shape {
                    Shape::Object(object) => next.extend(stack(object, key)),
                    Shape::Substitution(_) | Shape::Concatenation(_) => next.push(Candidate { node, below: below + 1 }),
                    Shape::Scalar(_) | Shape::Array(_) => {
                        next.push(Candidate { node, below: below + 1 });
                        break;
                    }
                }
            }
            self.charge(next.len())?;
            if let Some(busy) = next.iter().rposition(|candidate| self.busy.contains(&candidate.node.definition)) {
                if depth >= asked {
                    return Err(Stop::Cycle);
                }
                next.drain(..=busy);
            }
            level = next;
        }
        Ok(level)
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            Fault::new(0, "it takes too much memory or time to read, or grows too large; write it flatter, and with fewer substitutions")
        })?;
        Ok(())
    }
}

/// Why there is no value.
enum Stop {
    Fault(Fault),
    /// The value that is worked out is a part of itself. The substitution that led there is
    /// undefined.
    Cycle,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}

fn undefined(path: &[Cow<'_, str>]) -> String {
    format!(
        "${{{}}} stands for nothing: no key of this file has that name, and the environment is not read; write the value, or \
         ${{?…}} where it may be missing",
        shown(&path.join("."))
    )
}

fn needs_itself(path: &[Cow<'_, str>]) -> String {
    format!("the substitution ${{{}}} needs itself; write the value", shown(&path.join(".")))
}

/// What a definition of a field above says of the field.
enum Below<'a> {
    Value(Resolved<'a>),
    /// Nothing; older definitions count.
    Absent,
    /// It is no object, and so hides older definitions.
    Hidden,
}

fn look_below<'a>(value: Resolved<'a>, keys: &[Cow<'a, str>]) -> Below<'a> {
    let Some((key, rest)) = keys.split_first() else { return Below::Value(value) };
    match value {
        Resolved::Object(mut object) => match object.swap_remove(key) {
            Some(value) => look_below(value, rest),
            None => Below::Absent,
        },
        _ => Below::Hidden,
    }
}

/// Joins values that stand beside each other: text, lists or objects. What is undefined adds
/// nothing.
fn concatenate<'a>(values: Vec<Option<Resolved<'a>>>, line: usize) -> Result<Option<Resolved<'a>>, Fault> {
    let is_blank = |value: &Resolved<'a>| matches!(value, Resolved::Scalar(Scalar::Blanks(_)));
    let values: Vec<Resolved<'a>> = values.into_iter().flatten().collect();
    if values.iter().all(is_blank) {
        return Ok(None);
    }
    if values.iter().all(|value| matches!(value, Resolved::Scalar(_))) {
        let text = values.iter().map(|value| match value {
            Resolved::Scalar(scalar) => scalar.as_text(),
            _ => "",
        });
        return Ok(Some(Resolved::Scalar(Scalar::Text(text.collect::<String>().into()))));
    }
    let mut values = values.into_iter().filter(|value| !is_blank(value));
    let first = values.next();
    values.try_fold(first, |joined, value| match (joined, value) {
        (Some(Resolved::Array(mut elements)), Resolved::Array(more)) => {
            elements.extend(more);
            Ok(Some(Resolved::Array(elements)))
        }
        (Some(Resolved::Object(below)), Resolved::Object(above)) => Ok(Some(Resolved::Object(merge(below, above)))),
        _ => Err(Fault::new(line, MIXED)),
    })
}

fn merge<'a>(
    mut below: IndexMap<Cow<'a, str>, Resolved<'a>>,
    above: IndexMap<Cow<'a, str>, Resolved<'a>>,
) -> IndexMap<Cow<'a, str>, Resolved<'a>> {
    for (key, value) in above {
        let merged = match (below.get_mut(&key), value) {
            (Some(Resolved::Object(inner)), Resolved::Object(above)) => {
                Resolved::Object(merge(std::mem::take(inner), above))
            }
            (_, value) => value,
        };
        below.insert(key, merged);
    }
    below
}

/// What a copy of a value costs.
fn size(value: &Resolved<'_>) -> usize {
    match value {
        Resolved::Scalar(scalar) => COST + scalar.as_text().len(),
        Resolved::Array(values) => COST + values.iter().map(size).sum::<usize>(),
        Resolved::Object(object) => COST + object.iter().map(|(key, value)| key.len() + size(value)).sum::<usize>(),
    }
}

fn to_json(value: Resolved<'_>, levels: usize) -> Result<Value, Fault> {
    if levels > MAX_DEPTH {
        return Err(Fault::new(0, too_deep()));
    }
    Ok(match value {
        Resolved::Scalar(Scalar::Null) => Value::Null,
        Resolved::Scalar(Scalar::Bool(value)) => Value::Bool(value),
        Resolved::Scalar(Scalar::Number(text)) => Value::Number(
            serde_json::from_str(text).map_err(|_| Fault::new(0, "a number cannot be held; write it in quotes"))?,
        ),
        Resolved::Scalar(Scalar::Text(text)) => Value::String(text.into_owned()),
        Resolved::Scalar(Scalar::Blanks(text)) => Value::String(text.to_owned()),
        Resolved::Array(values) => {
            Value::Array(values.into_iter().map(|value| to_json(value, levels + 1)).collect::<Result<_, _>>()?)
        }
        Resolved::Object(object) => {
            let fields = object.into_iter().map(|(key, value)| Ok((key.into_owned(), to_json(value, levels + 1)?)));
            Value::Object(fields.collect::<Result<Map<_, _>, Fault>>()?)
        }
    })
}
