//! The process that reads one text and ends.

use std::{
    cell::Cell,
    io::{self, Read as _, Write as _},
    process::ExitCode,
    rc::Rc,
    thread,
};

use hocon_rs::{
    Config, ConfigOptions, Error,
    parser::{
        HoconParser,
        read::{Position, Read, Reference, StrRead},
    },
};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use serde_json::Value;

use crate::settings::{
    fault::{Fault, MAX_BYTES, MAX_DEPTH, shown, too_deep},
    hocon::scan,
};

/// The first argument of a program that reads HOCON: `<program> read-hocon <seconds>`.
pub const ARGUMENT: &str = "read-hocon";

/// Bytes of address space; the library needs about 30 bytes for each byte of text (measured).
const MEMORY: u64 = 512 << 20;

/// Bytes of that for the stack: the library recurses.
const STACK: usize = 64 << 20;

/// Reads HOCON from standard input and answers on standard output, if this process was started for
/// that. Call it first in `main`, before any thread or flag.
pub fn child() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|argument| argument != ARGUMENT) {
        return None;
    }
    let seconds = arguments.next().and_then(|seconds| seconds.to_str()?.parse().ok()).unwrap_or(5);
    Some(match confine(seconds).and_then(|()| answer()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("cannot read HOCON here: {cause}");
            ExitCode::FAILURE
        }
    })
}

/// Bounds this process's memory, time and files, refuses an environment, and ties its life to its
/// parent's.
fn confine(seconds: u64) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let most = |resource, most| {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(io::Error::from)
    };
    most(Resource::As, MEMORY)?;
    most(Resource::Cpu, seconds)?;
    most(Resource::Fsize, 0)?;
    most(Resource::Core, 0)?;
    // The library takes values from the environment, whatever its options are.
    match std::env::vars_os().next() {
        None => Ok(()),
        Some(_) => Err(io::Error::other("it must be started without an environment (env -i)")),
    }
}

fn answer() -> io::Result<()> {
    let mut text = String::new();
    io::stdin().take(MAX_BYTES as u64 + 1).read_to_string(&mut text)?;
    let work = move || -> io::Result<()> {
        let result = scan::check(&text).and_then(|_| read(&text));
        let mut out = io::BufWriter::new(io::stdout().lock());
        serde_json::to_writer(&mut out, &result)?;
        out.flush()
    };
    let thread = thread::Builder::new().stack_size(STACK).spawn(work)?;
    thread.join().map_err(|_| io::Error::other("the library panicked"))?
}

/// Reads a text in this process.
pub(crate) fn read(text: &str) -> Result<Value, Fault> {
    // Without braces at the top the library accepts any end of the text.
    let (text, lines_before) = match scan::check(text)? {
        scan::Top::Braces => (text.to_owned(), 0),
        scan::Top::Open => (format!("{{\n{text}\n}}"), 1),
    };
    let read: Result<Value, Error> = Config::parse_str(&text, Some(options()));
    read.map_err(|error| {
        let last = text.lines().count().saturating_sub(lines_before);
        Fault::new(line_of(&error, &text).saturating_sub(lines_before).min(last), reason(&error))
    })
}

fn options() -> ConfigOptions {
    // One level more than allowed: the scan reports a text that is too deep, with its line.
    ConfigOptions { max_depth: MAX_DEPTH + 1, max_include_depth: 0, ..ConfigOptions::default() }
}

