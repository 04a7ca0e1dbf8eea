//! Names of secrets, and of the sources that hosts offer.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::text::{BadName, text_type};

/// The name of a secret, as in the template `{{ secrets.NAME }}`: a letter, then letters, digits
/// and `_`, at most 64 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

impl SecretName {
    /// Returns the variable of conf-master's environment with its value: `CONF_SECRET_` and the
    /// name in upper case.
    pub fn variable(&self) -> String {
        format!("CONF_SECRET_{}", self.0.to_ascii_uppercase())
    }
}

impl FromStr for SecretName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let only = "only letters, digits and '_' may stand in it, since templates write it as a variable";
        check(text, "a secret's name", only)?;
        Ok(SecretName(text.to_owned()))
    }
}

/// The name under which a host offers a secret that it has itself: the entry of `secret-sources:`
/// in its own file, and `from:` of a secret. Written as a [`SecretName`] is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceName(String);

impl FromStr for SourceName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        check(text, "a secret source's name", "only letters, digits and '_' may stand in it")?;
        Ok(SourceName(text.to_owned()))
    }
}

fn check(text: &str, what: &'static str, only: &'static str) -> Result<(), BadName> {
    let bad = |reason| Err(BadName::new(text, what, reason));
    match text.as_bytes() {
        [] => bad("it is empty"),
        bytes if bytes.len() > 64 => bad("it is longer than 64 characters"),
        [first, ..] if !first.is_ascii_alphabetic() => bad("it must begin with a letter"),
        bytes if !bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') => bad(only),
        _ => Ok(()),
    }
}

text_type!(SecretName);
text_type!(SourceName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets() {
        let name: SecretName = "ssoCookie_2".parse().unwrap();
        assert_eq!(name.variable(), "CONF_SECRET_SSOCOOKIE_2");
        for bad in ["", "2a", "_a", "a-b", "a.b", "ä", "a/b"] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
            assert!(bad.parse::<SourceName>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(65).parse::<SecretName>().is_err());
    }
}
