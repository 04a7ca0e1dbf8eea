//! Names of secrets.

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
        let bad = |reason| Err(BadName::new(text, "a secret's name", reason));
        match text.as_bytes() {
            [] => bad("it is empty"),
            bytes if bytes.len() > 64 => bad("it is longer than 64 characters"),
            [first, ..] if !first.is_ascii_alphabetic() => bad("it must begin with a letter"),
            bytes if !bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') => {
                bad("only letters, digits and '_' may stand in it, since templates write it as a variable")
            }
            _ => Ok(SecretName(text.to_owned())),
        }
    }
}

text_type!(SecretName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets() {
        let name: SecretName = "ssoCookie_2".parse().unwrap();
        assert_eq!(name.variable(), "CONF_SECRET_SSOCOOKIE_2");
        for bad in ["", "2a", "_a", "a-b", "a.b", "ä", "a/b"] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(65).parse::<SecretName>().is_err());
    }
}
