//! Maps and lists that hold stand-ins of secrets, and that remember which secrets a template read.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use minijinja::{
    Error, ErrorKind, Value,
    value::{DynObject, Enumerator, Object, ObjectRepr, Serde},
};
use parking_lot::Mutex;
use serde_json::Value as Json;

use crate::{
    settings::asked_secret,
    template::stand_in::{Shape, StandIns},
};

/// The first words of the reason why a template gets no secret; they hold no value.
pub(crate) const NOT_OPENED: &str = "the secret ";

/// What a template did with secrets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Read(Arc<Mutex<Reads>>);

#[derive(Debug, Default)]
struct Reads {
    /// The names of the secrets that were read.
    names: BTreeSet<String>,
    /// What was done to a secret that may not be done; the first such thing.
    misuse: Option<&'static str>,
}

impl Read {
    /// Returns the names of the secrets that were read.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.0.lock().names.clone()
    }

    /// Returns what was done to a secret that may not be done.
    pub(crate) fn misuse(&self) -> Option<&'static str> {
        self.0.lock().misuse
    }

    fn misused(&self, how: &'static str) {
        self.0.lock().misuse.get_or_insert(how);
    }
}

/// A stand-in as a value. It can be shown, and nothing can be found out about it.
pub(crate) struct Opaque {
    text: String,
    read: Read,
}

impl Opaque {
    /// Its text, if a value is one.
    pub(crate) fn text(value: &Value) -> Option<&str> {
        value.downcast_object_ref::<Opaque>().map(|opaque| opaque.text.as_str())
    }
}

/// A map or a list with a secret somewhere in it.
pub(crate) struct Watched {
    /// A list has the keys 0, 1, …
    members: Members,
    read: Read,
}

enum Members {
    Map(BTreeMap<String, Member>),
    List(Vec<Member>),
}

enum Member {
    Plain(Value),
    Secret(String, Value),
}

/// All secrets, by name.
pub(crate) fn secrets(shapes: &BTreeMap<String, Shape>, read: &Read) -> Value {
    let member =
        |(name, shape): (&String, &Shape)| (name.clone(), Member::Secret(name.clone(), value(name, shape, read)));
    Value::from_object(Watched { members: Members::Map(shapes.iter().map(member).collect()), read: read.clone() })
}

/// Settings with the stand-ins of the secrets that they ask for.
pub(crate) fn settings(settings: &Json, shapes: &BTreeMap<String, Shape>, read: &Read) -> Value {
    match member(settings, shapes, read) {
        Member::Plain(value) | Member::Secret(_, value) => value,
    }
}

fn member(json: &Json, shapes: &BTreeMap<String, Shape>, read: &Read) -> Member {
    if let Some(name) = asked_secret(json) {
        let absent = Shape::Absent("this component may not read it".to_owned());
        return Member::Secret(name.to_owned(), value(name, shapes.get(name).unwrap_or(&absent), read));
    }
    let members = match json {
        json if !holds_secret(json) => return Member::Plain(Value::from(Serde(json))),
        Json::Object(map) => {
            Members::Map(map.iter().map(|(key, inner)| (key.clone(), member(inner, shapes, read))).collect())
        }
        Json::Array(list) => Members::List(list.iter().map(|inner| member(inner, shapes, read)).collect()),
        other => return Member::Plain(Value::from(Serde(other))),
    };
    Member::Plain(Value::from_object(Watched { members, read: read.clone() }))
}

fn holds_secret(json: &Json) -> bool {
    asked_secret(json).is_some()
        || match json {
            Json::Object(map) => map.values().any(holds_secret),
            Json::Array(list) => list.iter().any(holds_secret),
            _ => false,
        }
}

fn value(name: &str, shape: &Shape, read: &Read) -> Value {
    let opaque = |text: String| Value::from_object(Opaque { text, read: read.clone() });
    match StandIns::of(name, shape) {
        StandIns::Text(text) => opaque(text),
        StandIns::Certificate { certificate, key } => {
            Value::from_pairs([("certificate", opaque(certificate)), ("key", opaque(key))])
        }
        StandIns::Absent(why) => {
            Value::from(Error::new(ErrorKind::InvalidOperation, format!("{NOT_OPENED}{name}: {why}")))
        }
    }
}

impl Object for Opaque {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.read.misused("asks whether a secret is true");
        true
    }

    fn custom_cmp(self: &Arc<Self>, _: &DynObject) -> Option<Ordering> {
        self.read.misused("compares a secret");
        None
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Object for Watched {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        match self.members {
            Members::Map(_) => ObjectRepr::Map,
            Members::List(_) => ObjectRepr::Seq,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let member = match &self.members {
            Members::Map(map) => map.get(key.as_str()?),
            Members::List(list) => list.get(key.as_usize()?),
        };
        match member? {
            Member::Plain(value) => Some(value.clone()),
            Member::Secret(name, value) => {
                self.read.0.lock().names.insert(name.clone());
                Some(value.clone())
            }
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match &self.members {
            Members::Map(map) => Enumerator::Values(map.keys().map(|key| Value::from(key.as_str())).collect()),
            Members::List(list) => Enumerator::Seq(list.len()),
        }
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}
