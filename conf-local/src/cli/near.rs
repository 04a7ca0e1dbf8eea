//! The component that was probably meant.

use std::{fs, path::Path};

use conf_core::manifest::nearest_component;
use libconf::name::{ComponentSelector, ComponentVersion, Kind};

/// Returns ` (did you mean …?)` when a snapshot's folder has a component with a similar name.
pub(crate) fn near(folder: &Path, selector: &ComponentSelector) -> String {
    nearest_component(&selector.to_string(), exported(folder).iter())
}

/// Lists the components in a snapshot's folder: `<kind>/<name>/<version>`.
fn exported(folder: &Path) -> Vec<ComponentVersion> {
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let mut found = Vec::new();
    for kind in Kind::ALL {
        let of_kind = folder.join(kind.to_string());
        for name in names(&of_kind) {
            // The settings beside a version, `<version>.json`, have no name of a version.
            let versions = names(&of_kind.join(&name)).into_iter();
            found.extend(versions.filter_map(|version| format!("{kind}/{name}/{version}").parse().ok()));
        }
    }
    found
}
