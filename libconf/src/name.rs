//! The names that every part of the system agrees on, as types: text becomes one of these once, where it enters.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is not the name it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: {reason}")]
pub struct BadName {
    /// The text, cut to 200 characters.
    pub text: String,
    /// What it should have been, with its article.
    pub what: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl BadName {
    fn new(text: &str, what: &'static str, reason: &'static str) -> Self {
        BadName { text: text.chars().take(200).collect(), what, reason }
    }
}

/// Says what is wrong with one segment of a name, or nothing.
///
/// One segment is `[A-Za-z0-9][A-Za-z0-9._-]*`, without `..`, not ending in `.`, `.lock` or `.json`, not `HEAD`, and of
/// at most 100 bytes, so that a path made of several stays below every limit of Git, Consul and file systems.
fn fault_in_segment(text: &str) -> Option<&'static str> {
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match text.as_bytes() {
        [] => Some("it is empty"),
        bytes if bytes.len() > 100 => Some("it is longer than 100 characters"),
        [first, ..] if !first.is_ascii_alphanumeric() => Some("it must begin with a letter or a digit"),
        bytes if !bytes.iter().all(inside) => Some("only letters, digits, '.', '_' and '-' may stand in it"),
        _ if text.contains("..") => Some("'..' may not stand in it"),
        _ if text.ends_with('.') => Some("it may not end in '.'"),
        // File systems that fold case would confuse the two.
        _ if text.to_ascii_lowercase().ends_with(".lock") => Some("it may not end in '.lock'"),
        _ if text.to_ascii_lowercase().ends_with(".json") => Some("it may not end in '.json'"),
        b"HEAD" => Some("'HEAD' is Git's own"),
        _ => None,
    }
}

/// Gives a type that is a checked text its parsing, printing, comparing and serde.
macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }
    };
}

/// A name of one segment.
macro_rules! segment {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                match fault_in_segment(text) {
                    Some(reason) => Err(BadName::new(text, $what, reason)),
                    None => Ok($name(text.to_owned())),
                }
            }
        }

        text_type!($name);
    };
}

segment!(
    /// One plain name: the second half of a [`ComponentName`], or of a [`DatacenterName`].
    Segment, "a name");
segment!(
    /// A component's branch: the last part of `<kind>/<name>/<branch>`.
    BranchName, "a branch name");
segment!(
    /// A component's or a class's tag: the last part of `refs/tags/<kind>/<name>/<tag>`; never `latest`.
    TagName, "a tag name");
segment!(
    /// The name under which a datacenter runs a component: `latest`, or the tag.
    Version, "a version");
segment!(
    /// A sort of datacenters: `datacenter-configuration/<class>`.
    ClassName, "a class name");
segment!(
    /// A host, as its datacenter's inventory names it.
    HostName, "a host name");
segment!(
    /// A named set of components that hosts take on.
    RoleName, "a role name");

impl Version {
    /// The version that follows its branch's tip.
    pub const LATEST: &'static str = "latest";

    /// True for the version that follows its branch.
    pub fn is_latest(&self) -> bool {
        self.0 == Self::LATEST
    }
}

/// What a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A long-running service.
    Services,
    /// An application.
    Applications,
    /// A device.
    Devices,
}

impl Kind {
    /// All kinds, in the order in which they are shown.
    pub const ALL: [Kind; 3] = [Kind::Services, Kind::Applications, Kind::Devices];

    /// The plural word that stands in paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Services => "services",
            Kind::Applications => "applications",
            Kind::Devices => "devices",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| BadName::new(text, "a kind", "write services, applications or devices"))
    }
}

/// Gives a type made of parts its conversions from and to text, through `FromStr` and `Display`.
macro_rules! through_text {
    ($name:ident) => {
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }
    };
}

/// A service, an application or a device: `<kind>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ComponentName {
    /// What it is.
    pub kind: Kind,
    /// Its name among those of its kind.
    pub name: Segment,
}

