//! What the workspace takes from others is what `deny.toml` allows.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use serde_json::Value;
use spdx::{Expression, ParseMode};

/// The registry, as Cargo names it.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// One crate of another author.
#[derive(Clone, Debug, Default)]
struct Taken {
    name: String,
    license: Option<String>,
    source: Option<String>,
}

/// Everything that Cargo builds here, for any part of the workspace.
fn taken() -> Vec<Taken> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version=1", "--locked", "--offline", "--all-features"]);
    // What is for other systems may not have been downloaded.
    cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let output = cargo.current_dir(root).output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let built: BTreeSet<String> = list(&told["resolve"]["nodes"]).iter().map(|node| node["id"].to_string()).collect();
    let own: BTreeSet<String> = list(&told["workspace_members"]).iter().map(Value::to_string).collect();
    let others = list(&told["packages"]).into_iter().filter(|one| built.contains(&one["id"].to_string()));
    let others = others.filter(|one| !own.contains(&one["id"].to_string()));
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let others = others.map(|one| Taken {
        name: text(&one["name"]).unwrap_or_default(),
        license: text(&one["license"]),
        source: text(&one["source"]),
    });
    others.collect()
}

fn rules() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deny.toml")).expect("deny.toml")
}

fn names(value: &toml::Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

/// Says what is not as the rules say.
fn faults(text: &str, taken: &[Taken]) -> Vec<String> {
    let rules: toml::Table = text.parse().expect("TOML");
    let (licenses, mut faults) = (&rules["licenses"], Vec::new());
    let allowed = names(&licenses["allow"]);
    let exceptions: BTreeMap<String, BTreeSet<String>> = licenses["exceptions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| (one["crate"].as_str().expect("a name").to_owned(), names(&one["allow"])))
        .collect();
    let (mut used, mut excepted) = (BTreeSet::new(), BTreeSet::new());
    for one in taken {
        let Taken { name, license, source } = one;
        if source.as_deref() != Some(REGISTRY) {
            faults.push(format!("{name} comes from {source:?}"));
        }
        let Some(license) = license else {
            faults.push(format!("{name} names no licence"));
            continue;
        };
        let Ok(parsed) = Expression::parse_mode(license, ParseMode::LAX) else {
            faults.push(format!("{name} has a licence that cannot be read: {license}"));
            continue;
        };
        let of_rules = parsed.evaluate(|asked| {
            let is_allowed = allowed.contains(&asked.to_string());
            used.extend(is_allowed.then(|| asked.to_string()));
            is_allowed
        });
        let more = exceptions.get(name);
        let is_in = |asked: &spdx::LicenseReq| {
            let asked = asked.to_string();
            allowed.contains(&asked) || more.is_some_and(|more| more.contains(&asked))
        };
        if of_rules {
            continue;
        }
        if parsed.evaluate(is_in) {
            excepted.insert(name.clone());
        } else {
            faults.push(format!("{name} is under {license}"));
        }
    }
    let needless = exceptions.keys().filter(|name| !excepted.contains(*name));
    faults.extend(needless.map(|name| format!("the exception for {name} is not needed")));
    faults.extend(allowed.difference(&used).map(|license| format!("no crate is under {license}")));
    for one in rules["bans"]["deny"].as_array().into_iter().flatten() {
        let name = one["crate"].as_str().expect("a name");
        if one.get("reason").and_then(|reason| reason.as_str()).is_none_or(str::is_empty) {
            faults.push(format!("the ban of {name} has no reason"));
        }
        if taken.iter().any(|taken| taken.name == name) {
            faults.push(format!("{name} is banned"));
        }
    }
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for pair in lines.windows(2).filter(|pair| pair[1].starts_with("{ crate") && !pair[1].contains("reason")) {
        if !pair[0].starts_with('#') {
            faults.push(format!("no reason stands above `{}`", pair[1]));
        }
    }
    faults
}

#[test]
fn what_others_wrote_is_allowed() {
    let taken = taken();
    assert!(taken.len() > 100, "{}", taken.len());
    let faults = faults(&rules(), &taken);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_is_not_allowed_is_found() {
    let text = rules();
    let one = |name: &str, license: &str| Taken {
        name: name.to_owned(),
        license: Some(license.to_owned()),
        source: Some(REGISTRY.to_owned()),
    };
    let good = [
        one("a", "0BSD"),
        one("b", "GPL-3.0-only OR Apache-2.0"),
        one("c", "BSD-3-Clause AND ISC"),
        one("d", "MIT/Unlicense"),
        one("e", "Unicode-3.0"),
        one("f", "Zlib"),
        one("notify", "CC0-1.0"),
        one("borrow-or-share", "MIT-0"),
    ];
    assert_eq!(faults(&text, &good), Vec::<String>::new());
    let with = |more: Taken| faults(&text, &[&good[..], &[more]].concat());
    for (bad, words) in [
        (one("x", "GPL-3.0-only"), "x is under GPL-3.0-only"),
        (one("x", "MIT AND CC0-1.0"), "x is under MIT AND CC0-1.0"),
        (one("x", "?"), "x has a licence that cannot be read: ?"),
        (one("openssl", "MIT"), "openssl is banned"),
        (Taken { license: None, ..one("x", "") }, "x names no licence"),
        (Taken { source: Some("git+https://x".to_owned()), ..one("x", "MIT") }, "x comes from Some(\"git+https://x\")"),
        (Taken { source: None, ..one("x", "MIT") }, "x comes from None"),
    ] {
        assert_eq!(with(bad), [words]);
    }
    assert_eq!(faults(&text, &good[..7]), ["the exception for borrow-or-share is not needed"]);
    assert_eq!(faults(&text, &good[1..]), ["no crate is under 0BSD"]);
    let silent = text.replace("so it asks for less.\n", "so it asks for less.\n\n");
    let told = faults(&silent, &good);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("no reason stands above"), "{told:?}");
}