/// The library's error in this project's words.
fn reason(error: &Error) -> String {
    match error {
        Error::Include { .. } | Error::InclusionCycle | Error::InclusionDepthExceeded { .. } => {
            "`include` is not read here; write the values themselves".to_owned()
        }
        Error::SubstitutionNotFound(name) => format!(
            "{} stands for nothing: no key of this file has that name, and the environment is not read; write the value, \
             or ${{?…}} where it may be missing",
            shown(name)
        ),
        Error::SubstitutionCycle { current, .. } => {
            format!("the substitution {} needs itself; write the value", shown(current))
        }
        Error::SubstitutionDepthExceeded { .. } => {
            "keys or substitutions lead into one another too many times; write it flatter".to_owned()
        }
        Error::RecursionDepthExceeded { .. } => too_deep(),
        Error::Eof => "it ends too early".to_owned(),
        Error::UnexpectedToken { expected, found_beginning } => {
            let found = match *found_beginning {
                byte @ b'!'..=b'~' => format!(", but `{}` stands there", char::from(byte)),
                _ => String::new(),
            };
            format!("{expected} is expected here{found}; put text with special characters in quotes")
        }
        error => shown(&error.to_string()),
    }
}

/// The line of an error, which the library does not tell. A text that it cannot parse is parsed
/// once more, watched; for other errors the text is searched.
fn line_of(error: &Error, text: &str) -> usize {
    let containing = |word: &str| text.lines().position(|line| line.contains(word)).map_or(0, |line| line + 1);
    match error {
        Error::Include { .. } => {
            text.lines().position(|line| line.trim_start().starts_with("include")).map_or(0, |line| line + 1)
        }
        Error::SubstitutionNotFound(name) => containing(name),
        Error::SubstitutionCycle { current, .. } if current.starts_with("${") => containing(current),
        Error::SubstitutionCycle { .. } | Error::SubstitutionDepthExceeded { .. } => 0,
        _ => {
            let line = Rc::new(Cell::new(1));
            let watched = Watched { inner: StrRead::new(text), line: line.clone() };
            match HoconParser::with_options(watched, options()).parse() {
                Ok(_) => 0,
                Err(_) => line.get(),
            }
        }
    }
}

/// A reader that tells how far the parser has come.
struct Watched<'a> {
    inner: StrRead<'a>,
    line: Rc<Cell<usize>>,
}

