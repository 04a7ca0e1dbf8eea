//! The sample configuration, against the real daemons.

use std::{collections::BTreeSet, fs, path::Path};

use tests::program::{built, command, run, text};

/// The daemons, and the command of each that reads the file.
const DAEMONS: [(&str, &str); 3] = [("conf-master", "serve"), ("conf-slave", "run"), ("conf-local", "run")];

/// Writes what the packages hold besides the programs.
fn pages(folder: &Path) {
    let mut pages = command(built("conf-pages"), folder);
    pages.arg(folder);
    let output = run(pages);
    assert!(output.status.success(), "{}", text(&output));
}

/// Takes the `#` away from each key that is a comment. Descriptions have a blank behind it.
fn with_every_key(sample: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|first: char| first.is_ascii_lowercase()) => rest.to_owned(),
        _ => line.to_owned(),
    };
    sample.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

fn keys(sample: &str) -> Vec<&str> {
    sample
        .lines()
        .filter(|line| !line.starts_with(['#', ' ']))
        .filter_map(|line| Some(line.split_once(':')?.0))
        .collect()
}

/// What the daemon says of a file.
fn said_of(daemon: &str, start: &str, folder: &Path, file: &str) -> (Option<i32>, String) {
    let path = folder.join("config.yaml");
    fs::write(&path, file).expect("the folder can be written");
    let mut daemon = command(built(daemon), folder);
    daemon.arg(start).arg("--config").arg(&path);
    let output = run(daemon);
    (output.status.code(), text(&output))
}

#[test]
fn every_key_is_known_and_every_known_key_is_there() {
    let home = tempfile::tempdir().expect("a folder can be made");
    pages(home.path());
    for (daemon, start) in DAEMONS {
        let path = home.path().join(format!("conf/{daemon}.yaml"));
        let sample = with_every_key(&fs::read_to_string(path).expect("it was written"));
        let named = keys(&sample);
        let set: BTreeSet<&str> = named.iter().copied().collect();
        assert_eq!(named.len(), set.len(), "the sample of {daemon} names a key twice: {named:?}");
        // Keys are read in their order, so it complains of this one only when it knows all others.
        let (code, said) = said_of(daemon, start, home.path(), &format!("{sample}zzz: 1\n"));
        assert_eq!(code, Some(2), "{daemon}: {said}");
        assert!(said.contains("unknown key 'zzz'"), "{daemon}: {said}");
        let known = said.split_once("known are ").and_then(|(_, rest)| rest.lines().next());
        let known = known.expect("it lists what it knows").split(", ");
        let missing: Vec<&str> = known.filter(|key| !set.contains(key)).collect();
        assert!(missing.is_empty(), "the sample of {daemon} lacks {missing:?}");
    }
}

/// As it is installed, each file is read without a complaint; what is missing is what it says.
#[test]
fn a_sample_as_it_is_installed_lacks_what_it_says() {
    let home = tempfile::tempdir().expect("a folder can be made");
    pages(home.path());
    for ((daemon, start), lacks) in
        DAEMONS.into_iter().zip(["", "--datacenter <ID/VERSION>", "--datacenter <ID/VERSION>"])
    {
        let sample = fs::read_to_string(home.path().join(format!("conf/{daemon}.yaml"))).expect("it was written");
        let (code, said) = said_of(daemon, start, home.path(), &sample);
        if lacks.is_empty() {
            // conf-master has all that it needs, but for the repository.
            assert!(code == Some(1) && said.contains("/var/lib/conf-master/central.git"), "{daemon}: {said}");
        } else {
            assert!(code == Some(2) && said.contains(lacks), "{daemon}: {said}");
        }
    }
}

#[test]
fn manuals_and_completions_know_each_command() {
    let home = tempfile::tempdir().expect("a folder can be made");
    pages(home.path());
    for (daemon, start) in DAEMONS {
        let manual = fs::read_to_string(home.path().join(format!("man/{daemon}-{start}.1"))).expect("it was written");
        assert!(manual.contains("CONF_") && manual.contains("config"), "{manual}");
        let mut words = command("bash", home.path());
        // What bash would offer behind the program's name.
        words.args([
            "-c",
            "source \"$1\"; COMP_WORDS=(\"$2\" ''); COMP_CWORD=1; offer=$(complete -p \"$2\" | sed 's/.* -F \\([^ ]*\\) .*/\\1/'); \"$offer\" \"$2\" '' \"$2\"; echo \"${COMPREPLY[@]}\"",
            "bash",
        ]);
        words.arg(home.path().join(format!("bash/{daemon}.bash"))).arg(daemon);
        let offered = text(&run(words));
        assert!(offered.split_whitespace().any(|word| word == start), "{daemon}: {offered}");
        assert!(home.path().join(format!("zsh/_{daemon}")).exists());
        assert!(home.path().join(format!("fish/{daemon}.fish")).exists());
    }
}
