//! The reference page and the programs: each lists the commands, flags, variables and defaults of the other.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::{collections::BTreeMap, fs, path::Path};

use conf_core::manifest::{ClassManifest, InstanceManifest, Strictness, pins};
use tests::{
    page,
    program::{built, command, run, text},
};

const REFERENCE: &str = include_str!("../../docs/reference.md");

/// Clap adds these by itself; the page names them once for all commands. (`--version N` of two commands is another flag.)
const OF_CLAP: [&str; 2] = ["-h, --help", "-V, --version"];

/// By command, as `conf-master secret set`, its flags by long name.
type Commands = BTreeMap<String, BTreeMap<String, Flag>>;

/// The facts about a flag that both the page and `--help` state.
#[derive(Debug, PartialEq, Eq)]
struct Flag {
    /// The environment variable, or `none`.
    variable: String,
    /// The default, where `--help` states one.
    default: Option<String>,
}

#[test]
fn the_reference_and_help_list_the_same_commands_and_flags() {
    let home = tempfile::tempdir().unwrap();
    let mut real = Commands::new();
    for program in ["conf-master", "conf-slave", "conf-local"] {
        read_help(home.path(), &[program.to_owned()], &mut real);
    }
    let listed = listed(REFERENCE);
    assert!(real.len() > 20, "only {} commands have a --help that this test can read", real.len());

    let mut faults = Vec::new();
    for (command, flags) in &real {
        let Some(on_page) = listed.get(command) else {
            faults.push(format!("docs/reference.md lacks the command `{command}`"));
            continue;
        };
        for (name, flag) in flags {
            match on_page.get(name) {
                None => faults.push(format!("docs/reference.md lacks --{name} of `{command}`")),
                Some(stated) if stated.variable != flag.variable => faults.push(format!(
                    "docs/reference.md states {} for --{name} of `{command}`, which reads {}",
                    stated.variable, flag.variable
                )),
                Some(stated) if flag.default.is_some() && stated.default != flag.default => faults.push(format!(
                    "docs/reference.md states the default {} for --{name} of `{command}`, which has {}",
                    stated.default.as_deref().unwrap_or("none"),
                    flag.default.as_deref().unwrap_or("none")
                )),
                Some(_) => {}
            }
        }
    }
    for (command, flags) in &listed {
        let Some(known) = real.get(command) else {
            faults.push(format!("docs/reference.md lists `{command}`, which is no command"));
            continue;
        };
        for name in flags.keys().filter(|name| !known.contains_key(*name)) {
            faults.push(format!("docs/reference.md lists --{name} of `{command}`, which has no such flag"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Reads `--help` of a program or command and of all commands below it.
fn read_help(home: &Path, words: &[String], found: &mut Commands) {
    let mut help = command(built(&words[0]), home);
    // Wide lines: no name of a flag is broken.
    help.args(&words[1..]).arg("--help").env("COLUMNS", "1000");
    let output = run(help);
    let help = text(&output);
    assert!(output.status.success(), "{words:?} --help: {help}");
    if words.len() > 1 {
        found.insert(words.join(" "), flags_of(&help));
    }
    for name in subcommands_of(&help) {
        read_help(home, &[words, &[name]].concat(), found);
    }
}

/// The names under `Commands:`.
fn subcommands_of(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    lines
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Each line that begins with a flag, up to the next such line.
fn flags_of(help: &str) -> BTreeMap<String, Flag> {
    let mut entries = Vec::<String>::new();
    for line in help.lines() {
        let words = line.trim_start();
        if line.starts_with(' ') && words.starts_with('-') && long_name(words).is_some() {
            entries.push(words.to_owned());
        } else if let Some(entry) = entries.last_mut() {
            entry.push(' ');
            entry.push_str(words);
        }
    }
    let bracketed = |entry: &str, word: &str| {
        let (_, rest) = entry.split_once(&format!("[{word}: "))?;
        Some(rest.split(']').next()?.to_owned())
    };
    let flags = entries.iter().filter_map(|entry| {
        let name = long_name(entry).filter(|_| !OF_CLAP.iter().any(|added| entry.starts_with(added)))?;
        let variable = bracketed(entry, "env").map(|set| set.split('=').next().unwrap_or_default().to_owned());
        let flag =
            Flag { variable: variable.unwrap_or_else(|| "none".to_owned()), default: bracketed(entry, "default") };
        Some((name, flag))
    });
    flags.collect()
}

/// `repo` of `--repo <DIR>` and of `-r, --repo <DIR>`.
fn long_name(text: &str) -> Option<String> {
    let (before, after) = text.split_once("--")?;
    let is_short = before.is_empty() || (before.starts_with('-') && before.ends_with(", "));
    let name: String = after.chars().take_while(|char| char.is_ascii_alphanumeric() || *char == '-').collect();
    (is_short && !name.is_empty()).then_some(name)
}

/// The commands of the page: a heading of the fourth level that is a command, and the rows below it that begin with a
/// flag.
fn listed(page: &str) -> Commands {
    let mut commands = Commands::new();
    let mut command = None;
    for line in page.lines() {
        if line.starts_with('#') {
            command = line.strip_prefix("#### `conf-").and_then(|rest| rest.strip_suffix('`'));
            if let Some(rest) = command {
                commands.insert(format!("conf-{rest}"), BTreeMap::new());
            }
            continue;
        }
        let (Some(rest), true) = (command, line.starts_with("| `--")) else { continue };
        let cells: Vec<&str> = line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
        let [flag, variable, default, _] = cells.as_slice() else { panic!("this row has no four cells: {line}") };
        let name = long_name(flag.trim_start_matches('`')).unwrap();
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        let flag = Flag { variable: plain(variable), default: Some(plain(default)) };
        let twice = commands.entry(format!("conf-{rest}")).or_default().insert(name, flag);
        assert!(twice.is_none(), "docs/reference.md lists this flag twice: {line}");
    }
    commands
}

#[test]
fn the_contents_list_every_section() {
    let (contents, _) = REFERENCE.split_once("\n## ").unwrap();
    for heading in REFERENCE.lines().filter_map(|line| line.strip_prefix("## ")) {
        let link = format!("](#{})", anchor_of(heading));
        assert!(contents.contains(&link), "the contents of docs/reference.md lack {heading:?}");
    }
}

#[test]
fn the_examples_of_datacenter_yaml() {
    let examples = page::fenced(REFERENCE, "## `datacenter.yaml`", "yaml");
    let [class, instance, secrets] = examples.as_slice() else { panic!("three examples are expected") };
    let class = ClassManifest::parse(class, Strictness::Strict).expect("the class's example lands");
    let instance = InstanceManifest::parse(instance, Strictness::Strict).expect("the datacenter's example lands");
    assert_eq!(instance.dangling(&class), []);
    assert_eq!(pins(&class, &instance).len(), 4);
    let secrets = ClassManifest::parse(secrets, Strictness::Strict).expect("the secrets' example lands");
    assert_eq!(secrets.secrets.len(), 5);
}

/// The links of all pages lead to files and headings that exist.
#[test]
fn the_links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut pages: Vec<_> =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(|one| root.join(one)).into();
    let docs = fs::read_dir(root.join("docs")).unwrap().flatten().map(|entry| entry.path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    assert!(pages.len() > 9, "only {} pages were found", pages.len());
    for page in pages {
        let text = read(&page);
        let shown = page.strip_prefix(root).unwrap().display();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            assert!(path.exists(), "{shown} links to {target}, which does not exist");
            let has = |anchor: &str| {
                let text = read(&path);
                text.lines().filter_map(|line| line.strip_prefix('#')).any(|line| anchor_of(line) == anchor)
            };
            assert!(anchor.is_empty() || has(anchor), "{shown} links to {target}, and no heading there is #{anchor}");
        }
    }
}

/// The anchor that a heading gets where pages are shown.
fn anchor_of(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'));
    kept.map(|char| if char == ' ' { '-' } else { char }).collect()
}
