//! A corpus of texts with the values that the specification gives them; each comment names its
//! section.

use std::{fmt::Write as _, io::Write as _};

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::settings::hocon::{beside::MIXED, read};

/// The value with its keys sorted, or the fault.
fn told(text: &str) -> String {
    match read(text) {
        Ok(mut value) => {
            value.sort_all_objects();
            value.to_string()
        }
        Err(fault) => match fault.line {
            Some(line) => format!("line {line}: {}", fault.reason),
            None => fault.reason,
        },
    }
}

const CORPUS: &[(&str, &str)] = &[
    // Comments
    ("a = 1 # x\n// y\nb = 2 // z", r#"{"a":1,"b":2}"#),
    ("a = \"#x\", b = \"//y\"", r##"{"a":"#x","b":"//y"}"##),
    ("# nothing", "{}"),
    ("a = [1, # one\n2 // two\n]", r#"{"a":[1,2]}"#),
    ("a = b/c", r#"{"a":"b/c"}"#),
    ("a = x//y", r#"{"a":"x"}"#),
    // Omit root braces
    ("{ a = 1 }", r#"{"a":1}"#),
    ("\n { a : 1 } # c\n", r#"{"a":1}"#),
    ("", "{}"),
    // Key-value separator
    ("a : 1, b = 2\nc { d = 3 }\ne\n{ f = 4 }\ng =\n 5", r#"{"a":1,"b":2,"c":{"d":3},"e":{"f":4},"g":5}"#),
    // Commas
    ("a = [1,2,3,]", r#"{"a":[1,2,3]}"#),
    ("a = [1\n2\n3]", r#"{"a":[1,2,3]}"#),
    ("a = [ 1\n\n,\n\n 2 ]", r#"{"a":[1,2]}"#),
    ("a = 1,\nb = 2,", r#"{"a":1,"b":2}"#),
    ("{a = 1, b = 2,}", r#"{"a":1,"b":2}"#),
    // Whitespace
    ("\u{feff}a\u{a0}=\u{2007}1\u{1c}", r#"{"a":1}"#),
    ("a = 1\r\nb = x y\r\n", r#"{"a":1,"b":"x y"}"#),
    // Duplicate keys and object merging
    ("a = 1\na = 2", r#"{"a":2}"#),
    ("foo { a = 42 }\nfoo { b = 43 }", r#"{"foo":{"a":42,"b":43}}"#),
    ("foo { a = 42 }\nfoo = null\nfoo { b = 43 }", r#"{"foo":{"b":43}}"#),
    ("a { b { x = 1, y = 2 } }\na { b { x = 42, z = 100 } }", r#"{"a":{"b":{"x":42,"y":2,"z":100}}}"#),
    ("a { b = 1 }\na = [1]\na.c = 2", r#"{"a":{"c":2}}"#),
    ("a { b = 1 }\na = 5", r#"{"a":5}"#),
    // Unquoted strings
    (
        "a = truefoo, b = footrue, c = 10.0bar, d = bar10.0",
        r#"{"a":"truefoo","b":"footrue","c":"10.0bar","d":"bar10.0"}"#,
    ),
    ("a = true, b = false, c = null, d = yes", r#"{"a":true,"b":false,"c":null,"d":"yes"}"#),
    (
        "a = 10.0.0.1, b = 2024-01-02, c = 1.2.3, d = -, e = -x",
        r#"{"a":"10.0.0.1","b":"2024-01-02","c":"1.2.3","d":"-","e":"-x"}"#,
    ),
    (
        "a = 1.50, b = -0, c = 1e2, d = 1E+2, e = 0.5, f = -1.5e-1",
        r#"{"a":1.5,"b":-0.0,"c":100.0,"d":100.0,"e":0.5,"f":-0.15}"#,
    ),
    ("a = 18446744073709551615, b = -9223372036854775808", r#"{"a":18446744073709551615,"b":-9223372036854775808}"#),
    ("a = 0755, b = 1., c = .5", r#"{"a":"0755","b":"1.","c":".5"}"#),
    ("a = 10 s, b = 5 m", r#"{"a":"10 s","b":"5 m"}"#),
    // Quoted strings are those of JSON
    (r#"a = "\ud83d\ude00\n\t\"\\\/""#, "{\"a\":\"😀\\n\\t\\\"\\\\/\"}"),
    ("a = \"${b}\", b = 1", r#"{"a":"${b}","b":1}"#),
    // Multi-line strings
    ("a = \"\"\"x\n\\n\"y\"\"\"\"", r#"{"a":"x\n\\n\"y\""}"#),
    ("a = \"\"\"\"\"\"", r#"{"a":""}"#),
    ("a = \"\"\"foo\"\"\"\"\"", r#"{"a":"foo\"\""}"#),
    ("a = \"\"\"\n  x\n\"\"\" y", r#"{"a":"\n  x\n y"}"#),
    // String value concatenation
    ("a =  foo  bar baz  ", r#"{"a":"foo  bar baz"}"#),
    ("a = \"foo\" bar \"baz\"", r#"{"a":"foo bar baz"}"#),
    ("a = true foo, b = null x, c = 1.10 x, d = 1e5\"\"", r#"{"a":"true foo","b":"null x","c":"1.10 x","d":"1e5"}"#),
    ("a = 1.10\nb = ${a}x\nc = v${a}", r#"{"a":1.1,"b":"1.10x","c":"v1.10"}"#),
    ("a = [ 1 2 3 4 ]\nb = [ x y, z ]", r#"{"a":["1 2 3 4"],"b":["x y","z"]}"#),
    ("a b c = 1", r#"{"a b c":1}"#),
    // Array and object concatenation
    ("a : { b : 1 } { c : 2 }", r#"{"a":{"b":1,"c":2}}"#),
    ("a : { b : 1 } { b : 2, c { d = 1 } } { c { e = 2 } }", r#"{"a":{"b":2,"c":{"d":1,"e":2}}}"#),
    ("a : [ 1, 2 ] [ 3, 4 ]", r#"{"a":[1,2,3,4]}"#),
    ("a : [ 1, 2 ]\na : ${a} [ 3, 4 ]", r#"{"a":[1,2,3,4]}"#),
    ("path = [ /bin ]\npath = ${path} [ /usr/bin ]", r#"{"path":["/bin","/usr/bin"]}"#),
    (
        "generic = { size = 6 }\neast = ${generic} { name = \"east\" }\nwest = { size = 7, name = west } ${generic}",
        r#"{"east":{"name":"east","size":6},"generic":{"size":6},"west":{"name":"west","size":6}}"#,
    ),
    ("a = [ [ 1, 2 ] [ 3, 4 ] ]\nb = [ [ 1 ]\n [ 2 ] ]", r#"{"a":[[1,2,3,4]],"b":[[1],[2]]}"#),
    ("a = [ {x = 1} {y = 2}, ${b} {z = 3} ]\nb { x = 0 }", r#"{"a":[{"x":1,"y":2},{"x":0,"z":3}],"b":{"x":0}}"#),
    ("a = [1]\nb = ${a} ${a}\nc = ${a}${a}", r#"{"a":[1],"b":[1,1],"c":[1,1]}"#),
    ("x = 1, y = 2\na = ${x} ${y}", r#"{"a":"1 2","x":1,"y":2}"#),
    // Path expressions and paths as keys
    ("foo.bar.\"hello.world\" = 1", r#"{"foo":{"bar":{"hello.world":1}}}"#),
    (
        "10.0foo = 1, foo11.0 = 2, bar\"10.0\" = 3, 1.2.3 = 4",
        r#"{"1":{"2":{"3":4}},"10":{"0foo":1},"bar10.0":3,"foo11":{"0":2}}"#,
    ),
    ("true = 42, 3.14 = 43, null.x = 44", r#"{"3":{"14":43},"null":{"x":44},"true":42}"#),
    ("a.\"\".b = 1, \"\" = 2", r#"{"":2,"a":{"":{"b":1}}}"#),
    ("a . b = 1, c  d .e = 2", r#"{"a ":{" b":1},"c  d ":{"e":2}}"#),
    ("a.x = 42, a.y = 43", r#"{"a":{"x":42,"y":43}}"#),
    ("/a/b = 1, -c = 2, foo include = 3, \"include\" = 4", r#"{"-c":2,"/a/b":1,"foo include":3,"include":4}"#),
    ("a = include", r#"{"a":"include"}"#),
    // Substitutions
    ("a = ${b.c}\nb { c = [1] }", r#"{"a":[1],"b":{"c":[1]}}"#),
    ("a = ${ b . c }\n\"b \" { \" c\" = 1 }", r#"{"a":1,"b ":{" c":1}}"#),
    ("a = ${\"b.c\"}\n\"b.c\" = 1", r#"{"a":1,"b.c":1}"#),
    (
        "key = ${animal.favorite} is my favorite animal\nanimal.favorite = dog",
        r#"{"animal":{"favorite":"dog"},"key":"dog is my favorite animal"}"#,
    ),
    ("a = ${b}, b = 1, b = 2", r#"{"a":2,"b":2}"#),
    ("a = ${b}\nb { x = 1 }\nb { y = 2 }", r#"{"a":{"x":1,"y":2},"b":{"x":1,"y":2}}"#),
    ("a = ${b}, b = null", r#"{"a":null,"b":null}"#),
    ("a = ${?b}, c = 1", r#"{"c":1}"#),
    ("host = localhost\nhost = ${?DB_HOST}", r#"{"host":"localhost"}"#),
    ("a { x = 1 }\na { x = ${?b}, y = ${?c}z }", r#"{"a":{"x":1,"y":"z"}}"#),
    ("a = [1, ${?X}, 2]", r#"{"a":[1,2]}"#),
    ("a = ${?x}${?y}, b = x${?y}, c = ${?x} [1], d = ${?x} {e = 1}", r#"{"b":"x","c":[1],"d":{"e":1}}"#),
    ("a = ${?x}5", r#"{"a":"5"}"#),
    ("a { b = ${c} }\nc = ${d.e}\nd { e = 1 }", r#"{"a":{"b":1},"c":1,"d":{"e":1}}"#),
    ("a = ${b}\na { y = 2 }\nb { x = 1, y = 1 }", r#"{"a":{"x":1,"y":2},"b":{"x":1,"y":1}}"#),
    ("a { y = 2 }\na = ${b}\nb { x = 1, y = 1 }\nc = ${a.x}", r#"{"a":{"x":1,"y":1},"b":{"x":1,"y":1},"c":1}"#),
    ("a { x = 0 }\na = ${b}\nb = 5\nc = ${?a.x}", r#"{"a":5,"b":5}"#),
    // Self-referential substitutions
    ("path = \"a:b:c\"\npath = ${path}\":d\"", r#"{"path":"a:b:c:d"}"#),
    ("foo { a = 1 }\nfoo = ${foo}", r#"{"foo":{"a":1}}"#),
    ("foo = ${?foo}\na = 1", r#"{"a":1}"#),
    ("foo = ${does-not-exist}\nfoo = 42", r#"{"foo":42}"#),
    ("foo = ${foo}\nfoo = 42", r#"{"foo":42}"#),
    ("foo { a { c = 1 } }\nfoo = ${foo.a}\nfoo { a = 2 }", r#"{"foo":{"a":2,"c":1}}"#),
    ("bar { foo = 42, baz = ${bar.foo} }", r#"{"bar":{"baz":42,"foo":42}}"#),
    ("bar { foo = 42, baz = ${bar.foo} }\nbar { foo = 43 }", r#"{"bar":{"baz":43,"foo":43}}"#),
    (
        "bar { a = ${foo.d}, b = 1 }\nbar.b = 3\nfoo { c = ${bar.b}, d = 2 }\nfoo.d = 4",
        r#"{"bar":{"a":4,"b":3},"foo":{"c":3,"d":4}}"#,
    ),
    ("a = ${?a}foo", r#"{"a":"foo"}"#),
    ("a = 1\na = ${a}2\na = ${a}3", r#"{"a":"123"}"#),
    ("a { y = 1 }\na = { y = 2 } ${a}", r#"{"a":{"y":1}}"#),
    ("a { x = 1 }\na = ${a} { y = ${a.x} }", r#"{"a":{"x":1,"y":1}}"#),
    ("a = 1\nb = 2\na = ${b}\nb = ${a}", r#"{"a":1,"b":1}"#),
    ("a { b = ${?a} }\nc = [${?c}, 1]", r#"{"a":{},"c":[1]}"#),
    // The += field separator
    ("a += 1", r#"{"a":[1]}"#),
    ("a = [1]\na += 2\na += [3]\nb.c += x y", r#"{"a":[1,2,[3]],"b":{"c":["x y"]}}"#),
    ("b { c = [0] }\nb { c += { d = 1 } { e = 2 } }", r#"{"b":{"c":[0,{"d":1,"e":2}]}}"#),
    ("a = [ { x = [1], x += 2 } ]", r#"{"a":[{"x":[1,2]}]}"#),
    ("a = [ { x = 1, x = ${?y}, z = ${y} } ]\ny = 3", r#"{"a":[{"x":3,"z":3}],"y":3}"#),
    // Beyond the specification's examples
    ("a { b = 1 }\na.b = ${?c}\na.b = ${?d}", r#"{"a":{"b":1}}"#),
    ("base { l = [1] }\na = ${base}\na.l = ${a.l} [2]", r#"{"a":{"l":[1,2]},"base":{"l":[1]}}"#),
    ("base { l = [1] }\na = ${base} { l += 2 }", r#"{"a":{"l":[1,2]},"base":{"l":[1]}}"#),
];

const REFUSED: &[(&str, &str)] = &[
    ("a = [1,2,3,,]", "line 1: a value is missing before `,`; write one, or null"),
    ("a = [,1]", "line 1: a value is missing before `,`; write one, or null"),
    ("a = [1,,2]", "line 1: a value is missing before `,`; write one, or null"),
    ("a = 1,,\nb = 2", "line 1: `,` has no place in a key; put such a key in quotes"),
    (",a = 1", "line 1: `,` has no place in a key; put such a key in quotes"),
    ("a = 1 }", "line 1: the `}` closes nothing; take it out"),
    ("a = 1\n}", "line 2: the `}` closes nothing; take it out"),
    ("{a = 1", "line 1: the `{` is never closed; write `}`"),
    ("{a = 1} x", "line 1: the object ends before this; take out what follows it"),
    ("[1]", "line 1: the top level must be an object (a map of keys to values)"),
    ("a = [1\n", "line 1: the `[` is never closed; write `]`"),
    ("a = {\nb = [1\n}", "line 3: `}` stands where the `[` of line 2 needs its `]`"),
    ("a = [1, 2\nb = 3\n", "line 1: the `[` is never closed; write `]`"),
    ("base { n = x }\nm = ${base} { p = 3 }\nm.n += y", MIXED),
    ("a = {\nb = 1\n]", "line 3: `]` stands where the `{` of line 1 needs its `}`"),
    ("a = \"x\nb = 1", "line 1: the text that begins here has no end; close its quotes"),
    ("a = 1\nb = \"\"\"x\n\"\"", "line 2: the text that begins here has no end; close its quotes"),
    (
        "a = \"x\ty\"",
        "line 1: the text in quotes is not one of JSON: control character (\\u0000-\\u001F) found while parsing a string",
    ),
    ("a = \"\\q\"", "line 1: the text in quotes is not one of JSON: invalid escape"),
    ("a = 1\nb", "line 2: the end of the text stands behind a key; write `=` and a value"),
    ("a = 1\nb = \n", "line 3: a value is missing before the end of the text; write one, or null"),
    ("{ a : y b : z }", "line 1: `:` stands behind a value; write a comma or a line break between them"),
    ("a = http://x", "line 1: `:` stands behind a value; write a comma or a line break between them"),
    ("a = 1\nb = @\n", "line 2: `@` has no place here; put text with such characters in quotes"),
    ("a = 1 + 2", "line 1: `+` has no place here; put text with such characters in quotes"),
    ("a..b = 1", "line 1: a part of the key is empty; write it in quotes (\"\"), or take a dot out"),
    (".a = 1", "line 1: a part of the key is empty; write it in quotes (\"\"), or take a dot out"),
    ("a. = 1", "line 1: a part of the key is empty; write it in quotes (\"\"), or take a dot out"),
    ("a = ${}", "line 1: a part of the key is empty; write it in quotes (\"\"), or take a dot out"),
    ("a${b} = 1", "line 1: a key holds no substitution; write the key itself"),
    ("[1] = 1", "line 1: the top level must be an object (a map of keys to values)"),
    ("x = 1\n[a] = 1", "line 2: `[` has no place in a key; put such a key in quotes"),
    ("a = ${b", "line 1: the `${` is never closed; write `}` behind the key"),
    ("a = ${ ?b}", "line 1: `?` has no place here; put text with such characters in quotes"),
    ("a = ${b${c}}", "line 1: a key holds no substitution; write the key itself"),
    ("a = [1] x", MIXED),
    ("a = {b = 1} [1]", MIXED),
    ("b = 1\na = ${b} [1]", MIXED),
    ("b = 1\na = ${b} {c = 2}", MIXED),
    ("b = [1]\na = x${b}", MIXED),
    ("b = [1]\na = ${b}\" \"${b}", MIXED),
    ("a = 1\na += 2", MIXED),
    ("a = 12345678901234567890123", "line 1: the number has more than 64 bits; write it in quotes"),
    ("x = 1\na = 1e999", "line 2: the number is beyond what a number can hold; write it in quotes"),
    (
        "a = 1\ninclude \"/etc/passwd\"",
        "line 2: `include` is not read here; write the values themselves, or the key in quotes",
    ),
    (
        "a { include required(file(\"x\")) }",
        "line 1: `include` is not read here; write the values themselves, or the key in quotes",
    ),
    ("a = 1\nb = ${c}\n", "line 2: ${c} stands for nothing"),
    ("foo = ${foo}", "line 1: ${foo} stands for nothing"),
    ("foo = ${foo}\nfoo { a = 1 }", "line 1: ${foo} stands for nothing"),
    ("bar = ${foo}\nfoo = ${bar}", "stands for nothing"),
    ("a = ${b}\nb = ${c}\nc = ${a}", "stands for nothing"),
    ("a { b = ${a} }", "line 1: the substitution ${a} needs itself; write the value"),
    ("a = [${a}]", "line 1: the substitution ${a} needs itself; write the value"),
    ("a = [ { x = ${a} } ]", "line 1: the substitution ${a} needs itself; write the value"),
    ("a = ${HOME}", "the environment is not read"),
];

#[test]
fn the_corpus() {
    let mut different = Vec::new();
    for (text, want) in CORPUS {
        let told = told(text);
        if told != *want {
            different.push(format!("{text}\n  told {told}\n  want {want}"));
        }
    }
    for (text, want) in REFUSED {
        let told = told(text);
        if !told.starts_with("line ") || !told.contains(want) {
            different.push(format!("{text}\n  told {told}\n  want {want}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    // The harness would keep what `println!` prints.
    let counts =
        format!("corpus of HOCON: {} texts read, {} refused, 0 silent differences", CORPUS.len(), REFUSED.len());
    writeln!(std::io::stderr(), "{counts}").expect("standard error is open");
}

#[test]
fn costs_are_bounded() {
    const TOO_MUCH: &str = "it takes too much memory or time";
    let mut doubling = "x0 = [1, 1]\n".to_owned();
    let mut listing = doubling.clone();
    for at in 1..40 {
        let below = at - 1;
        let _ = writeln!(doubling, "x{at} = ${{x{below}}} ${{x{below}}}");
        let _ = writeln!(listing, "x{at} = [${{x{below}}}, ${{x{below}}}]");
    }
    let mut wide = format!("a = \"{}\"\n", "x".repeat(100_000));
    for at in 0..600 {
        let _ = writeln!(wide, "b{at} = ${{a}}");
    }
    for text in [doubling, listing, wide] {
        assert!(told(&text).contains(TOO_MUCH), "{:.60}", told(&text));
    }
    for text in [
        format!("a = {}", "[".repeat(10_000)),
        format!("{} = 1", vec!["a"; 65].join(".")),
        format!("{} = 1", vec!["a"; 300_000].join(".")),
        "a = {b ".repeat(10_000),
    ] {
        assert!(told(&text).contains("nested deeper"), "{:.60}", told(&text));
    }
    let chain = (0..100_000).fold(String::new(), |text, at| text + &format!("a{at} = ${{a{}}}\n", at + 1));
    assert!(told(&format!("{chain}a100000 = 1")).contains("lead into one another too many times"));
    // Each step is a chain of objects, with the next step at its end.
    let deep = vec!["k"; 60].join(".");
    let steps = (0..2_000).fold(String::new(), |text, at| text + &format!("s{at}.{deep} = ${{s{}}}\n", at + 1));
    assert!(told(&format!("{steps}s2000 = 1")).contains("lead into one another too many times"));
    // In the order in which they are written each needs the one before, which is known.
    let mut forward = "a0 = 1\n".to_owned();
    (1..10_000).for_each(|at| writeln!(forward, "a{at} = ${{a{}}}", at - 1).expect("text grows"));
    assert!(told(&forward).contains("\"a9999\":1"));
    let properties = (0..100_000).fold(String::new(), |text, at| text + &format!("a.b.k{at} = {at}\n"));
    assert!(told(&properties).contains("\"k99999\":99999"));
    let replaced = (0..100_000).fold(String::new(), |text, _| text + "a = ${?b}\n");
    assert_eq!(told(&replaced), "{}");
}

proptest! {
    /// A text that is cut short is refused, or says what it said so far: it never loses what stands
    /// before.
    #[test]
    fn no_value_is_lost_at_the_end(cut in 0..60_usize) {
        let text = "a = 1\nb { c = [1, 2], d = x y }\ne = \"f\"\ng = ${a}\nh += 3 # i\n";
        let text = &text[..cut.min(text.len())];
        if let Ok(Value::Object(read)) = read(text) {
            for (key, from) in [("a", 5), ("b", 32), ("e", 40), ("g", 49), ("h", 56)] {
                prop_assert!(text.len() < from || read.contains_key(key), "{text}: {read:?}");
            }
        }
    }

    #[test]
    fn any_soup_is_read_or_refused(text in "([\\[\\]{}=:,.\"'\\\\#\n/$+ ]|a|b|1|\"\"\"|ä|include |\\$\\{a\\}|\\$\\{\\?b\\}|\\+=){0,40}") {
        let _ = read(&text);
    }

    /// JSON is HOCON.
    #[test]
    fn json_says_the_same(keys in prop::collection::hash_map("[a-zA-Z/ä\"\\\\.]{1,4}", prop_oneof![
        any::<i64>().prop_map(Value::from), any::<bool>().prop_map(Value::from), Just(Value::Null), ".{0,6}".prop_map(Value::from),
        any::<f64>().prop_filter_map("JSON has no such number", |number| serde_json::Number::from_f64(number).map(Value::Number)),
        prop::collection::vec(any::<u32>(), 0..3).prop_map(|list| json!({ "list": list }))], 0..6)) {
        let value = Value::Object(keys.into_iter().collect());
        prop_assert_eq!(read(&value.to_string()), Ok(value));
    }
}