impl fmt::Display for ComponentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.kind, self.name))
    }
}

impl FromStr for ComponentName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (kind, name) = text
            .split_once('/')
            .ok_or_else(|| BadName::new(text, "a component", "write <kind>/<name>, as in services/web"))?;
        Ok(ComponentName { kind: kind.parse()?, name: name.parse()? })
    }
}

through_text!(ComponentName);

/// A component as a datacenter runs it: `<kind>/<name>/<version>`. One datacenter may run several versions of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ComponentVersion {
    /// Which component.
    pub component: ComponentName,
    /// Which of its versions.
    pub version: Version,
}

impl fmt::Display for ComponentVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.component, self.version))
    }
}

impl FromStr for ComponentVersion {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (component, version) =
            text.rsplit_once('/').filter(|(component, _)| component.contains('/')).ok_or_else(|| {
                BadName::new(text, "a component's version", "write <kind>/<name>/<version>, as in services/web/latest")
            })?;
        Ok(ComponentVersion { component: component.parse()?, version: version.parse()? })
    }
}

through_text!(ComponentVersion);

/// A component, with or without one version: what commands and routes take, `<kind>/<name>[/<version>]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ComponentSelector {
    /// Which component.
    pub component: ComponentName,
    /// Which version; without one, whichever the datacenter runs.
    pub version: Option<Version>,
}

impl ComponentSelector {
    /// True when `one` is what this names.
    pub fn matches(&self, one: &ComponentVersion) -> bool {
        self.component == one.component && self.version.as_ref().is_none_or(|version| *version == one.version)
    }
}

impl fmt::Display for ComponentSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => f.pad(&format!("{}/{version}", self.component)),
            None => self.component.fmt(f),
        }
    }
}

impl FromStr for ComponentSelector {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if text.matches('/').count() < 2 {
            return Ok(ComponentSelector { component: text.parse()?, version: None });
        }
        let ComponentVersion { component, version } = text.parse()?;
        Ok(ComponentSelector { component, version: Some(version) })
    }
}

through_text!(ComponentSelector);

/// A datacenter instance: `<id>/<version>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatacenterName {
    /// Which datacenter.
    pub id: Segment,
    /// Which version of its configuration.
    pub version: Segment,
}

impl fmt::Display for DatacenterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.id, self.version))
    }
}

impl FromStr for DatacenterName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (id, version) = text
            .split_once('/')
            .ok_or_else(|| BadName::new(text, "a datacenter", "write <id>/<version>, as in us-west/v1"))?;
        Ok(DatacenterName { id: id.parse()?, version: version.parse()? })
    }
}

through_text!(DatacenterName);

/// A secret, as templates name it: `{{ secrets.NAME }}`. A letter, then letters, digits and `_`; at most 64.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

impl SecretName {
    /// The variable of conf-master's environment that gives its value: `CONF_SECRET_` and the name in upper case.
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

/// Full name of one Git object: 40 lower-case hex digits (SHA-1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectId([u8; 20]);

/// An [`ObjectId`] that names a commit.
pub type CommitId = ObjectId;

impl ObjectId {
    /// The id that Git writes for "nothing": forty zeros.
    pub const ZERO: ObjectId = ObjectId([0; 20]);

    /// The twenty bytes.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// True for forty zeros.
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// The first ten digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..10].to_owned()
    }
}

impl From<[u8; 20]> for ObjectId {
    fn from(bytes: [u8; 20]) -> Self {
        ObjectId(bytes)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ObjectId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName::new(text, "an object id", "it must be 40 lower-case hex digits");
        if text.len() != 40 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        let mut bytes = [0; 20];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte =
                std::str::from_utf8(digits).ok().and_then(|two| u8::from_str_radix(two, 16).ok()).ok_or_else(bad)?;
        }
        Ok(ObjectId(bytes))
    }
}

through_text!(ObjectId);

