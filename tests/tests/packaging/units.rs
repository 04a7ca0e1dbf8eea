//! The units, as systemd reads them.

use std::{fs, path::Path};

use tests::program::{command, run, text};

const DAEMONS: [&str; 3] = ["conf-master", "conf-slave", "conf-local"];

/// Where this machine has no systemd, the tests in containers do the same.
#[test]
fn systemd_finds_no_fault_in_a_unit() {
    let home = tempfile::tempdir().expect("a folder can be made");
    let mut asks = command("sh", home.path());
    asks.args(["-c", "command -v systemd-analyze"]);
    if !run(asks).status.success() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    for daemon in DAEMONS {
        let unit = fs::read_to_string(root.join(format!("packages/{daemon}/{daemon}.service"))).expect("it is there");
        let verify = |unit: &str| {
            let path = home.path().join(format!("{daemon}.service"));
            fs::write(&path, unit).expect("the folder can be written");
            let mut verify = command("systemd-analyze", home.path());
            verify.args(["verify", "--man=no", "--recursive-errors=no"]).arg(path);
            let output = run(verify);
            (output.status.success(), text(&output))
        };
        // The program is not installed here, and verify looks for it.
        let unit = unit.replace(&format!("/usr/bin/{daemon}"), "/bin/true");
        assert_eq!(verify(&unit), (true, String::new()), "{daemon}");
        // systemd only warns of what it does not know.
        assert_ne!(verify(&unit.replace("RestartSec=", "RestartSeconds=")).1, "", "{daemon}");
    }
}
