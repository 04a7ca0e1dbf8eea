//! Arguments, a real environment and a real file.

use std::net::SocketAddr;

use clap::Subcommand;
use serde::Deserialize;

use super::*;

#[derive(Debug, Parser)]
#[command(name = "conf-test", version)]
struct Arguments {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Runs it
    Run(Box<Run>),
    /// Asks it
    Ask {
        /// Where it listens
        #[arg(long)]
        socket: PathBuf,
        /// The same as of the daemon
        #[arg(long, default_value = "127.0.0.1:1")]
        listen: SocketAddr,
        /// How it answers
        #[arg(long)]
        json: bool,
        /// What is run
        #[arg(trailing_var_arg = true)]
        words: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Run {
    #[command(flatten)]
    common: Common,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:1")]
    listen: SocketAddr,
    /// Which upstreams
    #[arg(long, required = true)]
    central: Vec<String>,
    /// A server with a login
    #[arg(long)]
    above: Option<crate::address::BaseUrl>,
    /// The server
    #[arg(long, env = "CONF_TEST_URL")]
    server: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Extra {
    watch: Vec<Watch>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Watch {
    pidfile: String,
}

#[derive(Default)]
struct Case {
    file: Option<&'static str>,
}

impl Case {
    fn parse(&self, arguments: &str) -> Result<(Arguments, Extra), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("conf.yaml");
        if let Some(text) = self.file {
            fs::write(&path, text).unwrap();
        }
        let arguments = arguments.replace("FILE", path.to_str().unwrap());
        let arguments = arguments.split_whitespace().map(OsString::from).collect();
        try_parse_from("CONF_TEST", &["watch"], arguments)
            .map(|(arguments, extra, _)| (arguments, extra))
            .map_err(|error| error.to_string().replace(path.to_str().unwrap(), "FILE"))
    }

    fn run(&self, arguments: &str) -> Run {
        match self.parse(&format!("conf-test run {arguments}")) {
            Ok((Arguments { act: Act::Run(run) }, _)) => *run,
            other => panic!("{other:?}"),
        }
    }

    fn refused(&self, arguments: &str) -> String {
        self.parse(&format!("conf-test run {arguments}")).unwrap_err()
    }
}

fn file(text: &'static str) -> Case {
    Case { file: Some(text) }
}

#[test]
fn the_file_is_over_the_default_and_a_flag_over_the_file() {
    let case =
        file("listen: 127.0.0.1:2\ncentral: [http://a, http://b]\ninsecure: true\nlog-format: json\nserver: s\n");
    let run = case.run("--config FILE");
    assert_eq!(run.listen.port(), 2);
    assert_eq!(run.central, ["http://a", "http://b"]);
    assert!(run.common.insecure);
    assert_eq!(run.common.log_format, LogFormat::Json);
    assert_eq!(run.server.as_deref(), Some("s"));
    let run = case.run("--config FILE --listen 127.0.0.1:3 --central http://c http://d");
    assert_eq!(run.listen.port(), 3);
    assert_eq!(run.central, ["http://c", "http://d"]);
    assert_eq!(file("central: http://one").run("--config FILE").central, ["http://one"]);
}

/// Runs the named test again in a process of its own whose environment has `variables`.
fn in_child(test: &str, variables: &[(&str, &str)]) {
    let child = process::Command::new(env::current_exe().unwrap())
        .args([&format!("daemon::flags::tests::{test}"), "--exact", "--nocapture"])
        .env("IN_CHILD", "yes")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && out.contains("1 passed"), "{out}");
}

#[test]
fn the_environment_is_over_the_file_and_under_a_flag() {
    if env::var_os("IN_CHILD").is_none() {
        let variables = [
            ("CONF_TEST_LISTEN", "127.0.0.1:4"),
            ("CONF_TEST_CENTRAL", "http://e,http://f"),
            ("CONF_TEST_INSECURE", "1"),
            ("CONF_TEST_LOG_LEVEL", ""),
            ("CONF_TEST_URL", "u"),
        ];
        return in_child("the_environment_is_over_the_file_and_under_a_flag", &variables);
    }
    let case = file("listen: 127.0.0.1:2\ncentral: [http://a]\nlog-level: debug\nserver: s\n");
    let run = case.run("--config FILE");
    assert_eq!(run.listen.port(), 4);
    assert_eq!(run.central, ["http://e", "http://f"]);
    assert!(run.common.insecure);
    assert_eq!(run.common.log_level, "debug", "an empty variable is no value");
    assert_eq!(run.server.as_deref(), Some("u"));
    assert_eq!(case.run("--config FILE --listen 127.0.0.1:5").listen.port(), 5);
    assert_eq!(Case::default().run("").listen.port(), 4);
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    if env::var_os("IN_CHILD").is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("by-environment.yaml");
        fs::write(&path, "central: http://x").unwrap();
        let variables = [("CONF_TEST_CONFIG", path.to_str().unwrap())];
        return in_child("the_file_may_be_named_by_the_environment", &variables);
    }
    assert_eq!(Case::default().run("").central, ["http://x"]);
}

#[test]
fn faults_of_the_file_name_the_file_the_line_and_what_would_do() {
    let cases = [
        (
            "central: a\nlisten-on: 3\n",
            "FILE, line 2: unknown key 'listen-on'; known are above, allowed-host, central, insecure, listen, log-format, log-level, metrics-listen, server, tls-cert, tls-client-ca, tls-key, tls-min, watch",
        ),
        ("central: a\nlisen: 127.0.0.1:1\n", "FILE, line 2: unknown key 'lisen' (did you mean `listen`?); known are"),
        // A key of another command is no key of this one.
        ("central: a\nsocket: s\n", "FILE, line 2: unknown key 'socket'"),
        ("central: {a: b}", "FILE, line 1: 'central' takes a value or a list of values"),
        ("central: []", "FILE, line 1: 'central' takes a value or a list of values"),
        ("central: a\n\nlisten: [1, 2]", "FILE, line 3: 'listen' takes a single value"),
        ("central: a\nlisten: nowhere", "FILE: invalid value 'nowhere' for '--listen <LISTEN>'"),
        ("central: a\ncentral: b", "FILE, line 2: "),
        ("- central", "FILE, "),
        ("central: a\nwatch: [{pid: 1}]", "FILE, line 2: "),
        (
            "central: a\nwatch:\n- pidfil: x\n",
            "FILE, line 3: unknown field `pidfil` (did you mean `pidfile`?), expected",
        ),
    ];
    for (text, wanted) in cases {
        let words = file(text).refused("--config FILE");
        assert!(words.contains(wanted), "{text:?} gave {words}");
    }
    let words = Case::default().refused("--config FILE");
    assert!(words.contains("cannot read the configuration file FILE"), "{words}");
}

#[test]
fn a_wrong_flag_is_not_blamed_on_the_file() {
    let case = file("central: a");
    assert!(case.refused("--config FILE --listen nowhere").starts_with("error: invalid value 'nowhere'"));
    assert!(case.refused("--config FILE --lisen 1").contains("tip: a similar argument exists: '--listen'"));
    assert!(Case::default().refused("").contains("--central <CENTRAL>..."), "what is required is named");
}

#[test]
fn structured_keys_are_handed_back() {
    let case = file("central: a\nwatch:\n  - {pidfile: /run/x.pid}\n");
    let (_, extra) = case.parse("conf-test run --config FILE").unwrap();
    assert_eq!(extra.watch[0].pidfile, "/run/x.pid");
}

#[test]
fn help_names_the_variables_and_words_after_a_command_are_its_own() {
    let help = Case::default().refused("--help");
    assert!(help.contains("[env: CONF_TEST_LISTEN]"), "{help}");
    let (arguments, _) = Case::default().parse("conf-test ask --socket s sh --config nothing").unwrap();
    let Act::Ask { socket, words, .. } = arguments.act else { panic!("{arguments:?}") };
    assert_eq!((socket.to_str(), words.join(" ").as_str()), (Some("s"), "sh --config nothing"));
}

#[test]
fn a_flag_of_one_call_is_no_variable_and_no_key() {
    if env::var_os("IN_CHILD").is_none() {
        let variables =
            [("CONF_TEST_JSON", "true"), ("CONF_TEST_SOCKET", "other"), ("CONF_TEST_LISTEN", "127.0.0.1:4")];
        return in_child("a_flag_of_one_call_is_no_variable_and_no_key", &variables);
    }
    let (arguments, _) = Case::default().parse("conf-test ask --socket s").unwrap();
    let Act::Ask { socket, listen, json, .. } = arguments.act else { panic!("{arguments:?}") };
    assert_eq!((socket.to_str(), json), (Some("s"), false));
    assert_eq!(listen.port(), 4, "a flag of the daemon is a setting of the installation");
    let help = Case::default().parse("conf-test ask --help").unwrap_err();
    assert!(help.contains("[env: CONF_TEST_LISTEN]") && !help.contains("CONF_TEST_JSON"), "{help}");
}

#[test]
fn no_login_is_quoted() {
    if env::var_os("IN_CHILD").is_none() {
        let variables = [("CONF_TEST_ABOVE", "http://jo:canary@h:1"), ("CONF_TEST_CENTRAL", "http://jo:canary@h:1")];
        return in_child("no_login_is_quoted", &variables);
    }
    let run = Case::default().run("--central x");
    assert!(!format!("{run:?}").contains("canary"), "{run:?}");
    let help = Case::default().refused("--help");
    assert!(help.contains("CONF_TEST_ABOVE") && !help.contains("canary"), "{help}");
    let with_file = file("central: http://jo:canary@h:1\nabove: http://jo:canary@h:1\n");
    let help = with_file.refused("--config FILE --help");
    assert!(!help.contains("canary"), "{help}");
    for (case, arguments) in [
        (Case::default(), "--above http://jo:canary@h:x"),
        (Case::default(), "--above jo:canary@h:1"),
        (Case::default(), "--listen http://jo:canary@h:1"),
        (Case::default(), "http://jo:canary@h:1"),
        (file("listen: http://jo:canary@h:1"), "--config FILE"),
        (file("http://jo:canary@h"), "--config FILE"),
        (file("http://jo:canary@h: 1"), "--config FILE"),
        (file("watch: http://jo:canary@h"), "--config FILE"),
    ] {
        let words = case.refused(arguments);
        assert!(!words.contains("canary"), "{arguments}: {words}");
    }
}
