//! Names of components, with and without a version.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::name::{
    segment::{Segment, Version},
    text::{BadName, through_text},
};

/// A sort of components.
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
    /// All kinds, in the order of listings.
    pub const ALL: [Kind; 3] = [Kind::Services, Kind::Applications, Kind::Devices];

    /// Returns the plural word for paths.
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

/// A service, an application or a device: `<kind>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ComponentName {
    /// Its kind.
    pub kind: Kind,
    /// Its name within its kind.
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

/// A component as a datacenter runs it: `<kind>/<name>/<version>`. A datacenter may run several
/// versions of one component.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ComponentVersion {
    /// The component.
    pub component: ComponentName,
    /// The version.
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

/// A component, with or without a version: `<kind>/<name>[/<version>]`. Commands and routes take
/// it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ComponentSelector {
    /// The component.
    pub component: ComponentName,
    /// The version. Without one: the version that the datacenter runs.
    pub version: Option<Version>,
}

impl ComponentSelector {
    /// Tells whether this names `one`.
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

#[cfg(test)]
mod tests {
    use super::*;

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
