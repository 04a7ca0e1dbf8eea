//! Values as texts. A template shows a value as the settings' own notation does: `null`, `true`,
//! `1.5`, `["a"]`. The engine by itself shows values as Python does.

use minijinja::{
    Environment, Error, ErrorKind, Output, State, Value, escape_formatter, filters,
    value::{Kwargs, Rest, ValueKind, ValueOrKwargs},
};

use crate::template::{
    stand_in::{FILTERS, Passages, Passed, QUOTED, holds_one, passes},
    watched::Opaque,
};

/// The deepest nesting of a value that is shown; settings are never so deep.
const DEEPEST: usize = 128;

/// Has every value shown in the settings' notation. Texts with stand-ins pass through the filters
/// that do so, and `passages` notes it; other filters that look into a text refuse them.
pub(crate) fn show_as_settings(environment: &mut Environment<'_>, passages: &Passages) {
    let noted = passages.clone();
    environment.set_formatter(move |output: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value| {
        escape_formatter(output, state, &as_text(value, &noted)?)
    });
    let noted = passages.clone();
    environment.add_filter("string", move |state: &State<'_, '_>, value: &Value| {
        // An undefined value is refused as everywhere.
        filters::string(state, &as_text(value, &noted)?)
    });
    let noted = passages.clone();
    environment.add_filter(
        "join",
        move |state: &mut State<'_, '_>, value: &Value, joiner: Option<Value>, of: Option<Value>, more: Kwargs| {
            join(state, value, joiner, of, more, &noted)
        },
    );
    let noted = passages.clone();
    environment.add_filter(
        "format",
        move |state: &mut State<'_, '_>, words: &Value, arguments: Rest<ValueOrKwargs>| {
            format_filter(state, words, arguments, &noted)
        },
    );
    for (name, first, filter) in [
        ("lower", First::Text, Value::from_function(filters::lower)),
        ("upper", First::Text, Value::from_function(filters::upper)),
        ("title", First::Text, Value::from_function(filters::title)),
        ("capitalize", First::Text, Value::from_function(filters::capitalize)),
        ("trim", First::Text, Value::from_function(filters::trim)),
        ("replace", First::Text, Value::from_function(filters::replace)),
        ("indent", First::Text, Value::from_function(filters::indent)),
        ("split", First::Text, Value::from_function(filters::split)),
        ("lines", First::Text, Value::from_function(filters::lines)),
        ("safe", First::Text, Value::from_function(filters::safe)),
        ("escape", First::Text, Value::from_function(filters::escape)),
        ("e", First::Text, Value::from_function(filters::escape)),
        ("urlencode", First::Any, Value::from_function(filters::urlencode)),
        ("length", First::Any, Value::from_function(filters::length)),
        ("count", First::Any, Value::from_function(filters::length)),
        ("reverse", First::Any, Value::from_function(filters::reverse)),
        ("first", First::Any, Value::from_function(filters::first)),
        ("last", First::Any, Value::from_function(filters::last)),
        ("list", First::Any, Value::from_function(filters::list)),
        ("int", First::Any, Value::from_function(filters::int)),
        ("float", First::Any, Value::from_function(filters::float)),
        ("bool", First::Any, Value::from_function(filters::bool)),
        ("pprint", First::Any, Value::from_function(filters::pprint)),
    ] {
        let noted = passages.clone();
        environment.add_filter(name, move |state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>| {
            let mut arguments: Vec<Value> = arguments.0.into_iter().map(Value::from).collect();
            if let Some(value) = arguments.first_mut()
                && (first == First::Text || Opaque::text(value).is_some())
            {
                *value = as_text(value, &noted)?;
            }
            match hides(name, &arguments) {
                false => filter.call(state, &arguments),
                true if name == "safe" => Ok(arguments.swap_remove(0)),
                true => Ok(Value::from(noted.add(passed(name, arguments)?))),
            }
        });
    }
    let noted = passages.clone();
    environment.add_filter("tojson", move |value: &Value, indent: Option<Value>, arguments: Kwargs| {
        let made = filters::tojson(value, indent, arguments)?;
        match made.as_str().filter(|made| holds_one(made)) {
            Some(text) => Ok(Value::from_safe_string(noted.each("tojson", text))),
            None => Ok(made),
        }
    });
}

/// What a filter makes of its first argument.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Text,
    Any,
}

/// True when a filter's first argument has a stand-in in it.
fn hides(filter: &str, arguments: &[Value]) -> bool {
    arguments.first().is_some_and(|first| match first.kind() {
        // It would encode the stand-ins.
        ValueKind::Map => filter == "urlencode" && holds_one(&first.to_string()),
        _ => first.as_str().is_some_and(holds_one),
    })
}

/// A text with stand-ins that passes through a filter; other filters refuse it.
fn passed(filter: &str, arguments: Vec<Value>) -> Result<Passed, Error> {
    let refused = || Error::new(ErrorKind::InvalidOperation, format!("`{filter}` looks into a secret; {}", passes()));
    let json = |value: &Value| {
        let value = serde_json::to_value(value).ok().filter(|value| !holds_one(&value.to_string()));
        value.ok_or_else(refused)
    };
    let mut all = arguments.into_iter();
    let text = all.next().as_ref().and_then(Value::as_str).map(str::to_owned);
    let Some(text) = text.filter(|_| FILTERS.contains(&filter)) else { return Err(refused()) };
    let mut passed = Passed { filter: filter.to_owned(), text, ..Passed::default() };
    for argument in all {
        if argument.is_kwargs() {
            let named = Kwargs::try_from(argument)?;
            for name in named.args() {
                passed.named.insert(name.to_owned(), json(&named.get::<Value>(name)?)?);
            }
        } else {
            passed.arguments.push(json(&argument)?);
        }
    }
    Ok(passed)
}

