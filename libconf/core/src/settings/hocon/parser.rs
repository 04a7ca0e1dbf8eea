//! Makes a tree of tokens.

use std::borrow::Cow;

use crate::settings::fault::{Fault, MAX_DEPTH, too_deep};
use crate::settings::hocon::{
    beside::{combine, single},
    lexer::{Lexer, Token},
    scalar::scalar,
    tree::{Node, Object, Scalar, Shape, Substitution},
};

/// Reads a whole text.
pub(crate) fn parse(text: &str) -> Result<Object<'_>, Fault> {
    let mut parser = Parser { lexer: Lexer::new(text), path: Vec::new(), levels: 1, definitions: 0, substitutions: 0 };
    parser.skip_blank_lines()?;
    let mut object = Object::default();
    match parser.lexer.peek()? {
        Token::Sign('{') => {
            let line = parser.lexer.place();
            parser.lexer.next()?;
            parser.fields(&mut object, Some(line))?;
            parser.skip_blank_lines()?;
        }
        Token::Sign('[') => return Err(parser.fault("the top level must be an object (a map of keys to values)")),
        _ => parser.fields(&mut object, None)?,
    }
    match parser.lexer.next()? {
        Token::End => Ok(object),
        _ => Err(parser.fault("the object ends before this; take out what follows it")),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The keys that lead to the field at hand, from the top or from the list element that it is
    /// in.
    path: Vec<Cow<'a, str>>,
    /// Levels of objects and lists that are open.
    levels: usize,
    definitions: usize,
    substitutions: usize,
}

impl<'a> Parser<'a> {
    /// Reads the fields of an object up to its brace, or to the end of the text where it has none.
    /// `brace` is the line of the opening brace.
    fn fields(&mut self, object: &mut Object<'a>, brace: Option<usize>) -> Result<(), Fault> {
        loop {
            self.skip_blank_lines()?;
            match (self.lexer.peek()?, brace) {
                (Token::Sign('}'), Some(_)) => {
                    self.lexer.next()?;
                    return Ok(());
                }
                (Token::End, None) => return Ok(()),
                (Token::End, Some(line)) => return Err(Fault::new(line, "the `{` is never closed; write `}`")),
                (Token::Sign('}'), None) => return Err(self.fault("the `}` closes nothing; take it out")),
                (Token::Sign(']'), Some(line)) => {
                    return Err(self.fault(format!("`]` stands where the `{{` of line {line} needs its `}}`")));
                }
                _ => self.field(object)?,
            }
            self.separator('}')?;
        }
    }

    /// Expects a comma, a line break, or the end of the list or object.
    fn separator(&mut self, close: char) -> Result<(), Fault> {
        self.skip_blanks()?;
        let had_newline = *self.lexer.peek()? == Token::Newline;
        self.skip_blank_lines()?;
        match self.lexer.peek()? {
            Token::Sign(',') => {
                self.lexer.next()?;
                Ok(())
            }
            Token::End => Ok(()),
            Token::Sign(sign) if *sign == close => Ok(()),
            _ if had_newline => Ok(()),
            other => {
                let found = describe(other);
                Err(self.found(found, "stands behind a value; write a comma or a line break between them"))
            }
        }
    }

    fn field(&mut self, object: &mut Object<'a>) -> Result<(), Fault> {
        let keys = self.key()?;
        self.skip_blank_lines()?;
        let is_append = match self.lexer.peek()? {
            Token::Sign(':' | '=') => {
                self.lexer.next()?;
                false
            }
            Token::Append => {
                self.lexer.next()?;
                true
            }
            Token::Sign('{') => false,
            other => {
                let found = describe(other);
                // What is taken for a key may be a part of a value of several lines.
                return Err(self.found(found, "stands behind a key; write `=` and a value"));
            }
        };
        let depth = self.path.len();
        self.levels += keys.len() - 1;
        self.path.extend(keys.iter().cloned());
        let definitions = self.value(is_append)?;
        self.path.truncate(depth);
        self.levels -= keys.len() - 1;
        define(object, keys, definitions);
        Ok(())
    }