#[cfg(feature = "git2")]
impl From<git2::Oid> for ObjectId {
    fn from(oid: git2::Oid) -> Self {
        let mut bytes = [0; 20];
        bytes.copy_from_slice(oid.as_bytes());
        ObjectId(bytes)
    }
}

#[cfg(feature = "git2")]
impl From<ObjectId> for git2::Oid {
    fn from(id: ObjectId) -> Self {
        git2::Oid::from_bytes(&id.0).expect("twenty bytes are an object id")
    }
}

/// The number of a change: one counter for the whole central repository. The first change is 1; 0 is "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Sequence(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Sequence {
    type Err = BadName;

    /// Decimal digits as they are printed: no sign, no leading zero, at most 2^63 - 1 (what JSON and SQL readers hold).
    fn from_str(text: &str) -> Result<Self, BadName> {
        let number = text.parse::<u64>().ok().filter(|number| number.to_string() == text);
        number
            .filter(|number| i64::try_from(*number).is_ok())
            .map(Sequence)
            .ok_or_else(|| BadName::new(text, "a sequence", "it must be a whole number below 2^63"))
    }
}

/// The refs of the central repository; there are no others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RefName {
    /// `refs/heads/main`: what a plain clone shows, a README of the layout; written by `conf-master init` alone.
    Main,
    /// `refs/heads/datacenter-configuration/<class>`
    Class(ClassName),
    /// `refs/tags/datacenter-configuration/<class>/<tag>`
    ClassTag(ClassName, TagName),
    /// `refs/heads/datacenters/<id>/<version>`
    Datacenter(DatacenterName),
    /// `refs/heads/<kind>/<name>/<branch>`
    Branch(ComponentName, BranchName),
    /// `refs/tags/<kind>/<name>/<tag>`
    Tag(ComponentName, TagName),
    /// `refs/heads/secrets/<id>`; written by conf-master alone.
    Secrets(Segment),
    /// `refs/snapshots/<id>/<version>`; written by conf-master alone.
    Snapshot(DatacenterName),
    /// `refs/conf/ledger`; written by conf-master alone.
    Ledger,
}

impl RefName {
    /// True for `refs/tags/…`: such a ref never moves.
    pub fn is_tag(&self) -> bool {
        matches!(self, RefName::ClassTag(..) | RefName::Tag(..))
    }

    /// True for what nobody but conf-master may write.
    pub fn is_reserved(&self) -> bool {
        matches!(self, RefName::Main | RefName::Secrets(_) | RefName::Snapshot(_) | RefName::Ledger)
    }

    /// As people write it: without `refs/heads/`.
    pub fn short(&self) -> String {
        let full = self.to_string();
        full.strip_prefix("refs/heads/").map_or(full.clone(), str::to_owned)
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefName::Main => write!(f, "refs/heads/main"),
            RefName::Class(class) => write!(f, "refs/heads/datacenter-configuration/{class}"),
            RefName::ClassTag(class, tag) => write!(f, "refs/tags/datacenter-configuration/{class}/{tag}"),
            RefName::Datacenter(datacenter) => write!(f, "refs/heads/datacenters/{datacenter}"),
            RefName::Branch(component, branch) => write!(f, "refs/heads/{component}/{branch}"),
            RefName::Tag(component, tag) => write!(f, "refs/tags/{component}/{tag}"),
            RefName::Secrets(id) => write!(f, "refs/heads/secrets/{id}"),
            RefName::Snapshot(datacenter) => write!(f, "refs/snapshots/{datacenter}"),
            RefName::Ledger => write!(f, "refs/conf/ledger"),
        }
    }
}

