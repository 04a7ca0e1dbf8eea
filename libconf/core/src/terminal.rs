//! What commands print: lines, tables, and whether in colours.
//!
//! Always true: a reader that has gone (`| head`) ends nothing and is no error. What others wrote
//! (names, descriptions, reports) moves no cursor, hides nothing and turns no text around.

use std::{
    borrow::Cow,
    fmt::{self, Display},
    io::{self, IsTerminal as _, Write as _},
};

use comfy_table::{ContentArrangement, presets::NOTHING};
use unicode_general_category::{GeneralCategory, get_general_category};

/// A terminal that says to be narrower has told no width: some consoles and containers say 0.
const NARROWEST: u16 = 20;

/// True for what a terminal acts on instead of showing it, for characters that show nothing, and
/// for those that turn the direction of text. Source: Unicode, general categories Cc, Cf, Zl, Zp.
pub fn is_unprintable(letter: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    !matches!(letter, ' '..='~')
        && matches!(get_general_category(letter), Control | Format | LineSeparator | ParagraphSeparator)
}

/// The text with its unprintable characters escaped, but for line breaks and tabs.
pub fn visible(text: &str) -> Cow<'_, str> {
    let is_escaped = |letter: char| !matches!(letter, '\n' | '\t') && is_unprintable(letter);
    if !text.contains(is_escaped) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if is_escaped(letter) { shown.extend(letter.escape_unicode()) } else { shown.push(letter) }
    }
    shown.into()
}

/// Prints a text on standard output, and a newline unless it ends with one. On a terminal
/// unprintable characters are escaped; a file or a program gets the text as it is. An error is one
/// of a full disk, for example.
pub fn print(text: impl Display) -> io::Result<()> {
    let text = text.to_string();
    let text = if io::stdout().is_terminal() { visible(&text) } else { text.into() };
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let mut out = io::stdout().lock();
    match write!(out, "{text}{end}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Prints a remark on standard error, which may be closed, with unprintable characters escaped.
pub fn note(words: impl Display) {
    let mut line = words.to_string();
    line.push('\n');
    // In one piece: whoever reads it is woken once.
    let _ = io::stderr().write_all(visible(&line).as_bytes());
}

/// Whether to write colours to a stream: to a terminal that has them, unless the user says
/// `NO_COLOR`. Source: <https://no-color.org>.
pub fn in_colours(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    is_terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// A table without borders, for people: unprintable characters are escaped. Its lines have no
/// blanks at their end; on a terminal long cells are wrapped.
#[derive(Debug)]
pub struct Table(comfy_table::Table);

impl Table {
    /// Makes a table without a header.
    pub fn new() -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING);
        if table.width().is_some_and(|width| width >= NARROWEST) {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        Table(table)
    }

    /// Makes a table with a header.
    pub fn with_header<const N: usize>(header: [&str; N]) -> Self {
        let mut table = Table::new();
        table.0.set_header(header);
        table
    }

    /// Adds a row.
    pub fn add_row<T: Display>(&mut self, row: impl IntoIterator<Item = T>) {
        self.0.add_row(row.into_iter().map(|cell| visible(&cell.to_string()).into_owned()));
    }

    /// Tells whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Table {
    fn default() -> Self {
        Table::new()
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_table_end_with_their_last_word() {
        let mut table = Table::with_header(["NAME", "WHAT"]);
        table.add_row(["a", "short"]);
        table.add_row(["longer", "a much longer text"]);
        table.add_row(["b", ""]);
        assert_eq!(table.to_string(), " NAME    WHAT\n a       short\n longer  a much longer text\n b");
    }

    #[test]
    fn nothing_that_a_terminal_acts_on_is_shown_as_it_is() {
        for (text, shown) in [
            ("\u{1b}[2Jgone", "\\u{1b}[2Jgone"),
            ("a\rb\u{7}\u{9b}1m", "a\\u{d}b\\u{7}\\u{9b}1m"),
            ("a\u{202e}b\u{2066}\u{200b}\u{e0041}", "a\\u{202e}b\\u{2066}\\u{200b}\\u{e0041}"),
            ("a\u{2028}b\u{feff}", "a\\u{2028}b\\u{feff}"),
            ("one\n\ttwo, drei: größer 東京 é 🦀", "one\n\ttwo, drei: größer 東京 é 🦀"),
        ] {
            assert_eq!(visible(text), shown);
        }
        let mut table = Table::with_header(["NAME"]);
        table.add_row(["a\u{1b}]0;x"]);
        assert_eq!(table.to_string(), " NAME\n a\\u{1b}]0;x");
    }

    #[test]
    fn colours_are_for_terminals_that_have_them_and_users_who_want_them() {
        let check = |is_terminal, set: &[(&str, &str)]| {
            in_colours(is_terminal, |name| {
                set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(check(true, &[("TERM", "xterm")]));
        assert!(check(true, &[("TERM", "xterm"), ("NO_COLOR", "")]));
        assert!(!check(false, &[("TERM", "xterm")]));
        assert!(!check(true, &[("TERM", "xterm"), ("NO_COLOR", "1")]));
        assert!(!check(true, &[("TERM", "dumb")]));
    }
}
