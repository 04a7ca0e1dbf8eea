//! The content of the central repository.

use std::fmt::Write as _;

/// The datacenter of most stories.
pub const DATACENTER: &str = "us-west/v1";
/// A second datacenter for some stories. Its first cache stands in for Consul.
pub const ELSEWHERE: &str = "eu-north/v1";
/// The class of both.
pub const CLASS: &str = "datacenter-configuration/big";

/// A component's name, branch and tag.
pub type Pin<'a> = (&'a str, &'a str, &'a str);

/// Makes a class's `datacenter.yaml`.
pub fn class(pins: &[Pin<'_>]) -> String {
    let mut text = String::new();
    for kind in ["services", "applications", "devices"] {
        let mine = pins.iter().filter_map(|(name, branch, tag)| {
            let name = name.strip_prefix(kind)?.strip_prefix('/')?;
            Some(format!("  - {{name: {name}, branch: {branch}, tag: {tag}}}\n"))
        });
        let mine: String = mine.collect();
        let _ = if mine.is_empty() { writeln!(text, "{kind}: []") } else { write!(text, "{kind}:\n{mine}") };
    }
    text
}

/// Makes the `datacenter.yaml` of a datacenter that runs the class at its tip.
pub fn instance() -> String {
    format!("conf: {CLASS}/latest\n")
}
