//! The secrets that a component may read, and their values in its settings.

use std::{collections::BTreeMap, fmt};

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    layers::Sources,
    secret::{Generate, SecretValue, Source},
    settings::{self, JsonPointer},
    template::Given,
};
use libconf::name::{ComponentName, SecretName};

/// The secrets that a component may read, by name: each with its value, or with the reason why
/// there is none.
#[derive(Clone, Default)]
pub struct Secrets {
    pub(crate) given: BTreeMap<String, Given>,
}

/// A place in settings that gets no secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretFault {
    /// The JSON Pointer of the place.
    pub pointer: String,
    /// What is wrong and what to do.
    pub reason: String,
}

impl Secrets {
    /// Secrets with `<secret NAME>` in the place of every value: for checks and for people. A
    /// certificate has two parts.
    pub fn by_name(sources: &Sources<'_>, component: &ComponentName) -> Self {
        let mut secrets = Secrets::default();
        for (name, declared) in sources.secrets_of(component) {
            let placeholder = |part: &str| Zeroizing::new(format!("<secret {name}{part}>"));
            let value = match declared.source {
                Source::Generate(Generate::X509 { .. }) => {
                    let certificate = placeholder(" certificate").to_string();
                    SecretValue::Certificate { certificate, key: placeholder(" key") }
                }
                _ => SecretValue::Text(placeholder("")),
            };
            secrets.insert(name, Ok(value));
        }
        secrets
    }

    /// Adds a value, or why it cannot be had; those words must not hold a value.
    pub fn insert(&mut self, name: &SecretName, value: Result<SecretValue, String>) {
        self.given.insert(name.to_string(), value);
    }

    /// The settings with the values of the secrets that they ask for, if they ask for any; and a
    /// fault for each place that gets none.
    pub fn fill(&self, settings: &Value) -> (Option<Value>, Vec<SecretFault>) {
        let (mut filled, mut faults) = (settings.clone(), Vec::new());
        let found = self.walk(&mut filled, &JsonPointer::default(), &mut faults);
        (found.then_some(filled), faults)
    }

    fn walk(&self, value: &mut Value, at: &JsonPointer, faults: &mut Vec<SecretFault>) -> bool {
        let mut refuse = |name: &str, why: &str| {
            faults.push(SecretFault { pointer: at.to_string(), reason: format!("the secret {name}: {why}") });
            false
        };
        if let Some(name) = settings::asked_secret(value) {
            if name.parse::<SecretName>().is_err() {
                // Perhaps somebody has written the value in its place.
                let why = "what stands there is no name, which has letters, digits and `_` alone; declare the secret in \
                           `secrets:` and write its name";
                return refuse("that it means", why);
            }
            if at.parts().is_empty() {
                return refuse(name, "it stands in the place of all settings; write it under a key");
            }
            *value = match self.given.get(name) {
                Some(Ok(SecretValue::Text(text))) => text.as_str().into(),
                Some(Ok(SecretValue::Certificate { certificate, key })) => {
                    json!({"certificate": certificate, "key": key.as_str()})
                }
                Some(Err(why)) => return refuse(name, why),
                None => {
                    return refuse(name, "it is not declared in `secrets:` with this component among its `readers`");
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
                    found |= self.walk(inner, &at.join(key), faults);
                }
            }
            Value::Array(items) => {
                for (number, inner) in items.iter_mut().enumerate() {
                    found |= self.walk(inner, &at.join(&number.to_string()), faults);
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
