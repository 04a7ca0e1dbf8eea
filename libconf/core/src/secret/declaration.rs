//! The declaration of a secret in a `datacenter.yaml`.

use std::fmt;

use libconf::name::{ComponentName, SourceName};

/// The declaration of one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// Where the value comes from.
    pub source: Source,
    /// The components that may read the value, in the order of the file.
    pub readers: Vec<ComponentName>,
    /// The line of the declaration.
    pub line: usize,
}

/// Where a secret's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// conf-master makes it.
    Generate(Generate),
    /// A person gives it to conf-master.
    Given,
    /// The host has it: the source that its own file offers under this name.
    Host(SourceName),
    /// A snapshot of an earlier version chose a `file` or a `command` of the host. Only the host's
    /// own file may do that, so nothing is read or run, and the secret has no value.
    Chosen(&'static str),
}

/// A value that conf-master makes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generate {
    /// Random text.
    Text {
        /// The number of random bytes that are encoded, or of characters of an alphabet that are
        /// drawn.
        length: usize,
        /// How the bytes are written.
        encoding: Encoding,
    },
    /// A self-signed certificate with its key.
    X509 {
        /// DNS names and IP addresses.
        names: Vec<String>,
        /// How many days it is valid.
        days: u32,
    },
}

/// How random text is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encoding {
    /// RFC 4648, with padding.
    Base64,
    /// RFC 4648, URL-safe, without padding.
    Base64Url,
    /// Lower-case hex digits.
    Hex,
    /// Characters of this list, each as likely as the others.
    Alphabet(String),
}

impl Source {
    /// True when conf-master keeps a sealed value for it; false when the host reads it.
    pub fn is_central(&self) -> bool {
        matches!(self, Source::Generate(_) | Source::Given)
    }
}

/// The source in a few words. Those of what conf-master makes are the same for the same source:
/// [`About`](crate::secret::About) records them.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Generate(Generate::Text { length, encoding }) => match encoding {
                Encoding::Alphabet(alphabet) => write!(f, "generated: {length} of {alphabet}"),
                Encoding::Base64 => write!(f, "generated: {length} bytes, base64"),
                Encoding::Base64Url => write!(f, "generated: {length} bytes, base64url"),
                Encoding::Hex => write!(f, "generated: {length} bytes, hex"),
            },
            Source::Generate(Generate::X509 { names, days }) => {
                write!(f, "generated: x509 for {}, {days} days", names.join(", "))
            }
            Source::Given => write!(f, "given"),
            Source::Host(name) => write!(f, "from {name}"),
            Source::Chosen(key) => write!(f, "`{key}`, which counts no more"),
        }
    }
}