#[expect(clippy::needless_pass_by_value, reason = "the engine passes arguments by value")]
fn join(
    state: &mut State<'_, '_>,
    value: &Value,
    joiner: Option<Value>,
    attribute: Option<Value>,
    arguments: Kwargs,
    passages: &Passages,
) -> Result<Value, Error> {
    let joiner = joiner.map_or_else(|| arguments.get::<Option<Value>>("d"), |joiner| Ok(Some(joiner)))?;
    let attribute = attribute.map_or_else(|| arguments.get::<Option<Value>>("attribute"), |one| Ok(Some(one)))?;
    arguments.assert_all_used()?;
    let value = match attribute {
        Some(attribute) => {
            let attribute = Value::from(Kwargs::from_iter([("attribute", attribute)]));
            state.apply_filter("map", &[value.clone(), attribute])?
        }
        None => value.clone(),
    };
    let joiner = joiner.map(|joiner| as_text(&joiner, passages)).transpose()?;
    let items: Value = match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            value.try_iter()?.map(|item| as_text(&item, passages)).collect::<Result<Vec<Value>, Error>>()?.into()
        }
        _ => value,
    };
    let join = Value::from_function(filters::join);
    join.call(state, &[vec![items], joiner.into_iter().collect()].concat())
}

/// The filter `format`. Only the conversion `%s` makes texts of values.
fn format_filter(
    state: &mut State<'_, '_>,
    words: &Value,
    arguments: Rest<ValueOrKwargs>,
    passages: &Passages,
) -> Result<Value, Error> {
    let only_texts = words.as_str().is_some_and(|words| {
        let mut conversions = words.replace("%%", "");
        conversions.retain(|letter| letter == '%' || letter.is_ascii_alphabetic());
        conversions.split('%').skip(1).all(|conversion| conversion.starts_with('s'))
    });
    let mut all = vec![words.clone()];
    for argument in arguments.0.into_iter().map(Value::from) {
        let is_text = only_texts && !argument.is_kwargs();
        all.push(if is_text || Opaque::text(&argument).is_some() { as_text(&argument, passages)? } else { argument });
    }
    Value::from_function(filters::format).call(state, &all)
}

/// Makes a text of a value that has a notation of its own. A text stays as it is, and so does what
/// is no value of settings: the engine knows more about those.
fn as_text(value: &Value, passages: &Passages) -> Result<Value, Error> {
    if let Some(text) = Opaque::text(value) {
        return Ok(Value::from(text));
    }
    Ok(match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            let mut text = String::new();
            write(&mut text, value, 0, passages)?;
            Value::from(text)
        }
        ValueKind::Number => Value::from(number(value).unwrap_or_else(|| value.to_string())),
        ValueKind::Invalid => return Err(invalid(value)),
        _ => value.clone(),
    })
}

/// Writes compact JSON.
fn write(text: &mut String, value: &Value, depth: usize, passages: &Passages) -> Result<(), Error> {
    let wrong = |words: &str| Error::new(ErrorKind::InvalidOperation, words.to_owned());
    if depth > DEEPEST {
        return Err(wrong("a value is nested too deeply to be shown"));
    }
    match value.kind() {
        ValueKind::None => text.push_str("null"),
        ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => text.push_str(&number(value).ok_or_else(|| wrong("infinity has no notation in a list"))?),
        ValueKind::Seq | ValueKind::Iterable => {
            text.push('[');
            for (place, item) in value.try_iter()?.enumerate() {
                text.push_str(if place > 0 { "," } else { "" });
                write(text, &item, depth + 1, passages)?;
            }
            text.push(']');
        }
        ValueKind::Map => {
            text.push('{');
            for (place, key) in value.try_iter()?.enumerate() {
                text.push_str(if place > 0 { "," } else { "" });
                text.push_str(&quoted(&as_text(&key, passages)?.to_string()));
                text.push(':');
                write(text, &value.get_item(&key)?, depth + 1, passages)?;
            }
            text.push('}');
        }
        ValueKind::Invalid => return Err(invalid(value)),
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        _ => text.push_str(&passages.each(QUOTED, &quoted(&value.to_string()))),
    }
    Ok(())
}

/// Returns a number as JSON has it; `None` for infinity and for what is no number.
fn number(value: &Value) -> Option<String> {
    if value.is_integer() {
        return Some(value.to_string());
    }
    let number = f64::try_from(value.clone()).ok().and_then(serde_json::Number::from_f64);
    number.map(|number| number.to_string())
}

/// A text in the notation of JSON.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns the error that an invalid value carries, such as a secret that is not to be had.
fn invalid(value: &Value) -> Error {
    let error = filters::tojson(value, None, Kwargs::from_iter::<[(&str, Value); 0]>([])).err();
    error.unwrap_or_else(|| ErrorKind::InvalidOperation.into())
}
