//! Operands of `~` as texts.
//!
//! The engine makes a text of each operand by itself, and then `true` is `True`. This pass lets the
//! filter `string` do it first: `a ~ b` becomes `(a)|string ~ (b)|string`.

use std::ops::Range;

use crate::template::{
    edits::Edits,
    scan::{Kind, Part, end_of_string},
};

/// Marks the operands of each `~` in tags and expressions.
pub(crate) fn operands_as_texts(source: &str, parts: &[Part], edits: &mut Edits) {
    for part in parts.iter().filter(|part| matches!(part.kind, Kind::Tag | Kind::Expression)) {
        if !source[part.range.clone()].contains('~') {
            continue;
        }
        let inside = part.range.start + 2 + part.opening.length()..part.range.end - 2 - part.closing.length();
        let mut reader = Reader { levels: vec![Level::default()], edits };
        let mut is_first = part.kind == Kind::Tag;
        for token in (Tokens { source, at: inside.start, end: inside.end }) {
            // A tag begins with a word of its own.
            if !std::mem::take(&mut is_first) {
                reader.take(&token, &source[token.range.clone()]);
            }
        }
        reader.close(false);
    }
}

struct Token {
    kind: TokenKind,
    range: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    Word,
    Text,
    Number,
    Open,
    Close,
    Operator,
}

/// Splits the inside of a part as the engine's lexer does.
struct Tokens<'s> {
    source: &'s str,
    at: usize,
    end: usize,
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let rest = &self.source[self.at..self.end];
        let begin = self.at + (rest.len() - rest.trim_start().len());
        let rest = &self.source[begin..self.end];
        let first = rest.chars().next()?;
        let run = |more: fn(char) -> bool| rest.find(|letter| !more(letter)).unwrap_or(rest.len());
        let (kind, length) = match first {
            '"' | '\'' => (TokenKind::Text, end_of_string(self.source.as_bytes(), begin)? - begin),
            '(' | '[' | '{' => (TokenKind::Open, 1),
            ')' | ']' | '}' => (TokenKind::Close, 1),
            '0'..='9' => (TokenKind::Number, number(rest)),
            letter if letter.is_alphabetic() || letter == '_' => {
                (TokenKind::Word, run(|letter| letter.is_alphanumeric() || letter == '_'))
            }
            _ => {
                let is_long = ["//", "**", "==", "!=", ">=", "<="].iter().any(|long| rest.starts_with(long));
                (TokenKind::Operator, if is_long { 2 } else { first.len_utf8() })
            }
        };
        self.at = begin + length;
        Some(Token { kind, range: begin..self.at })
    }
}

/// Returns the length of a number: `1`, `1.5`, `1e-5`, `0x1f`.
fn number(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let is_hex = rest.starts_with("0x") || rest.starts_with("0X");
    let mut length = 1;
    while let Some(byte) = bytes.get(length) {
        let goes_on = match byte {
            b'.' => bytes.get(length + 1).is_some_and(u8::is_ascii_digit),
            b'+' | b'-' => !is_hex && matches!(bytes[length - 1], b'e' | b'E'),
            byte => byte.is_ascii_alphanumeric() || *byte == b'_',
        };
        if !goes_on {
            break;
        }
        length += 1;
    }
    length
}

/// What is read at one depth of brackets.
#[derive(Default)]
struct Level {
    /// The operand that is being read, without what binds less than `~`.
    operand: Option<Range<usize>>,
    /// A `~` stands before it.
    follows: bool,
    /// The operand begins with the `*` of a call's arguments.
    is_unpacked: bool,
    last: Last,
    test: Test,
}

/// The last token.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Last {
    #[default]
    Operator,
    /// A `.` or `|`: a name follows, whatever the word.
    Point,
    /// The end of a value.
    Value,
    /// A text, which another one continues.
    Text,
}

/// Whether the last words were `is` and the name of a test: its argument may follow without
/// brackets.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Test {
    #[default]
    No,
    Is,
    Named,
}

struct Reader<'e> {
    levels: Vec<Level>,
    edits: &'e mut Edits,
}

/// Words that bind less than `~`.
const LESS: [&str; 7] = ["and", "or", "not", "in", "if", "else", "elif"];

impl Reader<'_> {
    fn level(&mut self) -> &mut Level {
        if self.levels.is_empty() {
            // A bracket too many; the engine refuses it.
            self.levels.push(Level::default());
        }
        let last = self.levels.len() - 1;
        &mut self.levels[last]
    }

    fn take(&mut self, token: &Token, word: &str) {
        let level = self.level();
        let (last, test) = (level.last, level.test);
        let is_value = matches!(last, Last::Value | Last::Text);
        match token.kind {
            TokenKind::Open => {
                // Brackets behind a value call it, or look into it.
                if is_value && word == "{" && test != Test::Named {
                    self.close(false);
                }
                self.extend(&token.range, Last::Operator);
                self.levels.push(Level::default());
            }
            TokenKind::Close => {
                self.close(false);
                self.levels.pop();
                self.extend(&token.range, Last::Value);
                self.level().test = Test::No;
            }
            TokenKind::Operator => self.operator(token, word),
            TokenKind::Word if last == Last::Point => self.extend(&token.range, Last::Value),
            TokenKind::Word if word == "is" && is_value => {
                self.extend(&token.range, Last::Operator);
                self.level().test = Test::Is;
            }
            TokenKind::Word if test == Test::Is => {
                self.extend(&token.range, if word == "not" { Last::Operator } else { Last::Value });
                self.level().test = if word == "not" { Test::Is } else { Test::Named };
            }
            TokenKind::Word if LESS.contains(&word) => self.close(false),
            TokenKind::Word | TokenKind::Text | TokenKind::Number => {
                let goes_on = test == Test::Named || token.kind == TokenKind::Text && last == Last::Text;
                // Two values in a row: `include a ~ b ignore missing`.
                if is_value && !goes_on {
                    self.close(false);
                }
                self.extend(&token.range, if token.kind == TokenKind::Text { Last::Text } else { Last::Value });
                self.level().test = Test::No;
            }
        }
    }

    fn operator(&mut self, token: &Token, word: &str) {
        let level = self.level();
        match word {
            "~" => self.close(true),
            "-" if !matches!(level.last, Last::Value | Last::Text) || level.test == Test::Named => {
                self.extend(&token.range, Last::Operator);
            }
            "." | "|" => {
                self.extend(&token.range, Last::Point);
            }
            "*" | "**" if level.operand.is_none() => {
                self.extend(&token.range, Last::Operator);
                self.level().is_unpacked = true;
            }
            "*" | "**" | "/" | "//" | "%" => self.extend(&token.range, Last::Operator),
            _ => self.close(false),
        }
    }

    /// Adds a token to the operand.
    fn extend(&mut self, token: &Range<usize>, last: Last) {
        let level = self.level();
        let begin = level.operand.as_ref().map_or(token.start, |operand| operand.start);
        level.operand = Some(begin..token.end);
        level.last = last;
    }

    /// Ends the operand. `before` tells that a `~` ends it.
    fn close(&mut self, before: bool) {
        let Level { operand, follows, is_unpacked, .. } = std::mem::take(self.level());
        if let Some(Range { start, end }) = operand
            && (before || follows)
            && !is_unpacked
        {
            self.edits.replace(start..start, &["("]);
            self.edits.replace(end..end, &[")|string"]);
        }
        self.level().follows = before;
    }
}
