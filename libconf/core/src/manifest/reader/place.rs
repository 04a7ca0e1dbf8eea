//! The keys of each map in a `datacenter.yaml`.

use crate::{nearest::nearest, settings::shown};

/// The keys of one map.
pub(crate) struct Place {
    /// The name of the map, for people.
    pub(crate) what: &'static str,
    pub(crate) known: &'static [&'static str],
    /// Keys of earlier versions: not listed among the known ones, and refused by what reads them.
    pub(crate) earlier: &'static [&'static str],
    /// Keys of later versions.
    pub(crate) later: &'static [&'static str],
    /// Keys that stand in a datacenter's file alone.
    pub(crate) of_datacenters: &'static [&'static str],
    /// Keys that stand in a class's file alone.
    pub(crate) of_classes: &'static [&'static str],
}

pub(crate) const CLASS: Place = Place {
    what: "the datacenter.yaml of a class",
    known: &["services", "applications", "devices", "platform", "secrets", "compatibility"],
    earlier: &[],
    later: &["rollout", "export"],
    of_datacenters: &["conf", "inventories"],
    of_classes: &[],
};

pub(crate) const INSTANCE: Place = Place {
    what: "the datacenter.yaml of a datacenter",
    known: &["conf", "inventories", "platform", "services", "applications", "devices", "secrets"],
    of_datacenters: &[],
    of_classes: &["compatibility"],
    ..CLASS
};

pub(crate) const INVENTORIES: Place = Place {
    what: "`inventories`",
    known: &["roles", "hosts", "closed"],
    earlier: &[],
    later: &[],
    of_datacenters: &[],
    of_classes: &[],
};

pub(crate) const COMPATIBILITY: Place = Place { what: "`compatibility`", known: &["settings"], ..INVENTORIES };

pub(crate) const ROLE: Place = Place { what: "a role", known: &["components", "variables", "settings"], ..INVENTORIES };

pub(crate) const HOST: Place =
    Place { what: "a host", known: &["roles", "labels", "key", "components", "variables", "settings"], ..INVENTORIES };

pub(crate) const PIN: Place = Place {
    what: "a component's entry",
    known: &["name", "branch", "tag", "raw", "links"],
    later: &["export", "rollout"],
    ..INVENTORIES
};

/// The fault of an unknown key, with what to write instead.
pub(crate) fn unknown(key: &str, place: &Place) -> String {
    if place.later.contains(&key) {
        return format!("`{key}` needs a later version of conf-master; take it out");
    }
    if place.of_datacenters.contains(&key) {
        return format!("`{key}` belongs in the datacenter.yaml of a datacenter, not in a class's; take it out");
    }
    if place.of_classes.contains(&key) {
        return format!("`{key}` belongs in the datacenter.yaml of a class, not in a datacenter's; take it out");
    }
    let near = nearest(key, place.known.iter().copied());
    let known = place.known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    format!("`{}` is not known{near}; {} has {known}", shown(key), place.what)
}
