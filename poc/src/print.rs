//! Printing for a person at a terminal.

use std::{
    env,
    io::{IsTerminal as _, stdout},
    time::SystemTime,
};

use owo_colors::{OwoColorize as _, Style};

/// Prints a line. When the reader of the output is gone (`| head`), the program ends: its children
/// are tethered to it, and the next run removes the directory.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        if writeln!(std::io::stdout(), $($words)*).is_err() {
            std::process::exit(1);
        }
    }};
}
pub(crate) use say;

/// Adds a style, if the output is a terminal and the user has not switched colours off.
pub(crate) fn paint(text: &str, style: Style) -> String {
    let wanted = stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted { text.style(style).to_string() } else { text.to_owned() }
}

/// Returns the time of day.
pub(crate) fn clock(at: SystemTime) -> String {
    let zone = jiff::tz::TimeZone::system();
    jiff::Timestamp::try_from(at).unwrap_or_default().to_zoned(zone).strftime("%H:%M:%S").to_string()
}