impl FromStr for RefName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        const WHAT: &str = "a ref of this repository";
        const LAYOUT: &str = "branches are <kind>/<name>/<branch>, datacenters/<id>/<version> and \
            datacenter-configuration/<class>; tags are <kind>/<name>/<tag> and datacenter-configuration/<class>/<tag>; \
            <kind> is services, applications or devices";
        let outside = || BadName::new(text, WHAT, LAYOUT);
        let parts: Vec<&str> = text.split('/').collect();
        Ok(match parts.as_slice() {
            ["refs", "heads", "main"] => RefName::Main,
            ["refs", "heads", "datacenter-configuration", class] => RefName::Class(class.parse()?),
            ["refs", "heads", "datacenters", id, version] => {
                RefName::Datacenter(DatacenterName { id: id.parse()?, version: version.parse()? })
            }
            ["refs", "heads", "secrets", id] => RefName::Secrets(id.parse()?),
            ["refs", "snapshots", id, version] => {
                RefName::Snapshot(DatacenterName { id: id.parse()?, version: version.parse()? })
            }
            ["refs", "conf", "ledger"] => RefName::Ledger,
            ["refs", "tags", .., Version::LATEST] => {
                return Err(BadName::new(text, "a tag", "'latest' means the branch's tip; give the tag another name"));
            }
            ["refs", "tags", "datacenter-configuration", class, tag] => RefName::ClassTag(class.parse()?, tag.parse()?),
            ["refs", where_, kind, name, last] if matches!(*where_, "heads" | "tags") => {
                let kind = kind.parse().map_err(|_| outside())?;
                let component = ComponentName { kind, name: name.parse()? };
                match *where_ {
                    "heads" => RefName::Branch(component, last.parse()?),
                    _ => RefName::Tag(component, last.parse()?),
                }
            }
            _ => return Err(outside()),
        })
    }
}

through_text!(RefName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments() {
        for good in ["a", "web-1", "v1.0", "A_b.c-d", "0"] {
            assert!(good.parse::<Segment>().is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a..b", "a.", "a.lock", "a.LOCK", "a.json", "HEAD", "a/b", "a b", "ä", "a\n"] {
            assert!(bad.parse::<Segment>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(101).parse::<Segment>().is_err());
    }

    #[test]
    fn refs_print_as_they_parse() {
        for text in [
            "refs/heads/main",
            "refs/heads/datacenter-configuration/big",
            "refs/tags/datacenter-configuration/big/v1.1",
            "refs/heads/datacenters/us-west/v1",
            "refs/heads/services/web/master",
            "refs/tags/devices/router/v2",
            "refs/heads/secrets/us-west",
            "refs/snapshots/us-west/v1",
            "refs/conf/ledger",
        ] {
            assert_eq!(text.parse::<RefName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refs_outside_the_layout() {
        for text in [
            "refs/heads/services/web",
            "refs/heads/services/web/a/b",
            "refs/heads/things/web/master",
            "refs/tags/services/web/latest",
            "refs/replace/0123456789012345678901234567890123456789",
            "refs/heads/--option",
            "HEAD",
            "",
        ] {
            assert!(text.parse::<RefName>().is_err(), "{text}");
        }
    }

    #[test]
    fn secrets() {
        let name: SecretName = "ssoCookie_2".parse().unwrap();
        assert_eq!(name.variable(), "CONF_SECRET_SSOCOOKIE_2");
        for bad in ["", "2a", "_a", "a-b", "a.b", "ä", "a/b"] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(65).parse::<SecretName>().is_err());
    }

    #[test]
    fn sequences() {
        assert_eq!("12".parse(), Ok(Sequence(12)));
        for bad in ["", "+1", "01", "-1", "9223372036854775808", "1 "] {
            assert!(bad.parse::<Sequence>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn selectors() {
        let web: ComponentVersion = "services/web/latest".parse().unwrap();
        assert!("services/web".parse::<ComponentSelector>().unwrap().matches(&web));
        assert!("services/web/latest".parse::<ComponentSelector>().unwrap().matches(&web));
        assert!(!"services/web/v1".parse::<ComponentSelector>().unwrap().matches(&web));
        assert!("services".parse::<ComponentSelector>().is_err());
        assert!("services/a/b/c".parse::<ComponentSelector>().is_err());
    }
}
