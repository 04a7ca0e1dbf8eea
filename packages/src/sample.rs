//! Sample configuration: what a person must think of first, then every other setting of the daemon
//! with its description and its default.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, Command};

/// The longest line of a description.
const WIDTH: usize = 100;

/// Puts every setting of `daemon` that `head` does not name below `head`, each as a comment.
pub(crate) fn write(daemon: &Command, head: &str) -> String {
    let mut text = head.trim_end().to_owned();
    text.push_str("\n\n# Everything else, with its default or the form of its value. Take the `#` away to set it.\n");
    let mut parts: BTreeMap<&str, String> = BTreeMap::new();
    for argument in daemon.get_arguments() {
        if let Some(key) = key(argument).filter(|key| !names(head, key)) {
            let heading = argument.get_help_heading().unwrap_or_default();
            parts.entry(heading).or_default().push_str(&entry(argument, key));
        }
    }
    for (heading, entries) in parts {
        if !heading.is_empty() {
            text.extend(["\n# == ", heading, "\n"]);
        }
        text.push_str(&entries);
    }
    text
}

/// The key of the file for a flag, if it has one.
fn key(argument: &Arg) -> Option<&str> {
    let long = argument.get_long().filter(|_| !argument.is_hide_set())?;
    (!matches!(long, "help" | "version" | "config")).then_some(long)
}

/// Tells whether the file sets this key, or shows it as a comment.
fn names(file: &str, key: &str) -> bool {
    file.lines().any(|line| {
        let line = line.strip_prefix('#').unwrap_or(line);
        line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':'))
    })
}

fn entry(argument: &Arg, key: &str) -> String {
    let help = argument.get_long_help().or_else(|| argument.get_help()).map(ToString::to_string).unwrap_or_default();
    // Clap takes the last point of a help text away.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ") + ".";
    format!("\n{}#{key}: {}\n", comment(&help), value(argument))
}

/// The default, or what stands for a value, in the form that YAML reads.
fn value(argument: &Arg) -> String {
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        return "false".to_owned();
    }
    if let [default] = argument.get_default_values() {
        return quoted(&default.to_string_lossy());
    }
    let names = argument.get_value_names().unwrap_or_default();
    let form = quoted(names.first().map_or("VALUE", |name| name.as_str()));
    if matches!(argument.get_action(), ArgAction::Append) { format!("[{form}]") } else { form }
}

/// Quotes what YAML would not read as it stands.
fn quoted(value: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_./".contains(char);
    let is_plain = value.chars().all(is_plain) && !value.starts_with('-') && !value.is_empty();
    if is_plain { value.to_owned() } else { format!("'{}'", value.replace('\'', "''")) }
}

/// Breaks words into lines of a comment.
fn comment(words: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in words.split(' ') {
        let line = lines.last_mut().filter(|line| line.len() + 1 + word.len() <= WIDTH);
        match line {
            Some(line) => line.extend([" ", word]),
            None => lines.push(format!("# {word}")),
        }
    }
    lines.join("\n") + "\n"
}
