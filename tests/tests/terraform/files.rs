//! The files: they parse, they have one form, and what they name is there.

use std::{fs, path::Path, process::Output};

use tempfile::TempDir;
use tests::{
    program::{command, run, text},
    terraform::{checker, folder, terraform},
};

/// Two parsers read every file. Terraform's own says what stands in another form than `terraform
/// fmt` gives.
#[test]
fn every_file_parses_and_has_the_usual_form() {
    let formatted = formatted(&folder());
    assert!(formatted.status.success(), "run `terraform fmt -recursive`:\n{}", text(&formatted));
    let references = references(&folder());
    assert!(references.status.success(), "{}", text(&references));
}

#[test]
fn a_fault_in_a_file_is_found() {
    let copy = TempDir::new().unwrap();
    let fault = |of: fn(&Path) -> Output, wrong: &str, expected: &str| {
        fs::write(copy.path().join("wrong.tf"), wrong).unwrap();
        let output = of(copy.path());
        assert!(!output.status.success(), "nobody minds: {wrong}");
        assert!(text(&output).contains(expected), "{wrong}: {}", text(&output));
    };
    fault(formatted, "locals {\n  a = 1\n  word = 2\n}\n", "wrong.tf");
    fault(formatted, "locals {\n", "wrong.tf");
    fault(references, "locals {\n", "python-hcl2 cannot parse it");
    fault(references, "output \"a\" {\n  value = var.gone\n}\n", "var.gone is named and not declared");
    fault(
        references,
        "output \"a\" {\n  value = \"x${aws_vpc.gone.id}\"\n}\n",
        "aws_vpc.gone is named and not declared",
    );
    fault(references, "variable \"a\" {}\n", "var.a is declared and not used");
}

#[test]
fn the_scripts_of_the_machines_are_good_bash() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("get-shellcheck");
    let found = run(command(script, Path::new("/")));
    assert!(found.status.success(), "{}", text(&found));
    let mut shellcheck = command(String::from_utf8_lossy(&found.stdout).trim(), Path::new("/"));
    shellcheck.current_dir(folder().join("scripts")).args(["--external-sources", "--severity=warning"]);
    let output = run({
        shellcheck.args(["common.sh", "consul.sh", "job.sh", "master.sh", "slave.sh"]);
        shellcheck
    });
    assert!(output.status.success(), "{}", text(&output));
}

fn formatted(folder: &Path) -> Output {
    let mut formatted = terraform(folder);
    formatted.args(["fmt", "-recursive", "-check", "-diff", "-no-color"]);
    run(formatted)
}

fn references(folder: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("terraform/references.py");
    let mut references = command(checker("hcl2"), folder);
    references.arg(script).arg(folder);
    if folder.join("machine").exists() {
        references.arg(folder.join("machine"));
    }
    run(references)
}
