//! Pages of the documentation: pastes their scripts, and compares the output with theirs.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::program::{built, command, spawn};

/// Returns the fenced blocks of one language under a heading of a page, up to the next heading of
/// its level or above.
pub fn fenced(page: &str, heading: &str, language: &str) -> Vec<String> {
    let level = heading.split(' ').next().unwrap_or_default().len();
    let is_heading = |line: &str| line.starts_with('#') && line.trim_start_matches('#').starts_with(' ');
    let mut blocks = Vec::<String>::new();
    let (mut inside, mut fence) = (false, None);
    for line in page.lines() {
        match (fence, line.strip_prefix("```")) {
            (None, Some(opened)) => {
                fence = Some(opened);
                if inside && opened == language {
                    blocks.push(String::new());
                }
            }
            (Some(_), Some(_)) => fence = None,
            (None, None) if is_heading(line) => {
                let deeper = line.chars().take_while(|char| *char == '#').count() > level;
                inside = line.starts_with(heading) || (inside && deeper);
            }
            (Some(opened), None) if inside && opened == language => {
                if let Some(block) = blocks.last_mut() {
                    block.extend([line, "\n"]);
                }
            }
            _ => {}
        }
    }
    assert!(!blocks.is_empty(), "the page has no {language} block under {heading:?}");
    blocks
}

/// A person at a terminal, in a directory of their own.
#[derive(Debug)]
pub struct Reader<'a> {
    /// The home directory. The working directory is `trial` in it.
    pub folder: &'a Path,
    /// The loopback address in place of 127.0.0.1, since other tests and the user's daemons may run
    /// beside this.
    pub address: String,
    /// The longest time that a script may take.
    pub seconds: u32,
    /// Folders with further programs that the page needs, or with the daemons themselves in place of
    /// those that the tests were built with.
    pub path: Vec<PathBuf>,
}

impl Reader<'_> {
    /// Returns the working directory.
    pub fn trial(&self) -> PathBuf {
        self.folder.join("trial")
    }

    /// Runs a script, and expects each line of `expected` in its output, in this order; `…` stands
    /// for any text. A failure shows `logs` of the working directory.
    #[track_caller]
    pub fn paste(&self, script: &str, expected: &str, logs: &[&str]) {
        let script = format!(
            // Both outputs go to one terminal. The trap ends programs that still run when a block
            // fails.
            "exec 2>&1\nset -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{}",
            script.replace("127.0.0.1", &self.address)
        );
        let expected = expected.replace("127.0.0.1", &self.address);
        fs::create_dir_all(self.trial()).expect("the folder can be made");
        fs::write(self.folder.join("script"), script).expect("the script can be written");
        let mut bash = command("timeout", self.folder);
        // The processes that bash started end with this test, however it ends.
        bash.arg(self.seconds.to_string()).args(["setpriv", "--pdeathsig", "KILL", "--", "bash", "../script"]);
        let path = programs(&self.folder.join("bin"), &self.path);
        bash.current_dir(self.trial()).env("PATH", path).stdin(Stdio::null()).stdout(Stdio::piped());
        let output = spawn(bash).and_then(std::process::Child::wait_with_output).expect("bash can be run");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let logs: Vec<String> = logs
            .iter()
            .map(|name| format!("--- {name}\n{}", fs::read_to_string(self.trial().join(name)).unwrap_or_default()))
            .collect();
        assert!(output.status.success(), "it ended with {}; printed was\n{printed}\n{}", output.status, logs.concat());
        expect_printed(&printed, &expected);
    }
}

/// Makes a PATH whose first folder has the programs, each of which ends with the shell that started
/// it, and whose next ones are these. A program is taken from the first of these that has it, and
/// Consul's only from there.
pub fn programs(bin: &Path, more: &[PathBuf]) -> String {
    fs::create_dir_all(bin).expect("the folder can be made");
    for name in ["conf-master", "conf-slave", "conf-local", "consul"] {
        let other = more.iter().map(|folder| folder.join(name)).find(|program| program.exists());
        if name == "consul" && other.is_none() {
            continue;
        }
        let (path, program) = (bin.join(name), other.unwrap_or_else(|| built(name)));
        let text = format!("#!/bin/sh\nexec setpriv --pdeathsig KILL -- '{}' \"$@\"\n", program.display());
        fs::write(&path, text).expect("the program can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    }
    let mut folders = vec![bin.display().to_string()];
    folders.extend(more.iter().map(|folder| folder.display().to_string()));
    folders.push(std::env::var("PATH").unwrap_or_default());
    folders.join(":")
}

/// Expects each line of `expected` in what was printed, in this order; `…` stands for any text.
#[track_caller]
pub fn expect_printed(printed: &str, expected: &str) {
    let mut lines = printed.lines();
    for wanted in expected.lines().filter(|line| !line.is_empty()) {
        assert!(lines.any(|line| is_like(line, wanted)), "{wanted:?} is not printed, or not in this order:\n{printed}");
    }
}

/// Compares a line, where `…` in `wanted` stands for any text.
fn is_like(line: &str, wanted: &str) -> bool {
    let line = line.trim_end();
    let Some((before, after)) = wanted.split_once('…') else { return line == wanted };
    let Some(rest) = line.strip_prefix(before) else { return false };
    (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| is_like(&rest[at..], after))
}

#[cfg(test)]
mod tests {
    use super::is_like;

    #[test]
    fn likeness() {
        assert!(is_like("a b c", "a … c") && is_like("a b c  ", "a b…") && is_like("x", "x"));
        assert!(!is_like("a b c", "a … d") && !is_like("xy", "x"));
    }
}
