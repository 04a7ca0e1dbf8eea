//! Writes a proposal as a Git repository with the branches of the layout. The repository appears in
//! one step, whole.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use conf_core::settings::TEMPLATE_ENDING;
use conf_core::{
    manifest::{self, ClassManifest, InstanceManifest, Strictness},
    settings::Fault,
};
use git2::build::TreeUpdateBuilder;
use git2::{FileMode, Repository, RepositoryInitOptions};
use libconf::name::RefName;

use crate::import::flags::ImportFlags;
use crate::import::manifests;
use crate::import::proposal::{Component, Proposal};
use crate::import::report::Written;
use crate::import::template::template;
use crate::store::beside;

/// Writes the repository `out`, and beside it the values of secrets, for their owner alone. A
/// failure leaves neither.
pub(crate) fn write(proposal: &Proposal<'_>, out: &Path, flags: &ImportFlags) -> anyhow::Result<Written> {
    // The path without a slash at its end.
    let out: PathBuf = out.components().collect();
    let values = beside(&out, ".secrets");
    for path in [&out, &values] {
        if path.symlink_metadata().is_ok() {
            bail!("{} is there already; give --out another name, or remove it", path.display());
        }
    }
    let class = manifests::class(proposal);
    let instance = manifests::instance(proposal);
    look_at(ClassManifest::parse(&class, Strictness::Strict))?;
    look_at(InstanceManifest::parse(&instance, Strictness::Strict))?;

    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stage = || {
        let own = fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix(".import-").permissions(own).tempdir_in(parent);
        folder.with_context(|| format!("cannot write in {}", parent.display()))
    };
    let folder = stage()?;
    let server = flags.server.to_string().trim_end_matches('/').to_owned();
    let branches = write_branches(proposal, folder.path(), &server, [&class, &instance])?;

    let mut secrets = None;
    if !proposal.secrets.is_empty() {
        let staged = stage()?;
        write_values(proposal, staged.path())?;
        fs::rename(staged.path(), &values).with_context(|| format!("cannot make {}", values.display()))?;
        let _ = staged.keep();
        secrets = Some(values);
    }
    // The temporary folder is for its owner alone; the repository gets the usual mode.
    let opened = fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755));
    if let Err(error) = opened.and_then(|()| fs::rename(folder.path(), &out)) {
        if let Some(values) = &secrets {
            let _ = fs::remove_dir_all(values);
        }
        return Err(error).with_context(|| format!("cannot make {}", out.display()));
    }
    let _ = folder.keep();
    Ok(Written { repository: out, server, branches, secrets })
}

/// Checks the output of this program: no repository is better than one that would be refused.
fn look_at<T>(parsed: Result<T, Vec<Fault>>) -> anyhow::Result<()> {
    if let Err(faults) = parsed {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        bail!("the {} that was proposed would be refused: {}", manifest::FILE, faults.join("; "));
    }
    Ok(())
}

/// Makes the repository with its branches; returns the names of the branches.
fn write_branches(
    proposal: &Proposal<'_>,
    folder: &Path,
    server: &str,
    [class, instance]: [&str; 2],
) -> anyhow::Result<Vec<String>> {
    let mut options = RepositoryInitOptions::new();
    let first = RefName::Datacenter(proposal.datacenter.clone());
    options.external_template(false).initial_head(&first.to_string());
    options.origin_url(&format!("{server}/conf.git"));
    let repo = Repository::init_opts(folder, &options)?;
    let author = repo.signature().map_err(|_| {
        anyhow::anyhow!("commits need an author: git config --global user.name NAME, and user.email ADDRESS")
    })?;
    let empty = repo.find_tree(repo.treebuilder(None)?.write()?)?;
    let mut branches = Vec::new();
    let mut branch = |name: RefName, mut files: TreeUpdateBuilder, message: &str| -> anyhow::Result<()> {
        let tree = repo.find_tree(files.create_updated(&repo, &empty)?)?;
        repo.commit(Some(&name.to_string()), &author, &author, message, &tree, &[])?;
        branches.push(name.short());
        Ok(())
    };
    for component in &proposal.components {
        let name = RefName::Branch(component.name.clone(), proposal.branch.clone());
        let from: Vec<&str> = component.places.iter().map(|place| place.shown.as_str()).collect();
        let message = format!("{}: as it is in {}", component.name.name, from.join(", "));
        branch(name, files_of(&repo, component)?, &message)?;
    }
    for (name, text, message) in [
        (RefName::Class(proposal.class.clone()), class, format!("{}: what was imported", proposal.class)),
        (first, instance, format!("{}: what was imported", proposal.datacenter)),
    ] {
        let mut files = TreeUpdateBuilder::new();
        files.upsert(manifest::FILE, repo.blob(text.as_bytes())?, FileMode::Blob);
        branch(name, files, &message)?;
    }
    repo.checkout_head(None)?;
    Ok(branches)
}

/// Writes the files of a component, templates in the place of those that become one.
fn files_of(repo: &Repository, component: &Component<'_>) -> anyhow::Result<TreeUpdateBuilder> {
    let folder = component.places[0];
    let mut files = TreeUpdateBuilder::new();
    for (file, entry) in &folder.files {
        let bytes = folder.read(file)?;
        let (path, bytes) = match component.templates.get(file) {
            Some(replacements) => {
                let text = String::from_utf8(bytes).with_context(|| format!("{file} is no longer text"))?;
                (format!("{file}{TEMPLATE_ENDING}"), template(&text, replacements).into_bytes())
            }
            None => (file.clone(), bytes),
        };
        files.upsert(path, repo.blob(&bytes)?, entry.mode);
    }
    Ok(files)
}

/// Writes one file for each value into `folder`, which nobody else can open.
fn write_values(proposal: &Proposal<'_>, folder: &Path) -> anyhow::Result<()> {
    for secret in &proposal.secrets {
        let path = folder.join(secret.name.as_str());
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(secret.value.as_bytes()));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
