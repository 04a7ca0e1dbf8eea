//! Prints answers: as JSON, and refusals.

use std::process::ExitCode;

use conf_core::terminal::{note, print};
use serde::Serialize;
use serde_json::Value;

use crate::fault::Fault;

/// Prints a value as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<ExitCode> {
    print(serde_json::to_string_pretty(value)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns a JSON string as text, and every other value as JSON.
pub(crate) fn words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Returns the reason of a refusal.
pub(crate) fn reason(answer: &Value) -> &str {
    answer["error"].as_str().unwrap_or("no reason was given")
}

/// Prints the faults of a refusal.
pub(crate) fn print_faults(answer: &Value) {
    for fault in answer["faults"].as_array().into_iter().flatten() {
        match serde_json::from_value::<Fault>(fault.clone()) {
            Ok(fault) => note(format_args!("  {fault}")),
            Err(_) => note(format_args!("  {fault}")),
        }
    }
}
