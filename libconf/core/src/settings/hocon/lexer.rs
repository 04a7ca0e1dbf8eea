//! Cuts a HOCON text into tokens.

use std::{borrow::Cow, mem};

use crate::settings::fault::Fault;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// One of `{ } [ ] , : =`.
    Sign(char),
    /// `+=`
    Append,
    /// `${` or, where true, `${?`.
    Substitution(bool),
    Newline,
    /// Blanks without a line break.
    Blanks(&'a str),
    /// Text in quotes.
    Quoted(Cow<'a, str>),
    /// Text without quotes, numbers and `true` included.
    Unquoted(&'a str),
    End,
}

pub(crate) struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    column: usize,
    peeked: Option<Token<'a>>,
    /// The line and the column of the token that was taken or looked at last.
    at: (usize, usize),
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Lexer { rest: text, line: 1, column: 1, peeked: None, at: (1, 1) }
    }

    /// The line of the token that [`Lexer::peek`] shows or [`Lexer::next`] gave last.
    pub(crate) fn place(&self) -> usize {
        self.at.0
    }

    /// Its column, counted in characters from 1.
    pub(crate) fn column(&self) -> usize {
        self.at.1
    }

    pub(crate) fn peek(&mut self) -> Result<&Token<'a>, Fault> {
        if self.peeked.is_none() {
            self.peeked = Some(self.read()?);
        }
        Ok(self.peeked.get_or_insert(Token::End))
    }

    pub(crate) fn next(&mut self) -> Result<Token<'a>, Fault> {
        match self.peeked.take() {
            Some(token) => Ok(token),
            None => self.read(),
        }
    }

    fn read(&mut self) -> Result<Token<'a>, Fault> {
        self.at = (self.line, self.column);
        if self.rest.starts_with('#') || self.rest.starts_with("//") {
            let length = self.rest.find('\n').unwrap_or(self.rest.len());
            self.take(length);
        }
        let Some(first) = self.rest.chars().next() else { return Ok(Token::End) };
        let token = match first {
            '\n' => Token::Newline,
            '{' | '}' | '[' | ']' | ',' | ':' | '=' => Token::Sign(first),
            '+' if self.rest.starts_with("+=") => Token::Append,
            '$' if self.rest.starts_with("${?") => Token::Substitution(true),
            '$' if self.rest.starts_with("${") => Token::Substitution(false),
            '"' => return self.quoted(),
            blank if is_blank(blank) => {
                return Ok(Token::Blanks(self.take_while(|char| char != '\n' && is_blank(char))));
            }
            _ => return self.unquoted(),
        };
        self.take(match token {
            Token::Substitution(true) => 3,
            Token::Substitution(false) | Token::Append => 2,
            _ => 1,
        });
        Ok(token)
    }

    fn unquoted(&mut self) -> Result<Token<'a>, Fault> {
        let begins_number = self.rest.starts_with(|first: char| first.is_ascii_digit() || first == '-');
        let mut before = '\0';
        let mut end = self.rest.len();
        for (at, char) in self.rest.char_indices() {
            // The exponent of a number may have a sign: 1e+5.
            let in_exponent = char == '+' && begins_number && matches!(before, 'e' | 'E');
            if !in_exponent && (is_blank(char) || is_reserved(char) || self.rest[at..].starts_with("//")) {
                end = at;
                break;
            }
            before = char;
        }
        if end == 0 {
            let char = self.rest.chars().next().unwrap_or_default();
            return Err(Fault::new(
                self.line,
                format!("`{char}` has no place here; put text with such characters in quotes"),
            ));
        }
        Ok(Token::Unquoted(self.take(end)))
    }

    /// Text in one or in three quotes.
    fn quoted(&mut self) -> Result<Token<'a>, Fault> {
        let line = self.line;
        let endless = || Fault::new(line, "the text that begins here has no end; close its quotes");
        if let Some(inner) = self.rest.strip_prefix("\"\"\"") {
            let end = inner.find("\"\"\"").ok_or_else(endless)?;
            // Of more than three quotes the last three end the text.
            let more = inner[end + 3..].bytes().take_while(|byte| *byte == b'"').count();
            self.take(3 + end + more + 3);
            return Ok(Token::Quoted(Cow::Borrowed(&inner[..end + more])));
        }
        let mut is_escaped = false;
        let end = self.rest.char_indices().skip(1).find(|(_, char)| {
            let ends = *char == '\n' || (*char == '"' && !is_escaped);
            is_escaped = *char == '\\' && !is_escaped;
            ends
        });
        let Some((end, '"')) = end else { return Err(endless()) };
        let text = self.take(end + 1);
        let plain = &text[1..end];
        if !plain.contains(|char: char| char == '\\' || char.is_control()) {
            return Ok(Token::Quoted(Cow::Borrowed(plain)));
        }
        // Between one pair of quotes the rules are those of JSON.
        let value = serde_json::from_str(text);
        value.map(|text: String| Token::Quoted(Cow::Owned(text))).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.split(" at line").next().unwrap_or_default();
            Fault::new(line, format!("the text in quotes is not one of JSON: {reason}"))
        })
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        self.take(self.rest.find(|char| !keep(char)).unwrap_or(self.rest.len()))
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = mem::take(&mut self.rest).split_at(bytes);
        let breaks = taken.bytes().filter(|byte| *byte == b'\n').count();
        let last = taken.rsplit('\n').next().unwrap_or_default().chars().count();
        (self.line, self.column) = (self.line + breaks, if breaks > 0 { 1 } else { self.column } + last);
        self.rest = rest;
        taken
    }
}

/// What the specification calls whitespace; `char::is_whitespace` lacks the byte order mark and the
/// four separators.
fn is_blank(char: char) -> bool {
    // The next-line character is whitespace to Rust, and no separator to Unicode.
    (char.is_whitespace() && char != '\u{85}') || matches!(char, '\u{feff}' | '\u{1c}'..='\u{1f}')
}

/// Text without quotes holds none of these.
fn is_reserved(char: char) -> bool {
    "$\"{}[]:=,+#`^?!@*&\\".contains(char)
}
