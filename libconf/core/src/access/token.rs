//! Tokens: 256 random bits, and the hash by which they are known. A host's key has such a hash too.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libconf::name::DatacenterName;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::host_key::HostKey;

/// How every token begins, so that people and scanners for secrets know one when they see it.
const BEGINNING: &str = "conf_";
/// How a join token begins: a host does not send it with each request.
const OF_JOIN: &str = "confj_";
/// 256 bits: nobody guesses one, and so a plain hash hides it.
const BYTES: usize = 32;
/// The most letters that a file with a token may have around it.
const MOST: usize = 4096;
/// The letters of a hash by which people name a token.
const ID_LETTERS: usize = 12;

/// The secret that proves a name: `conf_` and 43 letters, or for a join token `confj_` and 43. It
/// is printed nowhere but by [`Token::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

/// The SHA-256 of a token's text, which gives the token to nobody: 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash(String);

/// How people and records name a token: the first 12 digits of its hash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(String);

/// The reason why a text is no token; it never quotes the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadToken(&'static str);

impl Token {
    /// Makes a new one.
    pub fn generate() -> Self {
        Token::beginning(BEGINNING)
    }

    /// Makes a new join token.
    pub fn generate_for_joining() -> Self {
        Token::beginning(OF_JOIN)
    }

    fn beginning(beginning: &str) -> Self {
        let bytes = Zeroizing::new(rand::random::<[u8; BYTES]>());
        let letters = Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()));
        Token(Zeroizing::new(format!("{beginning}{}", letters.as_str())))
    }

    /// Tells whether a text is meant as a join token.
    pub fn is_for_joining(text: &str) -> bool {
        text.starts_with(OF_JOIN)
    }

    /// Returns the text, for its owner alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The hash by which the token is known.
    pub fn hash(&self) -> TokenHash {
        TokenHash(format!("{:x}", Sha256::digest(self.0.as_bytes())))
    }
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let text = match text {
            "" => return Err(BadToken("the token is empty")),
            text if text.len() > MOST => return Err(BadToken("it is too long for a token")),
            text if text.starts_with('\u{feff}') => {
                return Err(BadToken("the token begins with a byte order mark; save the file without one"));
            }
            text => text,
        };
        let letters = text.strip_prefix(BEGINNING).or_else(|| text.strip_prefix(OF_JOIN));
        let letters = letters.ok_or(BadToken("a token begins with `conf_`"))?;
        match URL_SAFE_NO_PAD.decode(letters).map(Zeroizing::new) {
            Ok(bytes) if bytes.len() == BYTES => Ok(Token(Zeroizing::new(text.to_owned()))),
            _ => Err(BadToken("a token is `conf_` and 43 letters; this one is cut off or mistyped")),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl TokenId {
    /// The lowest hash that a token of this name can have.
    pub(crate) fn lowest(&self) -> TokenHash {
        TokenHash(self.0.clone())
    }
}

impl TokenHash {
    /// The hash by which the key of a datacenter's host is known. No token has it, since no token
    /// begins like this text.
    pub fn of_key(datacenter: &DatacenterName, key: &HostKey) -> Self {
        TokenHash(format!("{:x}", Sha256::digest(format!("conf-key\n{datacenter}\n{key}\n"))))
    }

    /// How people name the token.
    pub fn id(&self) -> TokenId {
        TokenId(self.0[..ID_LETTERS].to_owned())
    }
}

/// Gives a type of hexadecimal digits its grammar.
macro_rules! digits {
    ($name:ident, $letters:expr, $what:literal) => {
        impl FromStr for $name {
            type Err = BadToken;

            fn from_str(text: &str) -> Result<Self, BadToken> {
                let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                if text.len() == $letters && text.bytes().all(is_digit) {
                    Ok($name(text.to_owned()))
                } else {
                    Err(BadToken($what))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadToken;

            fn try_from(text: String) -> Result<Self, BadToken> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

digits!(TokenHash, 2 * BYTES, "the hash of a token is 64 hexadecimal digits");
digits!(TokenId, ID_LETTERS, "a token is named by the 12 hexadecimal digits that `conf-master token list` shows");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_hash_alone() {
        let token = Token::generate();
        assert_eq!(token.reveal().len(), BEGINNING.len() + 43);
        assert_eq!(token.reveal().parse::<Token>().unwrap().hash(), token.hash());
        assert_ne!(Token::generate().hash(), token.hash());
        assert!(!format!("{token:?}{:?}", token.hash()).contains(token.reveal()));
        assert!(token.hash().to_string().starts_with(&token.hash().id().to_string()));
        assert_eq!(token.hash().to_string().parse::<TokenHash>().unwrap(), token.hash());
        let join = Token::generate_for_joining();
        assert_eq!(join.reveal().parse::<Token>().unwrap().hash(), join.hash());
        assert!(Token::is_for_joining(join.reveal()) && !Token::is_for_joining(token.reveal()));
        // A hash that other programs can compute: `printf %s TOKEN | sha256sum`.
        let known = Token(Zeroizing::new("abc".to_owned())).hash().to_string();
        assert_eq!(known, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn what_is_no_token_is_named_and_never_quoted() {
        let good = Token::generate();
        let cut = &good.reveal()[..40];
        for (text, words) in [
            ("", "empty"),
            (cut, "cut off"),
            (&format!("\u{feff}{}", good.reveal()), "byte order mark"),
            (&format!("{}=", good.reveal()), "mistyped"),
            ("secret", "begins with `conf_`"),
            (&"x".repeat(MOST + 1), "too long"),
        ] {
            let error = text.parse::<Token>().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(text.is_empty() || !error.contains(text));
        }
    }
}
