//! The error of every grammar, and the conversions that serde uses.

/// The reason why a text does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: {reason}")]
pub struct BadName {
    /// The text, cut to 200 characters.
    pub text: String,
    /// The expected sort of name, with its article.
    pub what: &'static str,
    /// The broken rule.
    pub reason: &'static str,
}

impl BadName {
    pub(crate) fn new(text: &str, what: &'static str, reason: &'static str) -> Self {
        BadName { text: text.chars().take(200).collect(), what, reason }
    }
}

/// Gives a type its conversions from and to text for serde, through `FromStr` and `Display`.
macro_rules! through_text {
    ($name:ident) => {
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::name::text::BadName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
    };
}

/// Gives a type that holds one checked text its printing and its conversions.
macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }

        $crate::name::text::through_text!($name);
    };
}

pub(crate) use {text_type, through_text};
