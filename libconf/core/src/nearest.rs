//! Words for a name that is not there: the known name that was probably meant.

use std::collections::BTreeSet;

use libconf::name::ComponentVersion;

/// The most faults of one file that name what was probably meant: to find it, all known names are
/// compared.
pub const MOST_LOOKS: usize = 20;

/// Returns ` (did you mean …?)` when a known word is near enough.
pub fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> String {
    // A longer text is no slip of the hand, and takes time to compare.
    let text: String = text.chars().take(100).collect();
    let near = known.map(|known| (strsim::damerau_levenshtein(&text, known), known)).min();
    match near {
        Some((distance, known)) if distance <= 1 + known.len() / 4 => format!(" (did you mean `{known}`?)"),
        _ => String::new(),
    }
}

/// Does the same for a component, `<kind>/<name>` or with its version: one of the same kind with a
/// similar name, or one of the same name and another kind.
pub fn nearest_component<'a>(text: &str, known: impl Iterator<Item = &'a ComponentVersion>) -> String {
    let versions = text.split('/').count() > 2;
    let known = known.map(|one| if versions { one.to_string() } else { one.component.to_string() });
    let known: BTreeSet<String> = known.collect();
    let (kind, name) = text.split_once('/').unwrap_or(("", text));
    let other = |one: &&String| one.split_once('/').is_some_and(|(_, known)| known == name);
    if let Some(other) = known.iter().find(other) {
        return format!(" (did you mean `{other}`?)");
    }
    let same = known.iter().filter_map(|one| one.split_once('/')).filter(|(known, _)| *known == kind);
    nearest(name, same.map(|(_, name)| name)).replacen('`', &format!("`{kind}/"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_that_was_probably_meant() {
        let known = ["services/web/latest", "services/api/v1", "devices/router/latest"];
        let known: Vec<ComponentVersion> = known.iter().map(|one| one.parse().unwrap()).collect();
        for (text, meant) in [
            ("services/wbe", Some("services/web")),
            ("service/web", Some("services/web")),
            ("services/router", Some("devices/router")),
            ("services/api/v2", Some("services/api/v1")),
            ("services/dns", None),
            ("devices/web-1", None),
        ] {
            let want = meant.map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default();
            assert_eq!(nearest_component(text, known.iter()), want, "{text}");
        }
    }
}
