//! What a `datacenter.yaml` says of a secret.

use std::{fmt, path::PathBuf};

use libconf::name::ComponentName;

/// What a `datacenter.yaml` says of one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// Where its value comes from.
    pub source: Source,
    /// The components that may read it, in the order of the file.
    pub readers: Vec<ComponentName>,
    /// The line that says so.
    pub line: usize,
}

/// Where a secret's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// conf-master makes it.
    Generate(Generate),
    /// Somebody gives it to conf-master.
    Given,
    /// A file on the host; an absolute path.
    File(PathBuf),
    /// What a command prints on the host: a program and its words.
    Command(Vec<String>),
}

/// What conf-master makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Generate {
    /// Random text.
    Text {
        /// How many random bytes are encoded, or how many characters of an alphabet are drawn.
        length: usize,
        /// How it is written.
        encoding: Encoding,
    },
    /// A self-signed certificate with its key.
    X509 {
        /// DNS names and IP addresses.
        names: Vec<String>,
        /// How long it is good for.
        days: u32,
    },
}

/// How random text is written.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// True when conf-master keeps a sealed value for it; false for what is read on the host.
    pub fn is_central(&self) -> bool {
        matches!(self, Source::Generate(_) | Source::Given)
    }
}

/// In few words, the same for the same source: what [`About`] records.
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
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Command(words) => write!(f, "command {}", words.join(" ")),
        }
    }
}
