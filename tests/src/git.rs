//! An engineer: a repository to push from, with any git, and only the test's own configuration.

use std::{
    cell::Cell,
    fmt::Write as _,
    io::{Seek as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::program::{command, run, run_reading, text};

/// The outcome of a git command.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// True if it ended with 0.
    pub ok: bool,
    /// Its output.
    pub text: String,
}

impl Outcome {
    /// Expects success, and returns the output.
    #[track_caller]
    pub fn accepted(self) -> String {
        assert!(self.ok, "git failed:\n{}", self.text);
        self.text
    }

    /// Expects a refusal whose text has all of these words.
    #[track_caller]
    pub fn refused(self, words: &[&str]) -> String {
        assert!(!self.ok, "this should have been refused:\n{}", self.text);
        // Git breaks long messages of the server into lines.
        let flat = self.text.replace("remote:", " ");
        let flat: String = flat.split_whitespace().collect::<Vec<_>>().join(" ");
        for word in words {
            assert!(flat.contains(word), "the refusal does not say {word:?}:\n{}", self.text);
        }
        self.text
    }
}

/// A bare repository to push from. Commits are made without a working tree, each with a date of its
/// own.
#[derive(Debug)]
pub struct Work {
    folder: PathBuf,
    program: PathBuf,
    remote: String,
    clock: Cell<u64>,
}

/// Finds the git executables of this machine: the one on the path, and Debian's if that is another.
pub fn executables() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in std::env::split_paths(&path).chain(["/usr/bin".into()]) {
        let program = folder.join("git");
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if program.exists() && !found.iter().any(|one| real(one) == real(&program)) {
            found.push(program);
        }
    }
    found
}

/// Makes a git command in a clean environment.
pub fn git(program: &Path, folder: &Path) -> Command {
    let mut git = command(program, folder);
    git.current_dir(folder);
    git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
    for role in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{role}_NAME"), "Erin Engineer").env(format!("GIT_{role}_EMAIL"), "erin@example.com");
    }
    git
}

impl Work {
    /// Makes an empty repository in a new folder, which pushes to `remote`.
    pub fn new(folder: &Path, remote: &str) -> Self {
        Self::with_program(folder, remote, Path::new("git"))
    }

    /// As [`Work::new`], with another git.
    pub fn with_program(folder: &Path, remote: &str, program: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("the folder can be made");
        let work = Work {
            folder: folder.to_owned(),
            program: program.to_owned(),
            remote: remote.to_owned(),
            clock: Cell::new(1_700_000_000),
        };
        work.git(&["init", "-q", "--bare", "-b", "main"]);
        work.git(&["config", "gc.auto", "0"]);
        work.git(&["remote", "add", "origin", remote]);
        work
    }

    /// Returns its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the URL that it pushes to.
    pub fn remote(&self) -> &str {
        &self.remote
    }

    /// Runs git here and expects success. Returns its output and its standard error, trimmed.
    #[track_caller]
    pub fn git(&self, arguments: &[&str]) -> String {
        self.try_git(arguments).accepted().trim().to_owned()
    }

    /// Runs git here.
    pub fn try_git(&self, arguments: &[&str]) -> Outcome {
        let mut git = self.command();
        git.args(arguments);
        let output = run(git);
        Outcome { ok: output.status.success(), text: text(&output) }
    }

    /// Makes a git command here, which the test runs itself.
    pub fn command(&self) -> Command {
        git(&self.program, &self.folder)
    }

    /// Runs git here with standard input.
    #[track_caller]
    pub fn git_reading(&self, arguments: &[&str], input: &[u8]) -> String {
        text(&self.run_reading(arguments, input)).trim().to_owned()
    }

    #[track_caller]
    fn run_reading(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut file = tempfile::tempfile().expect("a temporary file can be made");
        file.write_all(input).and_then(|()| file.rewind()).expect("a temporary file can be written");
        let mut git = self.command();
        git.args(arguments);
        let output = run_reading(git, file);
        assert!(output.status.success(), "git {arguments:?} failed:\n{}", text(&output));
        output
    }

    /// Returns the id that a name has here.
    #[track_caller]
    pub fn id(&self, name: &str) -> String {
        self.git(&["rev-parse", "--verify", "--end-of-options", name])
    }

    /// Begins a change of one or more branches.
    pub fn change(&self) -> Change<'_> {
        Change { work: self, branches: Vec::new(), words: None, also: Vec::new(), options: Vec::new() }
    }

    /// Pushes refspecs in one step.
    pub fn push(&self, refspecs: &[&str]) -> Outcome {
        let mut arguments = vec!["push", "-q", "--atomic", "origin"];
        arguments.extend(refspecs);
        self.try_git(&arguments)
    }

    /// Makes a pack of everything that these names reach. Without names it is empty.
    pub fn git_pack(&self, names: &[&str]) -> Vec<u8> {
        self.run_reading(&["pack-objects", "--revs", "--stdout", "-q"], names.join("\n").as_bytes()).stdout
    }

    fn now(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }
}

/// A change of branches, one commit each.
#[derive(Debug)]
pub struct Change<'a> {
    work: &'a Work,
    branches: Vec<(String, Vec<Edit>)>,
    words: Option<String>,
    also: Vec<String>,
    options: Vec<String>,
}

#[derive(Debug)]
struct Edit {
    path: String,
    content: Content,
}

