//! Runs the library's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    conf_master::main()
}
