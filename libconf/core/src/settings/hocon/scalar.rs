//! Text without quotes: numbers, `true`, `null`, and other text.

use std::borrow::Cow;

use serde_json::Number;

use crate::settings::{fault::Fault, hocon::tree::Scalar};

/// Text without quotes, where it is a whole value. A number that JSON does not know (`0755`,
/// `1.2.3`) is text.
pub(crate) fn scalar(text: &str) -> Scalar<'_> {
    match text {
        "null" => Scalar::Null,
        "true" => Scalar::Bool(true),
        "false" => Scalar::Bool(false),
        text if is_number(text) => Scalar::Number(text),
        text => Scalar::Text(Cow::Borrowed(text)),
    }
}

/// Whether a text has the form of a number in JSON.
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    is_digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && is_digits(fraction)
        && is_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))
}

/// Refuses a number that would be rounded to another one.
pub(crate) fn check_number(text: &str, line: usize) -> Result<(), Fault> {
    let is_whole = !text.contains(['.', 'e', 'E']) && text != "-0";
    let reason = match serde_json::from_str::<Number>(text) {
        Ok(number) if is_whole && !number.is_i64() && !number.is_u64() => "has more than 64 bits",
        Ok(_) => return Ok(()),
        Err(_) => "is beyond what a number can hold",
    };
    Err(Fault::new(line, format!("the number {reason}; write it in quotes")))
}
