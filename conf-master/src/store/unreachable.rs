//! Objects that nothing leads to: finds them, and removes them for good.
//!
//! `extensions.preciousObjects` keeps Git from it, and an age tells nothing, because each repacking
//! makes new files. So the caller looks twice, and removes what nothing led to at either look.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fmt::{Display, Write as _};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, ensure};
use conf_core::git;
use git2::{Oid, Repository};
use libconf::name::ObjectId;
use tempfile::TempDir;

/// The files of a pack. The index goes first: Git does not see a pack without one.
const ENDINGS: [&str; 6] = ["idx", "rev", "bitmap", "mtimes", "promisor", "pack"];

/// Lists the objects of the repository that neither a ref nor one of `roots` leads to. The
/// quarantines of running pushes are no part of it. Blocks for some seconds for each million
/// objects. Any error means that nothing is known.
pub(crate) fn objects(path: &Path, roots: &BTreeSet<ObjectId>) -> anyhow::Result<HashSet<Oid>> {
    let repo = Repository::open_bare(path)?;
    let odb = repo.odb()?;
    let mut found = HashSet::new();
    odb.foreach(|id| {
        found.insert(*id);
        true
    })?;
    if found.is_empty() {
        return Ok(found);
    }
    // What came after the list is not in it, so that it cannot be taken for lost.
    let roots = roots.iter().filter(|root| odb.exists((**root).into()));
    each_reached(path, &["--all"], &lines_of(roots), |id| {
        found.remove(&id);
    })?;
    Ok(found)
}

/// Lists the objects that `tips` lead to and no ref does. Tips that are not here lead nowhere.
pub(crate) fn behind(path: &Path, tips: &BTreeSet<ObjectId>) -> anyhow::Result<HashSet<Oid>> {
    let repo = Repository::open_bare(path)?;
    let odb = repo.odb()?;
    let here = lines_of(tips.iter().filter(|tip| odb.exists((**tip).into())));
    let mut found = HashSet::new();
    if !here.is_empty() {
        each_reached(path, &["--not", "--all", "--not"], &here, |id| {
            found.insert(id);
        })?;
    }
    Ok(found)
}

/// Lists the objects that the refs and `roots` lead to now, and `before` did not. It may name more.
pub(crate) fn since(
    path: &Path,
    before: &BTreeSet<ObjectId>,
    roots: &BTreeSet<ObjectId>,
) -> anyhow::Result<HashSet<Oid>> {
    let repo = Repository::open_bare(path)?;
    let odb = repo.odb()?;
    let here = |id: &&ObjectId| odb.exists((**id).into());
    let excluded = before.iter().filter(here).map(|id| format!("^{id}\n"));
    let lines: String = excluded.chain(roots.iter().filter(here).map(|id| format!("{id}\n"))).collect();
    let mut found = HashSet::new();
    each_reached(path, &["--all"], &lines, |id| {
        found.insert(id);
    })?;
    Ok(found)
}

/// Writes each id on a line of its own.
fn lines_of(ids: impl Iterator<Item = impl Display>) -> String {
    ids.fold(String::new(), |mut lines, id| {
        // A text takes all that is written.
        let _ = writeln!(lines, "{id}");
        lines
    })
}

