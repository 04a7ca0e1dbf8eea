//! The report of an import, for people and as JSON. It holds no value of a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use libconf::name::{ComponentName, DatacenterName, HostName, RoleName, SecretName};
use serde::Serialize;

use crate::import::flags::ImportFlags;
use crate::import::proposal::{Proposal, Variable};
use crate::import::scan::{Remark, Tree};
use crate::text::{count, first_and_more};

/// The most files that a person is shown for one variable.
const FILES_SHOWN: usize = 3;

/// The report, before or after writing.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The folder that was read.
    pub(crate) folder: PathBuf,
    /// The class.
    pub(crate) class: String,
    /// The datacenter.
    pub(crate) datacenter: DatacenterName,
    /// The components of each role.
    pub(crate) roles: BTreeMap<RoleName, BTreeSet<ComponentName>>,
    /// The hosts that were named, with their roles.
    pub(crate) hosts: BTreeMap<HostName, Vec<RoleName>>,
    /// The components.
    pub(crate) components: Vec<ComponentReport>,
    /// The values that repeat.
    pub(crate) variables: Vec<Variable>,
    /// The secrets, which are declared and not committed.
    pub(crate) secrets: Vec<SecretReport>,
    /// Text that looks like a secret and is committed, because a flag allows it.
    pub(crate) allowed: Vec<Remark>,
    /// Files and folders that are left out.
    pub(crate) left_out: Vec<Remark>,
    /// What must be settled first.
    pub(crate) faults: Vec<Remark>,
    /// The written repository.
    pub(crate) written: Option<Written>,
}

/// One component.
#[derive(Debug, Serialize)]
pub(crate) struct ComponentReport {
    /// Its name.
    pub(crate) name: ComponentName,
    /// Its branch.
    pub(crate) branch: String,
    /// The folders that hold it.
    pub(crate) folders: Vec<String>,
    /// The number of files and links.
    pub(crate) files: usize,
    /// The bytes of all of them.
    pub(crate) bytes: u64,
    /// The files that become templates.
    pub(crate) templates: Vec<String>,
    /// The file that is read as its settings.
    pub(crate) settings: Option<String>,
    /// Why it is taken byte for byte.
    pub(crate) raw: Option<String>,
    /// Remarks for people.
    pub(crate) notes: Vec<String>,
}

/// A secret.
#[derive(Debug, Serialize)]
pub(crate) struct SecretReport {
    /// Its name.
    pub(crate) name: SecretName,
    /// What it looks like.
    pub(crate) what: &'static str,
    /// File and line of each place.
    pub(crate) places: Vec<String>,
    /// The components that read it.
    pub(crate) readers: BTreeSet<ComponentName>,
}

/// The written repository.
#[derive(Debug, Serialize)]
pub(crate) struct Written {
    /// The repository.
    pub(crate) repository: PathBuf,
    /// The server to which it will be pushed.
    pub(crate) server: String,
    /// Its branches.
    pub(crate) branches: Vec<String>,
    /// The folder with the values of secrets, one file each.
    pub(crate) secrets: Option<PathBuf>,
}

