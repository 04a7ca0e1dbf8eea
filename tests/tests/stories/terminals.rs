//! What commands print, to terminals, pipes and readers that have gone.

use std::{
    fs::File,
    io::{self, Read as _},
    process::{Command, Stdio},
};

use tests::{
    Plan, Site,
    program::{built, command, run, spawn, text},
    site::{DATACENTER, Pointers},
};

/// Every command that prints, with its program.
fn printing(site: &Site) -> Vec<Command> {
    let repo = site.folder.path().join("new.git");
    let repo = repo.to_str().expect("text").to_owned();
    let clone = site.work.folder().to_str().expect("text").to_owned();
    let reference = "services/web/master=services/web/master";
    let of_master: [&[&str]; 13] = [
        &["--help"],
        &["init", "--repo", &repo],
        &["log", DATACENTER],
        &["log", DATACENTER, "--json"],
        &["log", "--refused"],
        &["show", "services/web"],
        &["explain", DATACENTER, "services/web"],
        &["plan", DATACENTER, "--ref", reference],
        &["wait", DATACENTER, "--timeout", "0"],
        &["secret", "list", DATACENTER],
        &["check", "--repo", &clone],
        &["import", &clone],
        &["no-such-command"],
    ];
    let of_host: [&[&str]; 8] = [
        &["get", "services/web"],
        &["explain", "services/web"],
        &["status"],
        &["status", "--json"],
        &["history"],
        &["verify"],
        &["identity", "--state", &repo],
        &["diff", "services/web", &clone],
    ];
    let of_master = of_master.into_iter().map(|arguments| site.master.client(arguments));
    of_master.chain(of_host.into_iter().map(|arguments| site.host().client(arguments))).collect()
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let site = Site::start();
    for mut gone in printing(&site) {
        let name = format!("{gone:?}");
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        gone.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        let mut child = spawn(gone).expect("it starts");
        let mut said = String::new();
        child.stderr.take().expect("it is piped").read_to_string(&mut said).expect("text");
        let status = child.wait().expect("it is our child");
        assert!(!said.contains("panicked") && status.code().is_some_and(|code| code <= 2), "{name}: {status}: {said}");
    }
    // The same with standard error, where remarks go.
    for mut gone in printing(&site) {
        let name = format!("{gone:?}");
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let both = writer.try_clone().expect("a pipe");
        gone.stdin(Stdio::null()).stdout(both).stderr(writer);
        let status = spawn(gone).expect("it starts").wait().expect("it is our child");
        assert!(status.code().is_some_and(|code| code <= 2), "{name}: {status}");
    }
}

#[test]
fn a_full_disk_is_an_error_in_words() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start();
    for mut command in [site.master.client(&["log", DATACENTER]), site.host().client(&["status"])] {
        command.stdin(Stdio::null()).stdout(File::options().write(true).open("/dev/full").expect("it is there"));
        command.stderr(Stdio::piped());
        let output = spawn(command).expect("it starts").wait_with_output().expect("it is our child");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains("No space left on device"), "{}", text(&output));
    }
}

/// Runs a command on a terminal of its own, after `stty`.
fn on_terminal(mut plain: Command, stty: &str) -> String {
    let words = [plain.get_program()].into_iter().chain(plain.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_str().expect("text"))).collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &format!("stty {stty}; exec {}", words.join(" ")), "/dev/null"]);
    script.env_clear().env("TERM", "xterm");
    plain.get_envs().for_each(|(name, value)| {
        script.env(name, value.unwrap_or_default());
    });
    plain.env_clear();
    text(&run(script))
}