    /// The path before `=`, `:`, `+=` or `{`.
    fn key(&mut self) -> Result<Vec<Cow<'a, str>>, Fault> {
        if *self.lexer.peek()? == Token::Unquoted("include") {
            return Err(self.fault("`include` is not read here; write the values themselves, or the key in quotes"));
        }
        let path = self.path_until(|token| {
            matches!(token, Token::Sign(':' | '=' | '{') | Token::Append | Token::Newline | Token::End)
        })?;
        if self.levels + path.len() - 1 > MAX_DEPTH {
            return Err(self.fault(too_deep()));
        }
        Ok(path)
    }

    /// A path expression; leaves the token that ends it.
    fn path_until(&mut self, is_end: impl Fn(&Token<'a>) -> bool) -> Result<Vec<Cow<'a, str>>, Fault> {
        self.skip_blanks()?;
        let mut path = Vec::new();
        // The element at hand, and the blanks behind it: they count if more of the path follows.
        let (mut element, mut blanks): (Option<Cow<'a, str>>, &'a str) = (None, "");
        while !is_end(self.lexer.peek()?) {
            match self.lexer.next()? {
                Token::Blanks(text) => {
                    blanks = text;
                    continue;
                }
                Token::Quoted(text) => join(&mut element, blanks, text),
                Token::Unquoted(text) => {
                    let mut parts = text.split('.');
                    let first = parts.next().unwrap_or_default();
                    if !first.is_empty() || !blanks.is_empty() {
                        join(&mut element, blanks, Cow::Borrowed(first));
                    }
                    for part in parts {
                        path.push(element.take().ok_or_else(|| self.empty_element())?);
                        element = (!part.is_empty()).then_some(Cow::Borrowed(part));
                    }
                }
                Token::Substitution(_) => return Err(self.fault("a key holds no substitution; write the key itself")),
                other => {
                    let found = describe(&other);
                    return Err(self.found(found, "has no place in a key; put such a key in quotes"));
                }
            }
            blanks = "";
        }
        path.push(element.ok_or_else(|| self.empty_element())?);
        Ok(path)
    }

    fn empty_element(&self) -> Fault {
        self.fault("a part of the key is empty; write it in quotes (\"\"), or take a dot out")
    }

    /// The value of a field, or an element of a list: one node, or several that are merged one
    /// after the other.
    fn value(&mut self, is_append: bool) -> Result<Vec<Node<'a>>, Fault> {
        self.skip_blank_lines()?;
        self.definitions += 1;
        let definition = self.definitions;
        let line = self.lexer.place();
        let mut pieces: Vec<Node<'a>> = Vec::new();
        loop {
            self.lexer.peek()?;
            let line = self.lexer.place();
            let shape = match self.lexer.peek()? {
                Token::Sign('{') => self.object()?,
                Token::Sign('[') => self.array()?,
                Token::Substitution(_) => self.substitution()?,
                Token::Quoted(_) | Token::Unquoted(_) | Token::Blanks(_) => match self.lexer.next()? {
                    Token::Quoted(text) => Shape::Scalar(Scalar::Text(text)),
                    Token::Unquoted(text) => Shape::Scalar(scalar(text)),
                    Token::Blanks(text) => Shape::Scalar(Scalar::Blanks(text)),
                    _ => break,
                },
                _ => break,
            };
            pieces.push(Node { line, definition, shape });
        }
        while let Some(Node { shape: Shape::Scalar(Scalar::Blanks(_)), .. }) = pieces.last() {
            pieces.pop();
        }
        if pieces.is_empty() {
            let found = describe(self.lexer.peek()?);
            return Err(self.fault(format!("a value is missing before {found}; write one, or null")));
        }
        let value = combine(pieces, line)?;
        Ok(if is_append { self.appended(value, line) } else { value })
    }

    /// `a += b` is `a = ${?a} [b]`.
    fn appended(&mut self, value: Vec<Node<'a>>, line: usize) -> Vec<Node<'a>> {
        let definition = value.first().map_or(0, |node| node.definition);
        let own = self.next_substitution(self.path.clone(), true, true);
        let node = |shape| Node { line, definition, shape };
        let list = Shape::Array(vec![single(value, line)]);
        vec![node(Shape::Concatenation(vec![node(own), node(list)]))]
    }

    fn object(&mut self) -> Result<Shape<'a>, Fault> {
        let line = self.open()?;
        let mut object = Object::default();
        self.fields(&mut object, Some(line))?;
        self.levels -= 1;
        Ok(Shape::Object(object))
    }

    fn array(&mut self) -> Result<Shape<'a>, Fault> {
        let opened = self.open()?;
        // Paths within an element begin there.
        let outer = std::mem::take(&mut self.path);
        let mut elements = Vec::new();
        loop {
            self.skip_blank_lines()?;
            match self.lexer.peek()? {
                Token::Sign(']') => break,
                Token::Sign('}') => {
                    return Err(self.fault(format!("`}}` stands where the `[` of line {opened} needs its `]`")));
                }
                Token::End => return Err(Fault::new(opened, "the `[` is never closed; write `]`")),
                _ => {}
            }
            let line = self.lexer.place();
            let value = self.value(false)?;
            elements.push(single(value, line));
            self.skip_blanks()?;
            if line > opened && matches!(self.lexer.peek()?, Token::Sign('=') | Token::Append) {
                // A list has no keys: this is the field below a list that was not closed.
                return Err(Fault::new(opened, "the `[` is never closed; write `]`"));
            }
            self.separator(']')?;
        }
        self.lexer.next()?;
        self.path = outer;
        self.levels -= 1;
        Ok(Shape::Array(elements))
    }

    /// Takes the bracket that opens a level, and gives its line.
    fn open(&mut self) -> Result<usize, Fault> {
        let line = self.lexer.place();
        self.lexer.next()?;
        self.levels += 1;
        if self.levels > MAX_DEPTH {
            return Err(Fault::new(line, too_deep()));
        }
        Ok(line)
    }

    fn substitution(&mut self) -> Result<Shape<'a>, Fault> {
        let is_optional = self.lexer.next()? == Token::Substitution(true);
        let line = self.lexer.place();
        let path = self.path_until(|token| matches!(token, Token::Sign('}') | Token::Newline | Token::End))?;
        match self.lexer.next()? {
            Token::Sign('}') => Ok(self.next_substitution(path, is_optional, false)),
            _ => Err(Fault::new(line, "the `${` is never closed; write `}` behind the key")),
        }
    }

    fn next_substitution(&mut self, path: Vec<Cow<'a, str>>, is_optional: bool, is_own: bool) -> Shape<'a> {
        self.substitutions += 1;
        let number = self.substitutions;
        Shape::Substitution(Substitution { number, path, is_optional, must_be_object: false, is_own })
    }

    fn skip_blanks(&mut self) -> Result<(), Fault> {
        while matches!(self.lexer.peek()?, Token::Blanks(_)) {
            self.lexer.next()?;
        }
        Ok(())
    }

    fn skip_blank_lines(&mut self) -> Result<(), Fault> {
        while matches!(self.lexer.peek()?, Token::Blanks(_) | Token::Newline) {
            self.lexer.next()?;
        }
        Ok(())
    }

    /// A fault at the token that was looked at last, which stands there and should not.
    fn found(&self, found: &str, reason: &str) -> Fault {
        self.fault(match found {
            TEXT => format!("{found} in column {} {reason}", self.lexer.column()),
            _ => format!("{found} {reason}"),
        })
    }

    /// A fault at the token that was looked at last.
    fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault::new(self.lexer.place(), reason)
    }
}

