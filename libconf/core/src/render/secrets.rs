//! The secrets that a component may read, and how they get into its settings.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    layers::Sources,
    secret::{Generate, SecretValue, Source},
    settings,
    template::Given,
};
use libconf::name::{ComponentName, SecretName};

/// The secrets that a component may read: each by its name, with its value or with why there is none.
#[derive(Clone, Default)]
pub struct Secrets {
    pub(crate) given: BTreeMap<String, Given>,
}

/// A place in settings where a secret cannot be put.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretFault {
    /// Its JSON Pointer.
    pub pointer: String,
    /// What is wrong and what to do.
    pub reason: String,
}

impl Secrets {
    /// In the place of every value its name, `<secret NAME>`: for checks and for people. Certificates have their two parts.
    pub fn by_name(sources: &Sources<'_>, component: &ComponentName) -> Self {
        let mut secrets = Secrets::default();
        for (name, declared) in sources.secrets_of(component) {
            let stands = |part: &str| Zeroizing::new(format!("<secret {name}{part}>"));
            let value = match declared.source {
                Source::Generate(Generate::X509 { .. }) => {
                    let certificate = stands(" certificate").to_string();
                    SecretValue::Certificate { certificate, key: stands(" key") }
                }
                _ => SecretValue::Text(stands("")),
            };
            secrets.insert(name, Ok(value));
        }
        secrets
    }

    /// Adds one, or why it cannot be had; those words must not hold a value.
    pub fn insert(&mut self, name: &SecretName, value: Result<SecretValue, String>) {
        let given = match value {
            Ok(SecretValue::Text(text)) => Given::Text(text),
            Ok(SecretValue::Certificate { certificate, key }) => Given::Certificate { certificate, key },
            Err(why) => Given::Not(why),
        };
        self.given.insert(name.to_string(), given);
    }

    /// The settings with the secrets that they ask for, where they ask for any, and all that they ask for in vain.
    pub fn fill(&self, settings: &Value) -> (Option<Value>, Vec<SecretFault>) {
        let (mut filled, mut faults) = (settings.clone(), Vec::new());
        let found = self.walk(&mut filled, "", &mut faults);
        (found.then_some(filled), faults)
    }

    /// Puts values in the place of every `{"$secret": "NAME"}`; true when there was one.
    pub(crate) fn put_into(&self, settings: &mut Value) -> Result<bool, String> {
        let mut faults = Vec::new();
        let found = self.walk(settings, "", &mut faults);
        match faults.first() {
            None => Ok(found),
            Some(fault) => Err(format!("the settings ask at {} for {}", fault.pointer, fault.reason)),
        }
    }

    fn walk(&self, value: &mut Value, at: &str, faults: &mut Vec<SecretFault>) -> bool {
        let mut refuse = |name: &str, why: &str| {
            faults.push(SecretFault { pointer: at.to_owned(), reason: format!("the secret {name}: {why}") });
        };
        if let Some(name) = settings::asked_secret(value) {
            if at.is_empty() {
                refuse(name, "it stands in the place of all settings; write it under a key");
                return false;
            }
            *value = match self.given.get(name) {
                Some(Given::Text(text)) => text.as_str().into(),
                Some(Given::Certificate { certificate, key }) => {
                    serde_json::json!({"certificate": certificate, "key": key.as_str()})
                }
                Some(Given::Not(why)) => {
                    refuse(name, why);
                    return false;
                }
                None => {
                    refuse(name, "it is not declared in `secrets:` with this component among its `readers`");
                    return false;
                }
            };
            return true;
        }
        let mut found = false;
        match value {
            Value::Object(members) if members.contains_key(settings::SECRET) => {
                refuse("that it means", "write {\"$secret\": \"NAME\"}, with nothing else in it");
            }
            Value::Object(members) => {
                for (key, inner) in members {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    found |= self.walk(inner, &format!("{at}/{key}"), faults);
                }
            }
            Value::Array(items) => {
                for (number, inner) in items.iter_mut().enumerate() {
                    found |= self.walk(inner, &format!("{at}/{number}"), faults);
                }
            }
            _ => {}
        }
        found
    }
}

/// Shows the names alone.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.given.keys()).finish()
    }
}
