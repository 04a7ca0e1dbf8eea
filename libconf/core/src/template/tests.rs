//! What stays of a template's lines, how values are shown, and where faults are. That Jinja2 does
//! the same is a story.

use std::collections::{BTreeMap, BTreeSet};

use bolero::check;
use minijinja::Error;
use serde_json::{Value, json};

use crate::{
    secret::SecretValue,
    settings::SettingsFault,
    template::{
        engine,
        job::{Answer, Job, LANDING, Made, Question},
        prepared::prepared,
        process,
        stand_in::Passages,
    },
};

/// Renders the template `x.j2`, which may include the file `part`.
fn made(text: &str, settings: Value) -> Result<Made, SettingsFault> {
    let files = [("x.j2".to_owned(), text.to_owned()), ("part".to_owned(), PART.to_owned())].into();
    let variables = [("settings".to_owned(), settings)].into_iter().collect();
    let secrets = [("db".to_owned(), Ok(SecretValue::Text(String::from("Canary").into())))];
    let gone = [("gone".to_owned(), Err("it was not sealed to this host".to_owned()))];
    let job = Job { files, variables, secrets: secrets.into_iter().chain(gone).collect() };
    process::render(job).results.remove("x.j2").unwrap()
}

const PART: &str = "  {% if true %}\n  part\n  {% endif %}\n";

#[track_caller]
fn renders(text: &str, expected: &str) {
    match made(text, json!({})) {
        Ok(made) => assert_eq!(made.text, expected, "{text:?}"),
        Err(fault) => panic!("{text:?}: {fault:?}"),
    }
}

#[test]
fn only_a_line_of_tags_leaves_no_line() {
    renders("listen 80{% if true %} default{% endif %}\nserver_name a;\n", "listen 80 default\nserver_name a;\n");
    renders("a:\n  {% if true %}b{% endif %}: 1\n", "a:\n  b: 1\n");
    renders("a\n  {% if true %}\n  b\n\t{% endif %} \t\nc\n", "a\n  b\nc\n");
    renders("{% if true %} {% if true %}\t{# c #}\n  b{% endif %}\n {% endif %}", "  b\n");
    renders("{# c #}\r\n  {% if true %}\r\nb\r\n{% endif %}\r\n", "b\r\n");
    renders("a\n  {# one\n  two #}  \n  {% set x = [1,\n  2] %} \nb", "a\nb");
    renders("{% set x = 1 %}{{ x }}\n{# c #}{{ x }}\n", "1\n1\n");
    renders("{% include 'part' %}\nb\n  {% include 'part' %}", "  part\nb\n  part\n");
    // What is no blank is content.
    renders("\u{a0}{% if true %}\n\r{% endif %}\n\u{b}{# c #}\n", "\u{a0}\n\r\n\u{b}\n");
    renders("{% set x = '{%' %}\n{% set y = \"%}\\\"%}\" %}\n{{ x }}{{ y }} {# {% #}\n{{ '%}' }}\n", "{%%}\"%} \n%}\n");
}

#[test]
fn signs_decide_where_they_stand() {
    renders("a\n  {%- if true -%}\n  b\n  {%- endif %}\nc\n", "ab\nc\n".replace("\nc", "c").as_str());
    renders("a\n  {%+ if true %}\nb\n{% endif +%}\nc\n", "a\n  b\n\nc\n");
    renders(" {#+ c +#} \nb", "  \nb");
    renders("a {#- c -#} \n b", "ab");
}

#[test]
fn raw_text_stays_byte_for_byte() {
    renders("a\n  {% raw %}\n  {% if %}\n\t{{ x }} {# #}\n  {% endraw %}\nb\n", "a\n  {% if %}\n\t{{ x }} {# #}\nb\n");
    renders("{% raw %} {% endraw %}\n", " \n");
    renders("{% raw %}{% endraw %}\nb", "b");
    renders("a {% raw %}  {%\n{% endraw %} \nb", "a   {%\nb");
    renders("{%- raw -%}\n x \n{%- endraw -%}\n b", "xb");
}