impl Report {
    /// Makes the report before anything is written.
    pub(crate) fn of(tree: &Tree, proposal: &Proposal<'_>, flags: &ImportFlags) -> Self {
        let components = proposal.components.iter().map(|one| ComponentReport {
            name: one.name.clone(),
            branch: proposal.branch.to_string(),
            folders: one.places.iter().map(|place| place.shown.clone()).collect(),
            files: one.places[0].files.len(),
            bytes: one.places[0].bytes(),
            templates: one.templates.keys().cloned().collect(),
            settings: one.settings.clone(),
            raw: one.raw.clone(),
            notes: one.notes.clone(),
        });
        let secrets = proposal.secrets.iter().map(|one| SecretReport {
            name: one.name.clone(),
            what: one.what,
            places: one.places.iter().map(|(file, line)| format!("{file}:{line}")).collect(),
            readers: one.readers.clone(),
        });
        Report {
            folder: flags.folder.clone(),
            class: proposal.class.to_string(),
            datacenter: proposal.datacenter.clone(),
            roles: proposal.roles.clone(),
            hosts: proposal.hosts.iter().map(|(host, (roles, _))| (host.clone(), roles.clone())).collect(),
            components: components.collect(),
            variables: proposal.variables.clone(),
            secrets: secrets.collect(),
            allowed: proposal.allowed.clone(),
            left_out: tree.left_out.clone(),
            faults: proposal.faults.clone(),
            written: None,
        }
    }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "components")?;
        let width = self.components.iter().map(|one| one.name.to_string().len()).max().unwrap_or_default();
        for one in &self.components {
            let (name, files) = (one.name.to_string(), count(one.files, "file"));
            writeln!(f, "  {name:width$}  {files}, from {}", list(&one.folders))?;
            if let Some(raw) = &one.raw {
                writeln!(f, "    byte for byte (raw: true): {raw}")?;
            }
            if let Some(file) = &one.settings {
                writeln!(f, "    {file} is read as its settings, and exported as it is")?;
            }
            one.templates.iter().try_for_each(|file| writeln!(f, "    {file} becomes a template"))?;
            one.notes.iter().try_for_each(|note| writeln!(f, "    {note}"))?;
        }
        writeln!(f, "class {}, datacenter {}", self.class, self.datacenter)?;
        for (role, components) in &self.roles {
            writeln!(f, "  role {role}: {}", list(components))?;
        }
        for (host, roles) in &self.hosts {
            writeln!(f, "  host {host}: {}", list(roles))?;
        }
        if self.hosts.is_empty() {
            writeln!(f, "  no hosts; name them by --host NAME=ROLE, since one that is not listed runs everything")?;
        }
        if !self.variables.is_empty() {
            writeln!(f, "values that repeat")?;
        }
        for one in &self.variables {
            let does = if one.applied { "is" } else { "could be" };
            let shown = list(one.files.iter().take(FILES_SHOWN));
            let shown = first_and_more(shown, one.files.len().saturating_sub(FILES_SHOWN));
            writeln!(f, "  {} {does} platform.{}: {} times in {shown}", one.value, one.name, one.times)?;
        }
        if self.variables.iter().any(|one| !one.applied) {
            writeln!(f, "  take all of them by --apply-variables, or some by --variable NAME=VALUE")?;
        }
        if !self.secrets.is_empty() {
            writeln!(f, "secrets, which are not committed")?;
        }
        for one in &self.secrets {
            writeln!(f, "  {}: {} in {}", one.name, one.what, list(&one.places))?;
        }
        for (words, remarks) in [
            ("looks like a secret, and is committed in clear", &self.allowed),
            ("left out", &self.left_out),
            ("to be settled first", &self.faults),
        ] {
            if !remarks.is_empty() {
                writeln!(f, "{words}")?;
            }
            remarks.iter().try_for_each(|remark| writeln!(f, "  {remark}"))?;
        }
        match &self.written {
            None if self.faults.is_empty() => writeln!(f, "nothing is written; --out REPO writes it down for review"),
            None => writeln!(f, "nothing is written"),
            Some(written) => self.next(written, f),
        }
    }
}

impl Report {
    fn next(&self, written: &Written, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (repository, server) = (shell(&written.repository.display()), shell(&written.server));
        writeln!(f, "written: {repository} with {} branches; nothing has landed", written.branches.len())?;
        writeln!(f, "next")?;
        writeln!(f, "  git -C {repository} log --all --oneline --stat")?;
        if let Some(folder) = &written.secrets {
            for secret in &self.secrets {
                let (name, file) = (&secret.name, shell(&folder.join(secret.name.as_str()).display()));
                writeln!(f, "  conf-master secret set {} {name} --file {file} --server {server}", self.datacenter)?;
            }
            writeln!(f, "  rm -r {}", shell(&folder.display()))?;
        }
        writeln!(f, "  git -C {repository} push --atomic -o dry-run origin --all")?;
        writeln!(f, "  git -C {repository} push --atomic origin --all")
    }
}

/// Quotes one word of a shell command.
fn shell(word: &impl ToString) -> String {
    let word = word.to_string();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._:@%+=,-".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        self.line.iter().try_for_each(|line| write!(f, ":{line}"))?;
        write!(f, ": {}", self.reason)
    }
}
