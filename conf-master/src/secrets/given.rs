//! Values of secrets that the environment of conf-master gives.

use std::{collections::BTreeMap, str::FromStr};

use conf_core::secret::SecretValue;
use libconf::name::{SecretName, Segment};
use zeroize::Zeroizing;

/// The prefix of the variables that give values, unless the operator chose another one.
const PREFIX: &str = "CONF_SECRET_";

/// An id whose given secrets come from the environment: `ID[=PREFIX]`, with the prefix of its
/// variables.
///
/// The operator names the id: whoever may push a datacenter may declare any name in it, and would
/// get the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretsFor {
    id: Segment,
    prefix: String,
}

impl FromStr for SecretsFor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, prefix) = text.split_once('=').unwrap_or((text, PREFIX));
        if prefix.is_empty() {
            return Err("the prefix is empty; write ID, or ID=PREFIX as in us-west=US_WEST_".to_owned());
        }
        let id = id.parse().map_err(|bad| format!("{bad}"))?;
        Ok(SecretsFor { id, prefix: prefix.to_owned() })
    }
}

impl SecretsFor {
    /// Refuses prefixes of which one is the beginning of another: a secret of the one id could be
    /// declared with a name that makes it a variable of the other. Several ids may share one.
    pub(crate) fn check(all: &[SecretsFor]) -> Result<(), String> {
        for one in all {
            let other = all.iter().find(|other| other.prefix != one.prefix && other.prefix.starts_with(&one.prefix));
            if let Some(other) = other {
                return Err(format!(
                    "--secrets-for {}={} would also get the variables of {}={}; give them prefixes of which none is the beginning \
                     of another",
                    one.id, one.prefix, other.id, other.prefix
                ));
            }
        }
        Ok(())
    }
}

/// Values from the environment by the names of their variables, and the prefix of each id that gets
/// some.
#[derive(Default)]
pub(crate) struct GivenValues {
    values: BTreeMap<String, Zeroizing<String>>,
    prefixes: BTreeMap<Segment, String>,
}

/// Shows the names of the variables, and no value.
impl std::fmt::Debug for GivenValues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl GivenValues {
    /// Reads the values that the environment gives to some ids.
    pub(crate) fn from_environment(secrets_for: &[SecretsFor]) -> Self {
        let mut given = GivenValues::default();
        given.prefixes.extend(secrets_for.iter().map(|one| (one.id.clone(), one.prefix.clone())));
        for (variable, value) in std::env::vars_os() {
            let Some(variable) = variable.to_str() else { continue };
            if !given.prefixes.values().any(|prefix| variable.starts_with(prefix)) {
                if variable.starts_with(PREFIX) {
                    tracing::warn!(
                        variable,
                        "no datacenter is given this variable; --secrets-for ID names the datacenters"
                    );
                }
                continue;
            }
            if let Ok(value) = value.into_string() {
                given.values.insert(variable.to_owned(), Zeroizing::new(value));
            } else {
                tracing::warn!(variable, "the value is not UTF-8 and is ignored; encode it as base64");
            }
        }
        given
    }

    /// Returns the value that the environment gives to a secret.
    pub(crate) fn value(&self, id: &Segment, name: &SecretName) -> Option<SecretValue> {
        let variable = variable(self.prefixes.get(id)?, name);
        self.values.get(&variable).map(|value| SecretValue::Text(value.clone()))
    }

    /// Says how to start conf-master so that the environment gives a value.
    pub(crate) fn how_to_give(&self, id: &Segment, name: &SecretName) -> String {
        match self.prefixes.get(id) {
            Some(prefix) => format!("{} in its environment", variable(prefix, name)),
            None => format!("--secrets-for {id}, and {} in its environment", variable(PREFIX, name)),
        }
    }
}

/// Names the variable that gives a secret's value.
fn variable(prefix: &str, name: &SecretName) -> String {
    format!("{prefix}{}", name.as_str().to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prefix_is_the_beginning_of_another() {
        let check = |all: &[&str]| {
            let all: Vec<SecretsFor> = all.iter().map(|one| one.parse().unwrap()).collect();
            SecretsFor::check(&all)
        };
        for good in [&["west"][..], &["west", "east"], &["west=WEST_", "east=EAST_"], &["a=X_", "b=X_", "c=Y_"]] {
            assert_eq!(check(good), Ok(()), "{good:?}");
        }
        for bad in [["west=CONF_", "east"], ["east", "west=CONF_SECRET_WEST_"], ["a=A", "b=AB"]] {
            let words = check(&bad).unwrap_err();
            assert!(words.contains("would also get the variables of"), "{words}");
        }
    }
}
