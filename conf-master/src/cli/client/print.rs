//! Prints answers: as JSON, as tables, and refusals.

use std::process::ExitCode;

use comfy_table::{Table, presets::NOTHING};
use serde::Serialize;
use serde_json::Value;

use crate::fault::Fault;

/// Prints a value as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(ExitCode::SUCCESS)
}

/// Makes a table without borders.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    table
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
            Ok(fault) => eprintln!("  {fault}"),
            Err(_) => eprintln!("  {fault}"),
        }
    }
}
