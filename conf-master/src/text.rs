//! How things are written for people: one line, counts, times, short lists.

use std::fmt::Display;

/// Returns one line without control characters, of at most 200 characters: fit for a trailer or a
/// log.
pub(crate) fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(200).collect();
    let line = line.trim();
    if line.is_empty() { "unknown".to_owned() } else { line.to_owned() }
}

/// Writes a number with its noun: `1 host`, `2 hosts`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Writes the first of several: `a`, or `a and 2 more`.
pub(crate) fn first_and_more(first: impl Display, more: usize) -> String {
    if more == 0 { first.to_string() } else { format!("{first} and {more} more") }
}

/// Lists at most `most` items; the last entry of a longer list counts the rest: `2 more`.
pub(crate) fn some_of<T: ToString>(items: impl IntoIterator<Item = T>, most: usize) -> Vec<String> {
    let mut items = items.into_iter();
    let mut listed: Vec<String> = items.by_ref().take(most).map(|item| item.to_string()).collect();
    if let more @ 1.. = items.count() {
        listed.push(format!("{more} more"));
    }
    listed
}

/// Lists all items with commas between them; an empty list is `none`.
pub(crate) fn list_or_none<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

/// Returns the time now, in seconds since 1970.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Writes seconds since 1970 as RFC 3339 in UTC.
pub(crate) fn when(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}