#[test]
fn a_text_without_tags_is_itself() {
    check!().with_iterations(4_000).for_each(|input: &[u8]| {
        // Half of the bytes stand for what could be taken for more than text.
        const LETTERS: [&str; 12] = ["\n", "\r\n", "\r", " ", "\t", "{", "}", "%", "#", "-", "\u{a0}", "ä"];
        let letters = input.chunks(2).map(|pair| match pair {
            [byte, other] if byte % 2 == 0 => LETTERS[usize::from(*other) % LETTERS.len()].to_owned(),
            [byte, ..] => char::from(*byte).to_string(),
            [] => String::new(),
        });
        let text: String = letters.collect();
        if ["{{", "{%", "{#"].iter().all(|begin| !text.contains(begin)) {
            assert_eq!(made(&text, json!({})).unwrap().text, text);
        }
    });
}

#[test]
fn the_engine_reads_the_prepared_source_as_it_would_read_the_authors() {
    const WORDS: [&str; 40] = [
        "{% if a %}",
        "{% endif %}",
        "{%- if a -%}",
        "{%+ endif +%}",
        "{% raw %}",
        "{% endraw %}",
        "{%- raw -%}",
        "{# ",
        " #}",
        "{#-",
        "-#}",
        "{{ a ~ b }}",
        "{{",
        "}}",
        "{%",
        "%}",
        "{%-",
        "-%}",
        "+%}",
        "#}",
        "\n",
        "\r\n",
        " ",
        "\t",
        "a",
        " ~ ",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "'",
        "\"",
        "\\",
        " is ",
        " not ",
        "|string",
        " 1e",
        "ä",
    ];
    check!().with_iterations(4_000).for_each(|input: &[u8]| {
        let source: String = input.iter().map(|byte| WORDS[usize::from(*byte) % WORDS.len()]).collect();
        let edited = prepared(&source).text;
        let lines = |text: &str| text.matches('\n').count();
        assert_eq!(lines(&edited), lines(&source), "{source:?}: {edited:?}");
        let fault = |text: &str| engine::environment(&Passages::default()).template_from_str(text).err();
        let (fault, expected) = (fault(&edited), fault(&source));
        assert_eq!(fault.is_some(), expected.is_some(), "{source:?}: {edited:?}");
        // A template that ends too early is at fault where its last part begins. And of several
        // faults beside a `~` another one may come first.
        let place = |fault: Error| (!fault.to_string().contains("end of")).then(|| fault.line());
        if !source.contains('~') {
            assert_eq!(fault.map(place), expected.map(place), "{source:?}: {edited:?}");
        }
    });
}

#[test]
fn faults_keep_their_lines_and_words() {
    let fault = |text: &str| {
        let SettingsFault { file, line, reason } = made(text, json!({"a": 1})).err().unwrap();
        format!("{file}:{} {reason}", line.unwrap_or_default())
    };
    let lines = "  {% if true %}\n{# one\ntwo #}\n\t{% endif %} \n{% raw %}\n{% endraw %}\n";
    assert_eq!(
        fault(&format!("{lines}{{{{ settings.b }}}}")).split(';').next().unwrap(),
        "x.j2:7 `settings.b` is undefined"
    );
    for (text, words) in [
        ("{% if %}\nx", "x.j2:1 it is no template"),
        ("x\n  {% nothing %}\n", "x.j2:2 it is no template"),
        ("{% if true %}\n{% if true %}\nx", "x.j2:3 it is no template"),
        ("{% if true %}\n{# c\n", "x.j2:3 it is no template"),
        ("{% raw %}\n x\n", "x.j2:3 it is no template"),
        ("  {% if settings.a.b.c %}\n{% endif %}\n", "x.j2:1 "),
    ] {
        let fault = fault(text);
        assert!(fault.starts_with(words), "{text:?}: {fault}");
    }
    // What is quoted are the author's words, not what is made of them.
    let quoted = fault("  {% if true %}\n{{ [1] | abs ~ settings.a }}");
    assert!(quoted.starts_with("x.j2:2 ") && !quoted.contains("string"), "{quoted}");
    let undefined = fault("{{ 'a' ~ settings.b ~ 'c' }}");
    assert!(undefined.starts_with("x.j2:1 `settings.b` is undefined"), "{undefined}");
}