fn join<'a>(element: &mut Option<Cow<'a, str>>, blanks: &str, text: Cow<'a, str>) {
    match element {
        Some(element) => {
            let element = element.to_mut();
            element.push_str(blanks);
            element.push_str(&text);
        }
        None if blanks.is_empty() => *element = Some(text),
        None => *element = Some(Cow::Owned(format!("{blanks}{text}"))),
    }
}

/// Adds definitions under a path of keys.
fn define<'a>(object: &mut Object<'a>, keys: Vec<Cow<'a, str>>, mut definitions: Vec<Node<'a>>) {
    let (line, definition) = definitions.first().map_or((0, 0), |node| (node.line, node.definition));
    let mut keys = keys.into_iter().rev();
    let last = keys.next();
    let mut key = last.unwrap_or_default();
    for outer in keys {
        let mut inner = Object::default();
        inner.0.insert(key, definitions);
        definitions = vec![Node { line, definition, shape: Shape::Object(inner) }];
        key = outer;
    }
    let known = object.0.entry(key).or_default();
    match <[Node<'a>; 1]>::try_from(definitions) {
        Ok([node]) => add(known, node),
        // Parts of one value stay apart from what was defined before.
        Err(parts) => known.extend(parts),
    }
}

/// Adds a definition. An object is merged at once with an object before it, which is what resolving
/// them would do.
fn add<'a>(definitions: &mut Vec<Node<'a>>, node: Node<'a>) {
    match (definitions.last_mut().map(|last| &mut last.shape), node.shape) {
        (Some(Shape::Object(last)), Shape::Object(object)) => {
            for (key, nodes) in object.0 {
                let inner = last.0.entry(key).or_default();
                nodes.into_iter().for_each(|node| add(inner, node));
            }
        }
        (_, shape) => definitions.push(Node { shape, ..node }),
    }
}

/// What a message calls a piece of text. It is not quoted: it may be a part of a secret.
const TEXT: &str = "text";

/// Names a token without its text.
fn describe(token: &Token<'_>) -> &'static str {
    match token {
        Token::Sign('{') => "`{`",
        Token::Sign('}') => "`}`",
        Token::Sign('[') => "`[`",
        Token::Sign(']') => "`]`",
        Token::Sign(',') => "`,`",
        Token::Sign(':') => "`:`",
        Token::Sign(_) => "`=`",
        Token::Append => "`+=`",
        Token::Substitution(_) => "`${`",
        Token::Newline => "the end of the line",
        Token::Blanks(_) => "a blank",
        Token::Quoted(_) | Token::Unquoted(_) => TEXT,
        Token::End => "the end of the text",
    }
}
