//! Values as texts. A template shows a value as the settings' own notation does: `null`, `true`,
//! `1.5`, `["a"]`. The engine by itself shows values as Python does.

use minijinja::{
    Environment, Error, ErrorKind, Output, State, Value, escape_formatter, filters,
    value::{Kwargs, Rest, ValueKind},
};

/// The deepest nesting of a value that is shown; settings are never so deep.
const DEEPEST: usize = 128;

/// Has every value shown in the settings' notation.
pub(crate) fn show_as_settings(environment: &mut Environment<'_>) {
    environment.set_formatter(format);
    environment.add_filter("string", string);
    environment.add_filter("join", join);
    environment.add_filter("format", format_filter);
    for (name, filter) in [
        ("lower", Value::from_function(filters::lower)),
        ("upper", Value::from_function(filters::upper)),
        ("title", Value::from_function(filters::title)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("trim", Value::from_function(filters::trim)),
        ("replace", Value::from_function(filters::replace)),
        ("indent", Value::from_function(filters::indent)),
        ("split", Value::from_function(filters::split)),
        ("lines", Value::from_function(filters::lines)),
        ("safe", Value::from_function(filters::safe)),
        ("escape", Value::from_function(filters::escape)),
        ("e", Value::from_function(filters::escape)),
    ] {
        environment.add_filter(name, move |state: &mut State<'_, '_>, arguments: Rest<Value>| {
            let mut arguments = arguments.0;
            if let Some(first) = arguments.first_mut() {
                *first = as_text(first)?;
            }
            filter.call(state, &arguments)
        });
    }
}

fn format(output: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    escape_formatter(output, state, &as_text(value)?)
}

fn string(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    // An undefined value is refused as everywhere.
    filters::string(state, &as_text(value)?)
}

#[expect(clippy::needless_pass_by_value, reason = "the engine passes arguments by value")]
fn join(
    state: &mut State<'_, '_>,
    value: &Value,
    joiner: Option<Value>,
    attribute: Option<Value>,
    arguments: Kwargs,
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
    let joiner = joiner.map(|joiner| as_text(&joiner)).transpose()?;
    let items: Value = match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            value.try_iter()?.map(|item| as_text(&item)).collect::<Result<Vec<Value>, Error>>()?.into()
        }
        _ => value,
    };
    let join = Value::from_function(filters::join);
    join.call(state, &[vec![items], joiner.into_iter().collect()].concat())
}

/// The filter `format`. Only the conversion `%s` makes texts of values.
fn format_filter(state: &mut State<'_, '_>, words: &Value, arguments: Rest<Value>) -> Result<Value, Error> {
    let only_texts = words.as_str().is_some_and(|words| {
        let mut conversions = words.replace("%%", "");
        conversions.retain(|letter| letter == '%' || letter.is_ascii_alphabetic());
        conversions.split('%').skip(1).all(|conversion| conversion.starts_with('s'))
    });
    let mut all = vec![words.clone()];
    for argument in arguments.0 {
        let is_text = only_texts && !argument.is_kwargs();
        all.push(if is_text { as_text(&argument)? } else { argument });
    }
    Value::from_function(filters::format).call(state, &all)
}

/// Makes a text of a value that has a notation of its own. A text stays as it is, and so does what
/// is no value of settings: the engine knows more about those.
fn as_text(value: &Value) -> Result<Value, Error> {
    Ok(match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            let mut text = String::new();
            write(&mut text, value, 0)?;
            Value::from(text)
        }
        ValueKind::Number => Value::from(number(value).unwrap_or_else(|| value.to_string())),
        ValueKind::Invalid => return Err(invalid(value)),
        _ => value.clone(),
    })
}

/// Writes compact JSON.
fn write(text: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
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
                write(text, &item, depth + 1)?;
            }
            text.push(']');
        }
        ValueKind::Map => {
            text.push('{');
            for (place, key) in value.try_iter()?.enumerate() {
                text.push_str(if place > 0 { "," } else { "" });
                text.push_str(&quoted(&as_text(&key)?.to_string()));
                text.push(':');
                write(text, &value.get_item(&key)?, depth + 1)?;
            }
            text.push('}');
        }
        ValueKind::Invalid => return Err(invalid(value)),
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        _ => text.push_str(&quoted(&value.to_string())),
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

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns the error that an invalid value carries, such as a secret that is not to be had.
fn invalid(value: &Value) -> Error {
    let error = filters::tojson(value, None, Kwargs::from_iter::<[(&str, Value); 0]>([])).err();
    error.unwrap_or_else(|| ErrorKind::InvalidOperation.into())
}
