//! Templates beside Jinja2: the host's files are what Jinja2 makes of the same templates.

use std::{collections::BTreeMap, io::Write as _, path::Path};

use serde_json::Value;
use tests::{Plan, program};

const COMPONENTS: [&str; 2] = ["services/web/master", "services/api/master"];

/// The templates, and what Jinja2 makes of them.
#[derive(serde::Deserialize)]
struct Corpus {
    settings: Value,
    files: BTreeMap<String, String>,
    expected: BTreeMap<String, String>,
}

impl Corpus {
    /// Runs `jinja2-corpus` with `$JINJA2`, or with what `get-jinja2` finds.
    fn made() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let home = std::env::var_os("HOME").unwrap_or_default();
        let run = |program: &Path, argument: Option<&Path>| {
            let mut command = program::command(program, Path::new(&home));
            command.args(argument);
            let output = program::run(command);
            assert!(output.status.success(), "{}", program::text(&output));
            String::from_utf8(output.stdout).expect("text")
        };
        let python = std::env::var("JINJA2").unwrap_or_else(|_| run(&here.join("get-jinja2"), None).trim().to_owned());
        serde_json::from_str(&run(Path::new(&python), Some(&here.join("jinja2-corpus")))).expect("a corpus")
    }
}

#[test]
fn templates_are_what_jinja2_makes_of_them() {
    let corpus = Corpus::made();
    let site = Plan::default().start();
    let settings = serde_json::to_string(&corpus.settings).expect("JSON");
    let mut change = site.work.change();
    for component in COMPONENTS {
        change = change.file(component, "config.yaml", settings.as_str());
    }
    // The templates of a component share a limit of time.
    let component = |number: usize| COMPONENTS[number % COMPONENTS.len()];
    let mut places = BTreeMap::new();
    for (number, (name, text)) in corpus.files.iter().enumerate() {
        if !corpus.expected.contains_key(name) {
            for component in COMPONENTS {
                change = change.file(component, name, text.as_str());
            }
            continue;
        }
        change = change.file(component(number), &format!("{number}.j2"), text.as_str());
        places.insert(name, format!("{}/{number}", component(number).replace("/master", "/latest")));
    }
    change.option("--push-option=allow-shrink").land();
    site.wait_applied(site.master.sequence());
    let differs = |(name, place): (&&String, &String)| {
        let (found, text, expected) = (site.hosts[0].file(place), &corpus.files[*name], &corpus.expected[*name]);
        (found != *expected).then(|| format!("{name}: {text:?}\n  Jinja2: {expected:?}\n  here:   {found:?}\n"))
    };
    let different: Vec<String> = places.iter().filter_map(differs).collect();
    // Past the capture of tests that pass.
    let _ = writeln!(std::io::stderr(), "{} templates beside Jinja2, {} different", places.len(), different.len());
    assert!(different.is_empty(), "{}", different.concat());
    assert!(places.len() > 1000, "{} templates are too few", places.len());
}
