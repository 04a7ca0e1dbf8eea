//! HOCON, read in a process of its own.
//!
//! The library that reads HOCON is right about the language, but a text may make it use any amount
//! of memory, time or stack, and it reads the environment. So the program starts itself once more
//! with [`ARGUMENT`]: that process has no environment and has bounds on all it can use (`reader`).
//! `scan` refuses texts that the library would accept wrongly.

mod scan;
mod reader;
mod process;

pub(crate) use crate::settings::hocon::process::read;
pub use crate::settings::hocon::{
    process::{be_patient, through},
    reader::{ARGUMENT, child},
};