impl<'a> Read<'a> for Watched<'a> {
    fn position(&self) -> Position {
        self.inner.position()
    }

    fn peek_n(&mut self, n: usize) -> hocon_rs::Result<&[u8]> {
        self.inner.peek_n(n)
    }

    fn next(&mut self) -> hocon_rs::Result<u8> {
        let byte = self.inner.next()?;
        self.line.set(self.line.get() + usize::from(byte == b'\n'));
        Ok(byte)
    }

    fn parse_str<'s, F>(
        &'s mut self,
        escape: bool,
        scratch: &'s mut Vec<u8>,
        delimiter: F,
    ) -> hocon_rs::Result<Reference<'a, 's, str>>
    where
        F: Fn(&mut Self) -> hocon_rs::Result<bool>,
    {
        while !delimiter(self)? {
            let byte = self.next()?;
            scratch.push(byte);
            if byte == b'\\' && escape {
                scratch.push(self.next()?);
            }
        }
        std::str::from_utf8(scratch).map_err(|_| Error::InvalidUtf8).map(Reference::Copied)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(text: &str) -> String {
        match scan::check(text).and_then(|_| read(text)) {
            Ok(value) => {
                let mut value = value;
                value.sort_all_objects();
                value.to_string()
            }
            Err(fault) => fault.to_string(),
        }
    }

    #[test]
    fn values_follow_hocon() {
        for (text, want) in [
            ("a = 1\nb : [1, 2\n3]\nc { d = x, e.f = \"y\" }", r#"{"a":1,"b":[1,2,3],"c":{"d":"x","e":{"f":"y"}}}"#),
            ("{\"a\": 1.50, \"b\": [true, null, -0, 1e2]}", r#"{"a":1.5,"b":[true,null,-0.0,100.0]}"#),
            ("a { b = 1 }\na { c = 2 }\na.b = 3", r#"{"a":{"b":3,"c":2}}"#),
            ("a = 1\na = 2 // the last one\n# and no more", r#"{"a":2}"#),
            (
                "a = 18446744073709551615\nb = 0755\nc = yes\nd = 10 s",
                r#"{"a":18446744073709551615,"b":"0755","c":"yes","d":"10 s"}"#,
            ),
            (
                "base = {x: 1, y: 2}\na = ${base} {y: 3}\nb = ${?nothing}\nc = [${base.x}]",
                r#"{"a":{"x":1,"y":3},"base":{"x":1,"y":2},"c":[1]}"#,
            ),
            ("a = [1]\na += 2\na = ${a} [3]", r#"{"a":[1,2,3]}"#),
            ("a = \"\"\"x\n\"y\\\"\"\"", r#"{"a":"x\n\"y\\"}"#),
            ("a = \"\\ud83d\\ude00\\n\"", "{\"a\":\"😀\\n\"}"),
            ("# nothing", "{}"),
            ("\u{feff}a = 1", r#"{"a":1}"#),
        ] {
            assert_eq!(told(text), want, "{text}");
        }
    }

    #[test]
    fn faults_name_their_line() {
        let token = "a valid unquoted string is expected here; put text with special characters in quotes";
        for (text, want) in [
            ("a = 1\nb", "line 2: a valid path expression is expected here; put text with special characters in quotes".to_owned()),
            ("\"just\"", "line 1: a valid path expression is expected here; put text with special characters in quotes".to_owned()),
            ("a = 1\nb = http://x\nc = 2", format!("line 2: {token}")),
            ("{\na = 1\nb = @\n}", format!("line 3: {token}")),
            ("a = 1\nb = ${c}\n", "line 2: ${c} stands for nothing: no key of this file has that name, and the environment is not read; \
              write the value, or ${?…} where it may be missing".to_owned()),
            ("a = 1\ninclude \"/etc/passwd\"", "line 2: `include` is not read here; write the values themselves".to_owned()),
            ("a { include required(file(\"x\")) }", "`include` is not read here; write the values themselves".to_owned()),
            ("a = ${a}", "line 1: the substitution ${a} needs itself; write the value".to_owned()),
            ("{a = 1} x", "line 1: end of file is expected here, but `x` stands there; put text with special characters in quotes".to_owned()),
            ("a = [1] x", "Cannot concatenate different type array and string at a".to_owned()),
        ] {
            assert_eq!(told(text), want, "{text}");
        }
        let chain = (0..100).map(|at| format!("a{at} = ${{a{}}}\n", at + 1)).collect::<Vec<_>>().concat();
        let told = told(&format!("{chain}a100 = 1"));
        assert_eq!(told, "keys or substitutions lead into one another too many times; write it flatter");
    }

    proptest! {
        /// A text that is cut short is refused, or keeps all values before the cut.
        #[test]
        fn no_value_is_lost_at_the_end(cut in 0..60_usize) {
            let text = "a = 1\nb { c = [1, 2], d = x y }\ne = \"f\"\ng = ${a}\nh += 3 # i\n";
            let text = &text[..cut.min(text.len())];
            if let Ok(Value::Object(read)) = scan::check(text).and_then(|_| read(text)) {
                for (key, from) in [("a", 5), ("b", 32), ("e", 40), ("g", 49), ("h", 56)] {
                    prop_assert!(text.len() < from || read.contains_key(key), "{text}: {read:?}");
                }
            }
        }

        #[test]
        fn any_soup_is_read_or_refused(text in "([\\[\\]{}=:,.\"'\\\\#\n/$+ ]|a|b|1|\"\"\"|ä|include |\\$\\{a\\}){0,40}") {
            let _ = told(&text);
        }

        /// JSON is HOCON.
        #[test]
        fn json_says_the_same(keys in prop::collection::hash_map("[a-zA-Z/ä\"\\\\.]{1,4}", prop_oneof![
            any::<i64>().prop_map(Value::from), any::<bool>().prop_map(Value::from), Just(Value::Null), ".{0,6}".prop_map(Value::from),
            prop::collection::vec(any::<u32>(), 0..3).prop_map(Value::from)], 0..6)) {
            let value = Value::Object(keys.into_iter().collect());
            prop_assert_eq!(read(&value.to_string()), Ok(value));
        }
    }
}