#[test]
fn a_terminal_of_no_columns_is_one_that_does_not_say() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start();
    let longest = |text: &str| text.lines().map(str::len).max().unwrap_or_default();
    for (command, words) in [
        (site.host().client(&["status"]), "datacenter  us-west/v1"),
        (site.host().client(&["history"]), "CHANGE"),
        (site.host().client(&["explain", "services/web"]), "config.yaml:1"),
        (site.master.client(&["log", DATACENTER]), "WHAT CHANGED"),
        (site.master.client(&["explain", DATACENTER, "services/web"]), "config.yaml:1"),
        (site.master.client(&["log", "--help"]), "[ID/VERSION]  The datacenter"),
        (site.master.client(&["wait", DATACENTER, "--timeout", "0"]), "us-west/v1: "),
    ] {
        let shown = on_terminal(command, "cols 0 rows 0");
        assert!(shown.contains(words), "{shown}");
    }
    // A narrow one is used as it is. (A host may be there before the pointer is in Consul.)
    site.host().wait_status("be well", |status| status["problems"] == serde_json::json!([]));
    let shown = on_terminal(site.host().client(&["status"]), "cols 60");
    assert!(longest(&shown) <= 61 && shown.contains("us-west/v1"), "{shown}");
}

#[test]
fn what_others_wrote_is_shown_and_moves_no_terminal() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start();
    let schema = "{\"description\": \"\\u001b]0;title\\u0007, \\u202e turned\"}";
    let change = site.work.change().file("services/web/master", "config.schema.json", schema);
    let change = change.file("services/web/master", "config.yaml", "note: \"a\u{202e}b\" # turned\u{202e}\n");
    change.commit();
    let branch = "refs/heads/services/web/master";
    let commit = site.work.git(&["commit-tree", &format!("{branch}^{{tree}}"), "-p", branch, "-m", "a\u{202e}turned"]);
    site.work.push(&[&format!("{}:{branch}", commit.trim())]).accepted();
    site.wait_applied(site.master.sequence());
    let is_acted_on = |text: &str| text.contains(['\u{1b}', '\u{7}', '\u{202e}']);
    for (command, words) in [
        (site.master.client(&["doc", "services/web"]), "\\u{1b}]0;title\\u{7}, \\u{202e} turned"),
        (site.master.client(&["show", "services/web"]), "# turned\\u{202e}"),
        (site.master.client(&["log", DATACENTER]), "a\\u{202e}turned"),
        (site.host().client(&["explain", "services/web"]), "note = \"a b\""),
    ] {
        let shown = on_terminal(command, "cols 200");
        assert!(shown.contains(words) && !is_acted_on(&shown), "{words}: {shown:?}");
    }
    // A program gets the text as it is, but for tables: they are for people.
    let shown = text(&run(site.master.client(&["show", "services/web"])));
    assert!(shown.contains("# turned\u{202e}"), "{shown:?}");
    let shown = text(&run(site.master.client(&["log", DATACENTER])));
    assert!(shown.contains("a\\u{202e}turned") && !is_acted_on(&shown), "{shown:?}");
    // Remarks go to people alone.
    let mut no_such_key = site.master.client(&["explain", DATACENTER, "services/web", "\u{1b}[2J/\u{202e}"]);
    no_such_key.stdin(Stdio::null());
    let said = run(no_such_key);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.is_empty() && !is_acted_on(&said), "{said:?}");
}

#[test]
fn colours_are_for_those_who_want_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let failing = || {
        let mut failing = command(built("conf-slave"), folder.path());
        failing.args(["run", "--datacenter", DATACENTER, "--central", "http://127.0.0.1:9", "--consul", "embedded"]);
        failing.args(["--listen", "127.0.0.1:0", "--trusted-key", "/nonexistent"]);
        failing
    };
    let coloured = on_terminal(failing(), "cols 80");
    assert!(coloured.contains("/nonexistent") && coloured.contains('\u{1b}'), "{coloured:?}");
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let mut plain = failing();
        plain.env(name, value);
        let plain = on_terminal(plain, "cols 80");
        assert!(plain.contains("/nonexistent") && !plain.contains('\u{1b}'), "{name}: {plain:?}");
    }
}

#[test]
fn tables_in_a_pipe_have_no_blanks_at_the_end_of_lines() {
    let site = Site::start();
    for command in printing(&site) {
        let name = format!("{command:?}");
        let output = run(command);
        let line = String::from_utf8_lossy(&output.stdout).lines().find(|line| line.ends_with(' ')).map(str::to_owned);
        assert!(line.is_none(), "{name}: {line:?}");
    }
}
