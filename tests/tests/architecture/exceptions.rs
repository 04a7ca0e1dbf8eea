//! What is known to break the rules, and is put right one by one.

use std::{collections::BTreeSet, fs, path::Path};

use crate::rules::{Finding, Rule};

/// From the workspace's folder. One exception a line: the rule's word, and what [`Finding::key`]
/// says.
pub(crate) const LIST: &str = "tests/tests/architecture/exceptions.txt";

const TOP: &str = "\
# Where the code breaks the rules of tests/tests/architecture today. This list gets shorter, and nothing is added to it.
# What is no longer broken has to be removed; ARCHITECTURE=record cargo test -p tests --test architecture
# writes the list anew (after code has moved to another file or folder).
";

/// The exceptions; none where there is no list.
pub(crate) fn read(list: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(list).unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// Writes what is wrong today as the list.
pub(crate) fn write(list: &Path, found: &[Finding]) {
    let mut text = TOP.to_owned();
    for rule in Rule::ALL {
        let lines: BTreeSet<String> = found.iter().filter(|finding| finding.rule == rule).map(line).collect();
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
    }
    fs::write(list, text).unwrap();
}

fn line(finding: &Finding) -> String {
    format!("{} {}", finding.rule.word(), finding.key)
}

/// What to tell about the findings; nothing where all are exceptions, and each exception is still
/// needed.
pub(crate) fn judge(exceptions: &BTreeSet<String>, found: &[Finding]) -> String {
    let mut parts = Vec::new();
    for rule in Rule::ALL {
        let of_rule = found.iter().filter(|finding| finding.rule == rule);
        let new: Vec<&str> = of_rule
            .filter(|finding| !exceptions.contains(&line(finding)))
            .map(|finding| finding.text.as_str())
            .collect();
        if !new.is_empty() {
            parts.push(format!("{}\n\n{}\n", rule.advice(), indented(&new)));
        }
    }
    let needed: BTreeSet<String> = found.iter().map(line).collect();
    let over: Vec<&str> = exceptions.difference(&needed).map(String::as_str).collect();
    if !over.is_empty() {
        parts.push(format!("These exceptions are no longer needed. Remove them from {LIST}:\n\n{}\n", indented(&over)));
    }
    parts.join("\n")
}

fn indented(texts: &[&str]) -> String {
    let lines = texts.iter().flat_map(|text| text.lines()).map(|line| format!("  {line}"));
    lines.collect::<Vec<_>>().join("\n")
}
