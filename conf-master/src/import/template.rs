//! Makes a template that renders to the very bytes of a file.

use std::{fmt::Write as _, ops::Range};

/// The replacement of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replacement {
    /// Those bytes.
    pub(crate) range: Range<usize>,
    /// The name of their value in templates: `platform.domain`, `secrets.redis_requirepass`.
    pub(crate) expression: String,
}

/// Writes the template. `replacements` are sorted, and none overlaps another.
///
/// Text that would begin a tag is written so that it renders as itself, also where a brace is
/// followed by an expression.
pub(crate) fn template(text: &str, replacements: &[Replacement]) -> String {
    let mut made = String::with_capacity(text.len() + 32 * replacements.len());
    let mut at = 0;
    for one in replacements {
        literal(&mut made, &text[at..one.range.start], true);
        let _ = write!(made, "{{{{ {} }}}}", one.expression);
        at = one.range.end;
    }
    literal(&mut made, &text[at..], false);
    made
}

fn literal(made: &mut String, text: &str, before_expression: bool) {
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let next = letters.peek().copied();
        let begins = matches!(next, Some('{' | '%' | '#')) || (next.is_none() && before_expression);
        if letter == '{' && begins {
            made.push_str("{{ \"{\" }}");
        } else {
            made.push(letter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_render_as_themselves() {
        let text = "a {{ b }} {# {% x {{{y";
        let made =
            template(text, &[Replacement { range: text.len() - 1..text.len(), expression: "platform.y".into() }]);
        let brace = "{{ \"{\" }}";
        let wanted = format!("a {brace}{{ b }}}} {brace}# {brace}% x {brace}{brace}{brace}{{{{ platform.y }}}}");
        assert_eq!(made, wanted);
        assert_eq!(template("plain { } text\r\n", &[]), "plain { } text\r\n");
    }
}