#[derive(Debug)]
enum Content {
    File { mode: &'static str, bytes: Vec<u8> },
    Submodule(String),
    Absent,
}

impl Change<'_> {
    /// Adds a file to a branch (its name without `refs/heads/`).
    #[must_use]
    pub fn file(self, branch: &str, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.edit(branch, path, Content::File { mode: "100644", bytes: content.as_ref().to_owned() })
    }

    /// Adds an executable file.
    #[must_use]
    pub fn executable(self, branch: &str, path: &str, content: &str) -> Self {
        self.edit(branch, path, Content::File { mode: "100755", bytes: content.into() })
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(self, branch: &str, path: &str, target: &str) -> Self {
        self.edit(branch, path, Content::File { mode: "120000", bytes: target.into() })
    }

    /// Adds a submodule.
    #[must_use]
    pub fn submodule(self, branch: &str, path: &str, commit: &str) -> Self {
        self.edit(branch, path, Content::Submodule(commit.to_owned()))
    }

    /// Removes a file.
    #[must_use]
    pub fn without(self, branch: &str, path: &str) -> Self {
        self.edit(branch, path, Content::Absent)
    }

    /// Adds a paragraph at the end of each commit's message.
    #[must_use]
    pub fn words(mut self, words: &str) -> Self {
        self.words = Some(words.to_owned());
        self
    }

    /// Pushes a refspec along with the branches.
    #[must_use]
    pub fn also(mut self, refspec: &str) -> Self {
        self.also.push(refspec.to_owned());
        self
    }

    /// Adds an option of `git push`.
    #[must_use]
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    fn edit(mut self, branch: &str, path: &str, content: Content) -> Self {
        let edit = Edit { path: path.to_owned(), content };
        match self.branches.iter_mut().find(|one| one.0 == branch) {
            Some(one) => one.1.push(edit),
            None => self.branches.push((branch.to_owned(), vec![edit])),
        }
        self
    }

    /// Makes the commits without pushing them.
    pub fn commit(&self) {
        let known = self.work.git(&["for-each-ref", "--format=%(refname)"]);
        let known: std::collections::HashSet<&str> = known.lines().collect();
        let mut script: Vec<u8> = Vec::new();
        for (branch, edits) in &self.branches {
            let name = format!("refs/heads/{branch}");
            let words = self.words.iter().map(|words| format!("\n{words}\n"));
            let message = format!("Change {branch}\n{}", words.collect::<String>());
            let mut head = String::new();
            let _ = writeln!(head, "commit {name}");
            let _ = writeln!(head, "committer Erin Engineer <erin@example.com> {} +0000", self.work.now());
            let _ = writeln!(head, "data {}\n{message}", message.len());
            if known.contains(name.as_str()) {
                let _ = writeln!(head, "from {name}^0");
            }
            script.extend(head.into_bytes());
            for Edit { path, content } in edits {
                match content {
                    Content::File { mode, bytes } => {
                        script.extend(format!("M {mode} inline {}\ndata {}\n", quoted(path), bytes.len()).bytes());
                        script.extend(bytes);
                        script.push(b'\n');
                    }
                    Content::Submodule(commit) => {
                        script.extend(format!("M 160000 {commit} {}\n", quoted(path)).bytes());
                    }
                    Content::Absent => script.extend(format!("D {}\n", quoted(path)).bytes()),
                }
            }
            script.push(b'\n');
        }
        self.work.git_reading(&["fast-import", "--quiet"], &script);
    }

    /// Makes the commits and pushes them in one step. After a refusal the branches here go back,
    /// too.
    pub fn push(self) -> Outcome {
        let before = self.work.git(&["for-each-ref", "--format=update %(refname) %(objectname)", "refs/heads"]);
        self.commit();
        let refspecs = self.branches.iter().map(|(branch, _)| format!("refs/heads/{branch}:refs/heads/{branch}"));
        let refspecs: Vec<String> = refspecs.chain(self.also.iter().cloned()).collect();
        let mut arguments = vec!["push", "-q", "--atomic"];
        arguments.extend(self.options.iter().map(String::as_str));
        arguments.push("origin");
        arguments.extend(refspecs.iter().map(String::as_str));
        let outcome = self.work.try_git(&arguments);
        if !outcome.ok {
            let mut undo = String::new();
            for (branch, _) in &self.branches {
                if !before.contains(&format!(" refs/heads/{branch} ")) {
                    let _ = writeln!(undo, "delete refs/heads/{branch}");
                }
            }
            let undo = undo + &before;
            self.work.git_reading(&["update-ref", "--stdin"], format!("{}\n", undo.trim_end()).as_bytes());
        }
        outcome
    }

    /// As [`Change::push`], and expects success.
    #[track_caller]
    pub fn land(self) -> String {
        self.push().accepted()
    }

    /// Makes the commits and pushes them in order, in as many steps as the limit of refs asks for.
    #[track_caller]
    pub fn land_in_steps(self) {
        /// conf-master takes a thousand.
        const REFS_AT_ONCE: usize = 900;
        self.commit();
        let refs: Vec<String> = self.branches.iter().map(|(branch, _)| format!("refs/heads/{branch}")).collect();
        for step in refs.chunks(REFS_AT_ONCE) {
            self.work.push(&step.iter().map(String::as_str).collect::<Vec<_>>()).accepted();
        }
    }
}

fn quoted(path: &str) -> String {
    format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