/// Calls for each object that a walk of Git reaches. `lines` are more tips.
fn each_reached(path: &Path, from: &[&str], lines: &str, mut reached: impl FnMut(Oid)) -> anyhow::Result<()> {
    let mut git = git::command(path);
    git.args(["rev-list", "--objects", "--no-object-names"]).args(from).arg("--stdin");
    let mut child = Running(git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let mut input = child.0.stdin.take().context("git has no input")?;
    let output = BufReader::new(child.0.stdout.take().context("git has no output")?);
    // It writes nothing before it has read all.
    input.write_all(lines.as_bytes())?;
    drop(input);
    for line in output.lines() {
        let line = line?;
        reached(line.trim_end().parse().with_context(|| format!("git wrote {line:?}, which names no object"))?);
    }
    let status = child.0.wait()?;
    ensure!(status.success(), "git rev-list ended with {status}");
    Ok(())
}

/// A Git program, which does not outlive its reader.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended, and that is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A removal that is prepared: what stays of each pack is written, and nothing is removed yet.
pub(crate) struct Removal {
    path: PathBuf,
    /// Packs that go, and their files.
    old: Vec<PathBuf>,
    /// New packs in the folder where they were written.
    new: TempDir,
    loose: Vec<PathBuf>,
    /// The objects that go.
    pub(crate) gone: HashSet<Oid>,
}

impl Removal {
    /// Writes anew what stays of the packs with objects of `gone`. Blocks. Nobody else may remove
    /// packs until the removal is done or dropped.
    pub(crate) fn prepare(path: &Path, gone: HashSet<Oid>) -> anyhow::Result<Self> {
        let objects = path.join("objects");
        // The next start removes it, if this program is killed.
        let new = tempfile::Builder::new().prefix("tmp_pack_kept_").tempdir_in(&objects)?;
        let mut old = Vec::new();
        for (pack, _) in git::packs(path)? {
            // A push that is just written keeps its pack so.
            if pack.with_extension("keep").exists() {
                continue;
            }
            let held = objects_of(path, &pack)?;
            if held.is_disjoint(&gone) {
                continue;
            }
            let kept = lines_of(held.difference(&gone));
            if !kept.is_empty() {
                write_pack(path, &kept, new.path())?;
            }
            old.push(pack);
        }
        let file = |id: &Oid| {
            let id = id.to_string();
            objects.join(&id[..2]).join(&id[2..])
        };
        let loose = gone.iter().map(file).filter(|file| file.exists()).collect();
        Ok(Removal { path: path.to_owned(), old, new, loose, gone })
    }

    /// Removes the objects. Nothing may land meanwhile, and nothing that landed may need them. A
    /// crash leaves both packs, or less that is of no use.
    pub(crate) fn finish(self) -> io::Result<()> {
        let folder = self.path.join("objects/pack");
        let mut kept: HashSet<OsString> = HashSet::new();
        let mut files: Vec<PathBuf> = fs::read_dir(self.new.path())?.flatten().map(|entry| entry.path()).collect();
        // Git does not see a pack without an index; an index without its pack is an error.
        files.sort_by_key(|file| file.extension().is_some_and(|ending| ending == "idx"));
        for file in files {
            let Some(name) = file.file_name() else { continue };
            File::open(&file)?.sync_all()?;
            fs::rename(&file, folder.join(name))?;
            kept.extend(file.file_stem().map(OsString::from));
        }
        File::open(&folder)?.sync_all()?;
        // It names packs that go. Git makes it anew.
        let lists = [folder.join("multi-pack-index")];
        let gone = self.old.iter().filter(|pack| pack.file_stem().is_none_or(|name| !kept.contains(name)));
        let gone = gone.flat_map(|pack| ENDINGS.iter().map(|ending| pack.with_extension(ending)));
        for file in lists.into_iter().chain(gone).chain(self.loose) {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(&folder)?.sync_all()
    }
}

/// Lists the objects of a pack.
fn objects_of(path: &Path, pack: &Path) -> anyhow::Result<HashSet<Oid>> {
    let index = File::open(pack.with_extension("idx"))?;
    let output = git::command(path).arg("show-index").stdin(index).stderr(Stdio::null()).output()?;
    ensure!(output.status.success(), "git show-index ended with {}", output.status);
    let lines = output.stdout.lines().map(|line| {
        let line = line?;
        let id = line.split(' ').nth(1).context("git show-index names no object")?;
        Ok(id.parse()?)
    });
    lines.collect()
}

/// Writes a pack of these objects, with the differences that are there.
fn write_pack(path: &Path, ids: &str, folder: &Path) -> anyhow::Result<()> {
    let mut input = tempfile::tempfile_in(folder)?;
    input.write_all(ids.as_bytes())?;
    io::Seek::rewind(&mut input)?;
    let mut git = git::command(path);
    git.args(["pack-objects", "-q", "--window=0", "--delta-base-offset"]).arg(folder.join("pack"));
    let status = git.stdin(input).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "git pack-objects ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use git2::Signature;

    use super::*;

    /// A commit with one file, in no ref.
    fn commit(repo: &Repository, text: &str, parents: &[Oid]) -> [Oid; 3] {
        let who = Signature::now("a", "a@b").unwrap();
        let blob = repo.blob(text.as_bytes()).unwrap();
        let mut tree = repo.treebuilder(None).unwrap();
        tree.insert("file", blob, 0o100_644).unwrap();
        let tree = tree.write().unwrap();
        let parents: Vec<_> = parents.iter().map(|parent| repo.find_commit(*parent).unwrap()).collect();
        let of = repo.find_tree(tree).unwrap();
        [repo.commit(None, &who, &who, text, &of, &parents.iter().collect::<Vec<_>>()).unwrap(), tree, blob]
    }

    fn pack(path: &Path, ids: &[Oid]) {
        write_pack(path, &lines_of(ids.iter()), &path.join("objects/pack")).unwrap();
        assert!(git::command(path).args(["prune-packed", "-q"]).status().unwrap().success());
    }

    #[test]
    fn what_nothing_leads_to_goes_from_packs_and_files_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let repo = Repository::init_bare(path).unwrap();
        let first = commit(&repo, "first", &[]);
        let landed = commit(&repo, "landed", &[first[0]]);
        let refused = commit(&repo, "refused", &[first[0]]);
        repo.reference("refs/heads/a", landed[0], true, "").unwrap();
        // One pack holds some of each, another nothing that stays.
        pack(path, &[first, landed, refused].concat());
        let other = commit(&repo, "other", &[]);
        pack(path, &other);
        let loose = commit(&repo, "loose", &[landed[0]]);
        let root = commit(&repo, "root", &[landed[0]]);
        let unborn = Oid::from_bytes(&[7; 20]).unwrap();
        let roots = [root[0], unborn].map(ObjectId::from).into();
        let gone: HashSet<Oid> = [refused, other, loose].concat().into_iter().collect();
        assert_eq!(objects(path, &roots).unwrap(), gone);
        let behind = behind(path, &[refused[0], landed[0], unborn].map(ObjectId::from).into()).unwrap();
        assert_eq!(behind, refused.into_iter().collect());
        Removal::prepare(path, gone.clone()).unwrap().finish().unwrap();
        let repo = Repository::open_bare(path).unwrap();
        let odb = repo.odb().unwrap();
        assert!(gone.iter().all(|id| !odb.exists(*id)));
        assert!([first, landed, root].concat().iter().all(|id| odb.exists(*id)));
        assert_eq!(git::packs(path).unwrap().len(), 1);
        assert!(git::command(path).args(["fsck", "--full", "--strict"]).status().unwrap().success());
        let left = fs::read_dir(path.join("objects")).unwrap().flatten();
        assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("tmp_")));
    }

    #[test]
    fn a_repository_that_cannot_be_read_has_nothing_to_remove() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let [first, tree, _] = commit(&repo, "first", &[]);
        repo.reference("refs/heads/a", first, true, "").unwrap();
        let tree = tree.to_string();
        fs::remove_file(folder.path().join("objects").join(&tree[..2]).join(&tree[2..])).unwrap();
        assert!(objects(folder.path(), &BTreeSet::new()).is_err());
    }
}
