//! Refuses texts that the library accepts and may lose values of: brackets and texts without an
//! end, and a file that is no object.

use crate::settings::fault::{Fault, MAX_DEPTH, too_deep};

/// How the object at the top is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Top {
    /// With braces.
    Braces,
    /// Without braces.
    Open,
}

/// Looks at brackets, texts and comments alone.
pub(crate) fn check(text: &str) -> Result<Top, Fault> {
    let mut scan = Scan { rest: text, line: 1, open: Vec::new(), top: None };
    while let Some(char) = scan.rest.chars().next() {
        scan.step(char)?;
    }
    match scan.open.pop() {
        Some((bracket, line)) => {
            Err(Fault::new(line, format!("the `{bracket}` is never closed; write `{}`", closing(bracket))))
        }
        None => Ok(scan.top.unwrap_or(Top::Open)),
    }
}

struct Scan<'a> {
    rest: &'a str,
    line: usize,
    /// Brackets that are open, each with its line.
    open: Vec<(char, usize)>,
    top: Option<Top>,
}

impl Scan<'_> {
    fn step(&mut self, char: char) -> Result<(), Fault> {
        let comment = char == '#' || self.rest.starts_with("//");
        if comment {
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
            return Ok(());
        }
        if !char.is_whitespace() && char != '\u{feff}' && self.top.is_none() {
            self.top = Some(match char {
                '{' => Top::Braces,
                '[' => {
                    return Err(Fault::new(self.line, "the top level must be an object (a map of keys to values)"));
                }
                _ => Top::Open,
            });
        }
        match char {
            '"' => return self.text(),
            '{' | '[' => {
                self.open.push((char, self.line));
                // The object at the top is a level, with braces or without.
                let levels = self.open.len() + usize::from(self.top == Some(Top::Open));
                if levels > MAX_DEPTH {
                    return Err(Fault::new(self.line, too_deep()));
                }
            }
            '}' | ']' => match self.open.pop() {
                Some((bracket, _)) if closing(bracket) == char => {}
                Some((bracket, line)) => {
                    let reason = format!(
                        "`{char}` stands where the `{bracket}` of line {line} needs its `{}`",
                        closing(bracket)
                    );
                    return Err(Fault::new(self.line, reason));
                }
                None => return Err(Fault::new(self.line, format!("the `{char}` closes nothing; take it out"))),
            },
            _ => {}
        }
        self.skip(char.len_utf8());
        Ok(())
    }

    /// A text in quotes, with one or three on each side.
    fn text(&mut self) -> Result<(), Fault> {
        let endless = |line| Err(Fault::new(line, "the text that begins here has no end; close its quotes"));
        if let Some(inner) = self.rest.strip_prefix("\"\"\"") {
            let Some(end) = inner.find("\"\"\"") else { return endless(self.line) };
            // Of more than three quotes, the last three end it.
            let more = inner[end + 3..].bytes().take_while(|byte| *byte == b'"').count();
            self.skip(3 + end + 3 + more);
            return Ok(());
        }
        let mut escaped = false;
        for (at, char) in self.rest.char_indices().skip(1) {
            match char {
                '\n' => return endless(self.line),
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    self.skip(at + 1);
                    return Ok(());
                }
                _ => {}
            }
        }
        endless(self.line)
    }

    fn skip(&mut self, bytes: usize) {
        let (passed, rest) = self.rest.split_at(bytes);
        self.line += passed.matches('\n').count();
        self.rest = rest;
    }
}

fn closing(bracket: char) -> char {
    if bracket == '{' { '}' } else { ']' }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unclosed_brackets_and_texts_are_named_with_their_line() {
        for (text, want) in [
            ("a = [1, 2", "line 1: the `[` is never closed; write `]`"),
            ("a {\n b = [\n 1\n}\n", "line 4: `}` stands where the `[` of line 2 needs its `]`"),
            ("a = 1 }", "line 1: the `}` closes nothing; take it out"),
            ("a = 1\nb = ${c", "line 2: the `{` is never closed; write `}`"),
            ("a = \"x\nb = 1", "line 1: the text that begins here has no end; close its quotes"),
            ("a = \"x\\\"", "line 1: the text that begins here has no end; close its quotes"),
            ("a = 1\nb = \"\"\"x\n\"\"", "line 2: the text that begins here has no end; close its quotes"),
            ("# c\n [1]", "line 2: the top level must be an object (a map of keys to values)"),
        ] {
            assert_eq!(check(text).unwrap_err().to_string(), want, "{text}");
        }
        assert_eq!(check(&("a = ".to_owned() + &"[".repeat(64))).unwrap_err().reason, too_deep());
        for text in [
            "a = 1 # [",
            "a = 1 // {",
            "a = \"[\" ]x".trim_end_matches(" ]x"),
            "a = \"\"\"[\n{\"\"\"\"",
            "",
            "a = \"\\\\\"",
        ] {
            assert_eq!(check(text), Ok(Top::Open), "{text}");
        }
        assert_eq!(check("// c\n{ a = 1 }"), Ok(Top::Braces));
    }

    proptest! {
        #[test]
        fn any_soup_is_scanned(text in "([\\[\\]{}=:,.\"'\\\\#\n/$ ]|a|\"\"\"|ä){0,40}") {
            let _ = check(&text);
        }
    }
}