fn settings() -> Value {
    json!({
        "nothing": null, "yes": true, "no": false, "one": 1, "whole": 1.0, "half": 0.5, "large": 1e16, "small": 1e-7,
        "huge": u64::MAX, "low": i64::MIN, "text": "a\"b", "list": [null, true, "x", 1.0], "map": {"b": [], "a": null},
    })
}

#[test]
fn values_are_shown_in_the_notation_of_settings() {
    for (expression, expected) in [
        ("nothing", "null"),
        ("yes", "true"),
        ("no", "false"),
        ("one", "1"),
        ("whole", "1.0"),
        ("half", "0.5"),
        ("large", "1e+16"),
        ("small", "1e-7"),
        ("huge", "18446744073709551615"),
        ("low", "-9223372036854775808"),
        ("text", "a\"b"),
        ("list", r#"[null,true,"x",1.0]"#),
        ("map", r#"{"a":null,"b":[]}"#),
        ("map.b", "[]"),
        ("nothing | string", "null"),
        ("yes ~ ''", "true"),
        ("list | join(',')", "null,true,x,1.0"),
        ("list | join", "nulltruex1.0"),
        ("map | join('+')", "a+b"),
        ("yes | lower", "true"),
        ("yes | upper", "TRUE"),
        ("nothing | title", "Null"),
        ("text | indent(width=2, first=true)", "  a\"b"),
        ("list | replace('null', '-')", r#"[-,true,"x",1.0]"#),
        ("list | tojson", r#"[null, true, "x", 1.0]"#),
        ("list | first", "null"),
        ("nothing | default('x', true)", "x"),
        ("nothing is none", "true"),
        ("yes == true", "true"),
        ("one == 1 and settings.yes", "true"),
        ("map | items | list", r#"[["a",null],["b",[]]]"#),
        ("list | map('string') | list", r#"["null","true","x","1.0"]"#),
    ] {
        let made = made(&format!("{{{{ settings.{expression} }}}}"), settings());
        assert_eq!(made.unwrap().text, expected, "{expression}");
    }
    for (template, expected) in [
        (
            "{{ '%s is %s, %d' | format(settings.nothing, settings.list, settings.yes) }}",
            "None is [None, True, 'x', 1.0], 1",
        ),
        ("{{ '%s is %s, 100%%' | format(settings.nothing, settings.list) }}", r#"null is [null,true,"x",1.0], 100%"#),
        ("{% set x %}{{ settings.yes }}{% endset %}{{ x }}", "true"),
        ("{% macro m(x) %}{{ x }}{% endmacro %}{{ m(settings.nothing) ~ m(true) }}", "nulltrue"),
        ("{{ [settings.map, settings.map] | join('|', attribute='a') }}", "null|null"),
        ("{{ [settings.map, settings.map] | join(d=true, attribute='b') }}", "[]true[]"),
    ] {
        renders_with(template, expected);
    }
}

#[test]
fn operands_of_a_tilde_are_shown_alike() {
    for (expression, expected) in [
        ("true ~ none ~ 1.0", "truenull1.0"),
        ("'a' ~ (true ~ [none]) ~ 'b'", "atrue[null]b"),
        ("2 * 3 ~ true", "6true"),
        ("'x' ~ 2 * 3 ~ 'y'", "x6y"),
        ("-1 ~ true", "-1true"),
        ("'a' ~ -1", "a-1"),
        ("1e-3 ~ 'a'", "0.001a"),
        ("'a' ~ true == 'atrue'", "true"),
        ("not 'a' ~ true", "false"),
        ("'a' ~ true if true ~ '' else none ~ 'c'", "atrue"),
        ("'b' in 'a' ~ 'b'", "true"),
        ("[true ~ 1, none ~ 2]", r#"["true1","null2"]"#),
        ("{'a': true ~ 1}['a' ~ '']", "true1"),
        ("[1, 2, 3][(1 ~ '') | int:] ~ true", "[2,3]true"),
        ("settings.list[1] ~ settings.map['a'] ~ settings.list | length", "truenull4"),
        ("settings.yes is defined ~ 'x'", "truex"),
        ("settings.one is eq 1 ~ 'x'", "truex"),
        ("settings.one is eq -1 ~ 'x'", "falsex"),
        ("settings.one is not none ~ 'x'", "truex"),
        ("'a' 'b' ~ true", "abtrue"),
        ("true ~ 'a' 'b'", "trueab"),
        ("dict(a=true ~ 1, b=2).a", "true1"),
        ("'~' ~ '\\'~' ~ \"~\"", "~'~~"),
        ("settings.list | join(true ~ '') ~ none", "nulltruetruetruextrue1.0null"),
        ("range(3) | list ~ true", "[0,1,2]true"),
        ("7 // 2 ~ 7 % 2 ~ 2 ** 2 ~ true", "314true"),
    ] {
        renders_with(&format!("{{{{ {expression} }}}}"), expected);
    }
    for (template, expected) in [
        ("{% set x = true ~ none %}{{ x }}", "truenull"),
        ("{% if true ~ '' == 'true' %}a{% endif %}", "a"),
        ("{% for x in 'a' ~ true %}{{ x }}.{% endfor %}", "a.t.r.u.e."),
        ("{% for x in [1, none] if x ~ '' == 'null' %}{{ x }}{% endfor %}", "null"),
        ("{% include 'pa' ~ 'rt' ignore missing %}", "  part\n"),
        ("{% with a = true ~ 1, b = none ~ 2 %}{{ a }}{{ b }}{% endwith %}", "true1null2"),
        (
            "{% macro m(a, b=true ~ 1) %}{{ a ~ b }}{% endmacro %}{{ m(none) }}{{ m(*[none ~ 1, 2]) }}",
            "nulltrue1null12",
        ),
        ("{% filter replace(true ~ '', none ~ '') %}true{% endfilter %}", "null"),
        ("{{- true ~ none -}}", "truenull"),
    ] {
        renders_with(template, expected);
    }
}

#[track_caller]
fn renders_with(text: &str, expected: &str) {
    match made(text, settings()) {
        Ok(made) => assert_eq!(made.text, expected, "{text:?}"),
        Err(fault) => panic!("{text:?}: {fault:?}"),
    }
}

#[test]
fn a_secret_that_is_shown_in_a_list_is_read_and_one_that_is_not_here_is_a_fault() {
    let settings = json!({"list": [{"$secret": "db"}, null], "gone": [{"$secret": "gone"}]});
    for expression in ["settings.list", "settings.list ~ ''", "settings.list | join(',')", "secrets.db ~ true"] {
        let made = made(&format!("{{{{ {expression} }}}}"), settings.clone()).unwrap();
        assert_eq!(made.secrets, BTreeSet::from(["db".to_owned()]), "{expression}");
        assert!(made.text.contains("Canary"), "{expression}: {}", made.text);
    }
    for expression in ["settings.gone", "settings.gone ~ ''", "settings", "[secrets.gone]", "settings.gone | string"] {
        let fault = made(&format!("{{{{ {expression} }}}}"), settings.clone()).err().unwrap();
        assert_eq!(fault.reason, "the secret gone: it was not sealed to this host", "{expression}");
    }
    let endless = made("{% set n = namespace() %}{% set n.n = n %}{{ n }}", json!({})).err().unwrap();
    assert!(endless.reason.contains("nested too deeply"), "{endless:?}");
}

/// Renders `x.j2` with a password and a certificate.
fn with_secrets(text: &str, password: &str) -> Result<Made, SettingsFault> {
    let files = [("x.j2".to_owned(), text.to_owned())].into();
    let settings = json!({"db": {"$secret": "pw"}, "list": [1, {"$secret": "pw"}], "plain": "a b"});
    let variables = [("settings".to_owned(), settings)].into_iter().collect();
    let key = "-----BEGIN\nab\n\ncd\n-----END\n".to_owned().into();
    let certificate = SecretValue::Certificate { certificate: "cert".to_owned(), key };
    let secrets = [
        ("pw".to_owned(), Ok(SecretValue::Text(password.to_owned().into()))),
        ("tls".to_owned(), Ok(certificate)),
        ("gone".to_owned(), Err("it was not sealed to this host".to_owned())),
    ];
    process::render(Job { files, variables, secrets: secrets.into() }).results.remove("x.j2").unwrap()
}

#[test]
fn a_secret_passes_through_filters_as_a_text_does() {
    for (template, expected) in [
        ("{{ secrets.pw }}", "p\"ä <&'s"),
        ("a{{ 'x' ~ secrets.pw ~ 'y' }}b", "axp\"ä <&'syb"),
        ("{{ secrets.pw | urlencode }}", "p%22%C3%A4%20%3C%26%27s"),
        ("{{ ('jo:' ~ secrets.pw) | urlencode }}", "jo%3Ap%22%C3%A4%20%3C%26%27s"),
        ("{{ secrets.pw | tojson }}", r#""p\"ä \u003c\u0026\u0027s""#),
        ("{{ settings.db | tojson }}", r#""p\"ä \u003c\u0026\u0027s""#),
        ("{{ settings.list | tojson }}", r#"[1, "p\"ä \u003c\u0026\u0027s"]"#),
        ("{{ settings.list }}", r#"[1,"p\"ä <&'s"]"#),
        ("{{ settings.list | join(';') }}", "1;p\"ä <&'s"),
        ("{{ secrets.pw | e }}", "p&quot;ä &lt;&amp;&#x27;s"),
        ("{{ ('  ' ~ secrets.pw ~ '  ') | trim }}.", "p\"ä <&'s."),
        ("{{ secrets.pw | trim('p') | urlencode | indent(2) }}", "%22%C3%A4%20%3C%26%27s"),
        ("{{ '%s-%s' | format(secrets.pw, 1) }}", "p\"ä <&'s-1"),
        ("{{ 'my PW' | replace('PW', secrets.pw) }}", "my p\"ä <&'s"),
        ("{{ secrets.pw | default('none') }}", "p\"ä <&'s"),
        ("{{ secrets.pw | string | safe }}", "p\"ä <&'s"),
        ("{% set x %}<{{ secrets.pw }}>{% endset %}{{ x | urlencode }}", "%3Cp%22%C3%A4%20%3C%26%27s%3E"),
        ("{% filter indent(2) %}{{ secrets.tls.key }}{% endfilter %}", "-----BEGIN\n  ab\n\n  cd\n  -----END"),
        (
            "k: |\n  {{ secrets.tls.key | indent(width=2, blank=true) }}",
            "k: |\n  -----BEGIN\n  ab\n  \n  cd\n  -----END",
        ),
        ("{{ secrets.tls.certificate }}{{ secrets.tls | tojson }}", ""),
        ("{% if secrets.pw is defined %}yes{% endif %}", "yes"),
    ] {
        let made = with_secrets(template, "p\"ä <&'s").unwrap_or_else(|fault| panic!("{template}: {fault:?}"));
        if expected.is_empty() {
            assert_eq!(made.text, r#"cert{"certificate": "cert", "key": "-----BEGIN\nab\n\ncd\n-----END\n"}"#);
        } else {
            assert_eq!(made.text, expected, "{template}");
        }
        assert!(!made.secrets.is_empty(), "{template}");
    }
}

#[test]
fn what_a_template_does_says_nothing_of_a_secret() {
    for template in [
        "{% if secrets.pw %}x{% endif %}",
        "{{ 'a' if settings.db else 'b' }}",
        "{{ secrets.pw[3] }}",
        "{{ secrets.pw[0:2] }}",
        "{{ secrets.pw.length }}",
        "{{ secrets.pw | length }}",
        "{{ (secrets.pw ~ '') | length }}",
        "{{ secrets.pw | first }}",
        "{{ secrets.pw | list }}",
        "{{ secrets.pw | reverse }}",
        "{{ secrets.pw | upper }}",
        "{{ secrets.pw | replace('a', 'b') }}",
        "{{ secrets.pw | int }}",
        "{{ secrets.pw | split('a') }}",
        "{{ secrets.pw | trim(secrets.pw) }}",
        "{{ {'a': secrets.pw} | urlencode }}",
        "{{ secrets.pw + 'a' }}",
        "{{ secrets.pw < secrets.tls.key }}",
        "{{ secrets.pw == settings.db }}",
        "{% for letter in secrets.pw %}{{ letter }}{% endfor %}",
        "{{ (secrets.pw ~ '')[1:] }}",
        "{% for letter in secrets.pw ~ '' %}{{ letter }}.{% endfor %}",
        "{{ [1, 2][secrets.pw] }}",
        "{{ {'a': 1}[secrets.pw] }}",
        "{{ settings.plain.b[secrets.pw ~ ''] }}",
    ] {
        let faults = ["aaaa", "bbbb", "a much longer one", ""]
            .map(|password| with_secrets(template, password).err().unwrap_or_else(|| panic!("{template} is no fault")));
        assert!(faults.iter().all(|fault| *fault == faults[0]), "{template}: {faults:?}");
        assert!(!faults[0].reason.contains(['\u{f0000}', '\u{f0001}']), "{template}: {faults:?}");
    }
    // What is no fault has the same outcome whatever the secret is.
    for template in [
        "{{ secrets.pw == 'aaaa' }}",
        "{{ 'aaaa' in [secrets.pw] }}",
        "{% if secrets.pw ~ '' == 'aaaa' %}x{% endif %}",
        "{{ 'a' in secrets.pw ~ '' }}",
        "{{ secrets.pw is startingwith('a') }}",
        "{{ [secrets.pw, 'b'] | length }}",
        "{% include secrets.pw %}",
    ] {
        let made = ["aaaa", "bbbb", ""].map(|password| with_secrets(template, password).map(|made| made.text));
        assert!(made.iter().all(|text| *text == made[0]), "{template}: {made:?}");
    }
}

#[test]
fn texts_with_secrets_are_bounded() {
    let long = "x".repeat(64 << 10);
    let loops = "{% for n in range(1000) %}{{ secrets.pw }}{% endfor %}";
    let fault = with_secrets(loops, &long).err().unwrap();
    assert_eq!(fault.reason, "with its secrets it makes more than 8 MiB");
    let doubled = "{% set n = namespace(x=secrets.pw ~ '') %}{% for i in range(40) %}{% set n.x = (n.x ~ n.x) | trim %}\
                   {% endfor %}{{ n.x }}";
    let fault = with_secrets(doubled, &long).err().unwrap();
    assert_eq!(fault.reason, "with its secrets it makes more than 8 MiB");
    let mark = with_secrets("a \u{f0000}Text:pw b", "x").err().unwrap();
    assert!(mark.reason.starts_with("it changes a secret; a secret can be shown"), "{mark:?}");
    // A text that holds a secret is known to.
    assert!(with_secrets("\u{f0000}Text:pw\u{f0001}", "x").is_err());
    assert!(with_secrets("{{ '\u{f0000}Text:pw\u{f0001}' | trim }}", "x").is_err());
    assert_eq!(with_secrets("\u{f0000}Text:pw\u{f0001}{{ secrets.pw }}", "x").unwrap().text, "xx");
    assert!(with_secrets("\u{f0000}Passed:0\u{f0001}", "x").is_err());
}

#[test]
fn what_a_template_reads_is_seen_through_the_lines_that_go() {
    let uses = |text: &str| match process::ask(
        &Question::Uses(BTreeMap::from([("x.j2".to_owned(), text.to_owned())])),
        LANDING.bounds(),
    ) {
        Ok(Answer::Uses(names)) => names.unwrap().into_iter().collect::<Vec<_>>().join(" "),
        _ => panic!("no answer"),
    };
    assert_eq!(uses("  {% if host.name %}\n{{ platform.a ~ 'x' }}\n{% endif %}\n"), "host.name platform.a");
}
