//! `conf-local diff`: compares the exported files of a component with a folder that another tool
//! wrote.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use git2::Patch;
use libconf::name::{ComponentSelector, ComponentVersion};
use serde::Serialize;

use crate::{
    cli::{near::near, options::DiffOptions, output::Usage},
    service::StatusAnswer,
};

/// 1 MiB: a larger file is only reported as changed.
const MOST_BYTES: u64 = 1 << 20;
/// 20,000: a folder with more files is hardly the configuration of one program.
const MOST_FILES: usize = 20_000;

/// The result: the output of `--json`.
#[derive(Debug, Serialize)]
struct Comparison {
    component: ComponentVersion,
    path: PathBuf,
    same: bool,
    files: Vec<Difference>,
}

/// One file that differs. The file at the path is the old one, the exported file the new one.
#[derive(Debug, Serialize)]
struct Difference {
    file: String,
    /// `added`: only in the export; `removed`: only at the path, where conf-local would leave it;
    /// `changed`; `mode`: only the permission to execute it.
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
}

/// An entry of a folder.
enum Item {
    File { path: PathBuf, size: u64, executable: bool },
    Link(PathBuf),
    Other,
}

pub(crate) async fn run(options: &DiffOptions) -> anyhow::Result<ExitCode> {
    let status: StatusAnswer = options.output.socket.get("/v1/status", Duration::ZERO).await?;
    let Some(current) = status.status.current else {
        bail!("nothing is exported on this host yet");
    };
    let component = version(&current, &options.component)?;
    let comparison = compare(component, &current, &options.path)?;
    options.output.print(&comparison, || text(&comparison))?;
    Ok(if comparison.same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the one version of the component that is exported.
fn version(current: &Path, selector: &ComponentSelector) -> anyhow::Result<ComponentVersion> {
    let folder = current.join(selector.component.to_string());
    let names = fs::read_dir(&folder)
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>());
    // The settings beside a version, `<version>.json`, have no name of a version.
    let mut versions: Vec<ComponentVersion> = names
        .unwrap_or_default()
        .iter()
        .filter_map(|version| format!("{}/{version}", selector.component).parse().ok())
        .filter(|version| selector.matches(version))
        .collect();
    match (versions.pop(), versions.is_empty()) {
        (Some(version), true) => Ok(version),
        (Some(_), false) => Err(Usage(format!("{selector} runs here in several versions; name one")).into()),
        (None, _) => bail!("{selector} is not exported on this host{}", near(current, selector)),
    }
}

fn compare(component: ComponentVersion, current: &Path, path: &Path) -> anyhow::Result<Comparison> {
    let exported = current.join(component.to_string());
    let new = list(&exported).with_context(|| format!("cannot read {}", exported.display()))?;
    let old = list(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut files = Vec::new();
    for (file, found) in &new {
        let difference = match (old.get(file), found) {
            (None, _) => Some(("added", diff(None, Some(found))?)),
            (Some(Item::Link(before)), Item::Link(after)) if before == after => None,
            (Some(before @ Item::File { executable: was, .. }), Item::File { executable, .. }) => {
                if !same(before, found)? {
                    Some(("changed", diff(Some(before), Some(found))?))
                } else if was == executable {
                    None
                } else {
                    let bits = |executable: bool| if executable { "may be executed" } else { "may not be executed" };
                    Some(("mode", Some(format!("{}, exported: {}\n", bits(*was), bits(*executable)))))
                }
            }
            (Some(_), _) => Some(("changed", None)),
        };
        files.extend(difference.map(|(change, diff)| Difference { file: file.clone(), change, diff }));
    }
    let removed = old.keys().filter(|file| !new.contains_key(*file));
    files.extend(removed.map(|file| Difference { file: file.clone(), change: "removed", diff: None }));
    files.sort_by(|one, other| one.file.cmp(&other.file));
    Ok(Comparison { component, path: path.to_owned(), same: files.is_empty(), files })
}

/// Lists everything below a folder except folders, by path. Follows no link, except for the folder
/// itself.
fn list(folder: &Path) -> io::Result<BTreeMap<String, Item>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![(String::new(), fs::canonicalize(folder)?)];
    while let Some((above, folder)) = pending.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let name = format!("{above}{}", entry.file_name().to_string_lossy());
            let one = if kind.is_dir() {
                pending.push((format!("{name}/"), path));
                continue;
            } else if kind.is_symlink() {
                Item::Link(fs::read_link(path)?)
            } else if kind.is_file() {
                let about = entry.metadata()?;
                Item::File { path, size: about.len(), executable: about.permissions().mode() & 0o100 != 0 }
            } else {
                Item::Other
            };
            found.insert(name, one);
            if found.len() > MOST_FILES {
                return Err(io::Error::other(format!(
                    "there are more than {MOST_FILES} files; name the component's folder"
                )));
            }
        }
    }
    Ok(found)
}

fn same(one: &Item, other: &Item) -> anyhow::Result<bool> {
    match (one, other) {
        (Item::File { path: one, size, .. }, Item::File { path: other, size: other_size, .. }) => {
            Ok(size == other_size && read(one)? == read(other)?)
        }
        _ => Ok(false),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Returns a unified diff; `None` for a large file, and for one that is not text.
fn diff(old: Option<&Item>, new: Option<&Item>) -> anyhow::Result<Option<String>> {
    let content = |found: Option<&Item>| -> anyhow::Result<Option<Vec<u8>>> {
        match found {
            None => Ok(Some(Vec::new())),
            Some(Item::File { path, size, .. }) if *size <= MOST_BYTES => read(path).map(Some),
            Some(_) => Ok(None),
        }
    };
    let (Some(old), Some(new)) = (content(old)?, content(new)?) else { return Ok(None) };
    let patch = Patch::from_buffers(&old, None, &new, None, None).and_then(|mut patch| patch.to_buf());
    let Ok(patch) = patch else { return Ok(None) };
    let text = String::from_utf8_lossy(&patch).into_owned();
    // The lines above the first hunk name files that do not exist.
    Ok(text.find("@@").map(|start| text[start..].to_owned()))
}

fn text(comparison: &Comparison) -> String {
    let Comparison { component, path, same, files } = comparison;
    if *same {
        return format!("{} is as {component} is exported", path.display());
    }
    let shown = files.iter().map(|Difference { file, change, diff }| {
        let here = path.join(file);
        let head = match *change {
            "removed" => return format!("only at {}; conf-local would leave it\n", here.display()),
            "added" => format!("--- /dev/null\n+++ {component}/{file}\n"),
            "mode" => format!("{}: ", here.display()),
            _ => format!("--- {}\n+++ {component}/{file}\n", here.display()),
        };
        head + diff.as_deref().unwrap_or("(not text, or large, or of another kind)\n")
    });
    shown.collect()
}
