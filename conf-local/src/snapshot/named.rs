//! Components that this host's file names: one that the datacenter does not have is a mistake of
//! the file, and nothing would ever happen for it.

use conf_core::{
    manifest::nearest_component,
    settings::{self, Format, Lines},
    snapshot::{Snapshot, SnapshotError},
};
use git2::Repository as Git;
use libconf::name::ComponentSelector;
use serde_json::Value;

/// The lists in the file of conf-local that name components.
const LISTS: [&str; 5] = ["watch", "export", "check", "probe", "links"];

/// A component that the file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedComponent {
    selector: ComponentSelector,
    /// The place, as people read it: file, line and list.
    place: String,
}

impl NamedComponent {
    /// Lists the components that the text of a file names. What cannot be read is left out: the
    /// file was read before.
    pub(crate) fn all(path: &str, text: &str) -> Vec<Self> {
        let content: Value = settings::from_yaml(text).unwrap_or_default();
        let lines = Lines::of(Format::Yaml, text.as_bytes()).unwrap_or_default();
        let mut named = Vec::new();
        let mut add = |list: &str, pointer: &str, value: &Value| {
            let Some(selector) = value.as_str().and_then(|text| text.parse().ok()) else { return };
            let Ok(at) = pointer.parse();
            let line = lines.at(&at).map(|line| format!(", line {line}")).unwrap_or_default();
            named.push(NamedComponent { selector, place: format!("{path}{line}: `{list}:`") });
        };
        for list in LISTS {
            for (number, entry) in content[list].as_array().into_iter().flatten().enumerate() {
                let pointer = format!("/{list}/{number}");
                add(list, &pointer, entry);
                add(list, &format!("{pointer}/component"), &entry["component"]);
                for (place, one) in entry["components"].as_array().into_iter().flatten().enumerate() {
                    add(list, &format!("{pointer}/components/{place}"), one);
                }
            }
        }
        named
    }

    /// Describes each of the components that a snapshot does not have.
    pub(crate) fn missing(named: &[Self], git: &Git, snapshot: &Snapshot) -> Result<Vec<String>, SnapshotError> {
        let mut missing = Vec::new();
        for NamedComponent { selector, place } in named {
            let versions = snapshot.versions_of(git, &selector.component)?;
            if versions.keys().any(|one| selector.matches(one)) {
                continue;
            }
            let all = snapshot.components(git)?;
            let near = nearest_component(&selector.to_string(), all.keys());
            missing.push(format!(
                "{place} names {selector}, which {} does not have{near}; correct the name, or let the datacenter run it",
                snapshot.datacenter
            ));
        }
        Ok(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_component_has_its_line_and_list() {
        let text = "keep: 3\nwatch:\n- components: [services/web,\n    services/api/v1]\n  command: [/bin/true]\nexport:\n\
                    - component: devices/router\n  path: /etc/x\nprobe: []\nlinks: [applications/wiki]\ncheck: {}\n";
        let named = NamedComponent::all("c.yaml", text);
        let shown: Vec<String> = named.iter().map(|one| format!("{} {}", one.place, one.selector)).collect();
        let want = [
            "c.yaml, line 3: `watch:` services/web",
            "c.yaml, line 4: `watch:` services/api/v1",
            "c.yaml, line 7: `export:` devices/router",
            "c.yaml, line 10: `links:` applications/wiki",
        ];
        assert_eq!(shown, want);
        assert_eq!(NamedComponent::all("c.yaml", "watch: ["), []);
    }
}
