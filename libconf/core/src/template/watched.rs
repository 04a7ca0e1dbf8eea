//! Maps and lists that hold secrets, and that remember which secrets a template read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use minijinja::{
    Error, ErrorKind, Value,
    value::{Enumerator, Object, ObjectRepr, Serde},
};
use parking_lot::Mutex;
use serde_json::Value as Json;

use crate::{secret::SecretValue, settings::asked_secret, template::job::Given};

/// The first words of the reason why a template gets no secret; they hold no value.
pub(crate) const NOT_OPENED: &str = "the secret ";

/// The names of the secrets that were read.
pub(crate) type Read = Arc<Mutex<BTreeSet<String>>>;

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
pub(crate) fn secrets(given: &BTreeMap<String, Given>, read: &Read) -> Value {
    let member = |(name, given): (&String, &Given)| (name.clone(), Member::Secret(name.clone(), value(name, given)));
    Value::from_object(Watched { members: Members::Map(given.iter().map(member).collect()), read: read.clone() })
}

/// Settings with the values of the secrets that they ask for.
pub(crate) fn settings(settings: &Json, given: &BTreeMap<String, Given>, read: &Read) -> Value {
    match member(settings, given, read) {
        Member::Plain(value) | Member::Secret(_, value) => value,
    }
}

fn member(json: &Json, given: &BTreeMap<String, Given>, read: &Read) -> Member {
    if let Some(name) = asked_secret(json) {
        let absent = Err("this component may not read it".to_owned());
        return Member::Secret(name.to_owned(), value(name, given.get(name).unwrap_or(&absent)));
    }
    let members = match json {
        json if !holds_secret(json) => return Member::Plain(Value::from(Serde(json))),
        Json::Object(map) => {
            Members::Map(map.iter().map(|(key, inner)| (key.clone(), member(inner, given, read))).collect())
        }
        Json::Array(list) => Members::List(list.iter().map(|inner| member(inner, given, read)).collect()),
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

fn value(name: &str, given: &Given) -> Value {
    match given {
        Ok(SecretValue::Text(text)) => Value::from(text.as_str()),
        Ok(SecretValue::Certificate { certificate, key }) => {
            Value::from_pairs([("certificate", certificate.as_str()), ("key", key.as_str())])
        }
        Err(why) => Value::from(Error::new(ErrorKind::InvalidOperation, format!("{NOT_OPENED}{name}: {why}"))),
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
                self.read.lock().insert(name.clone());
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
