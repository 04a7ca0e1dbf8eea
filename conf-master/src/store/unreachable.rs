//! Objects that nothing leads to: finds them, and removes them for good.
//!
//! `extensions.preciousObjects` keeps Git from it, and an age tells nothing, because each repacking
//! makes new files. So the caller looks twice, and removes what nothing led to at either look.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fmt::{Display, Write as _};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use conf_core::git;
use git2::{Oid, Repository};
use libconf::name::ObjectId;
use rustix::process::{Signal, set_parent_process_death_signal};
use tempfile::TempDir;
use tracing::warn;

/// The files of a pack. The index goes first: Git does not see a pack without one.
const ENDINGS: [&str; 6] = ["idx", "rev", "bitmap", "mtimes", "promisor", "pack"];

/// The ending of the file that keeps a pack from being removed. `git receive-pack` makes one until
/// the push has landed.
const KEEP: &str = "keep";
/// A push that is older was killed: it lands within minutes when it is all here.
const LONGEST_PUSH: Duration = Duration::from_secs(3600);

/// The argument of the process that looks for objects.
pub(crate) const ARGUMENT: &str = "unreachable-objects";

/// Lists the objects of the repository that neither a ref nor one of `roots` leads to. The
/// quarantines of running pushes are no part of it. Blocks for some seconds for each million
/// objects. Any error means that nothing is known.
///
/// A process of its own looks, since that takes some 100 bytes for each object, and an allocator
/// keeps what threads have given back.
pub(crate) fn objects(path: &Path, roots: &BTreeSet<ObjectId>) -> anyhow::Result<HashSet<Oid>> {
    // The running program itself, even after its file was replaced.
    let mut look = Command::new("/proc/self/exe");
    look.arg(ARGUMENT).arg(path);
    let mut found = HashSet::new();
    let noted = each_written(look, &lines_of(roots), |id| {
        found.insert(id);
    });
    noted.context("the look for unreachable objects failed")?;
    Ok(found)
}

/// Is that process: reads the roots, and writes what it finds.
pub(crate) fn run(path: &Path) -> anyhow::Result<()> {
    // It holds the repository's lock, as every program that the server has started.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let roots: Result<BTreeSet<ObjectId>, _> = io::read_to_string(io::stdin())?.lines().map(str::parse).collect();
    io::stdout().write_all(lines_of(list(path, &roots?)?).as_bytes())?;
    Ok(())
}

fn list(path: &Path, roots: &BTreeSet<ObjectId>) -> anyhow::Result<HashSet<Oid>> {
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
fn lines_of(ids: impl IntoIterator<Item = impl Display>) -> String {
    ids.into_iter().fold(String::new(), |mut lines, id| {
        // A text takes all that is written.
        let _ = writeln!(lines, "{id}");
        lines
    })
}

/// Calls for each object that a walk of Git reaches. `lines` are more tips.
fn each_reached(path: &Path, from: &[&str], lines: &str, reached: impl FnMut(Oid)) -> anyhow::Result<()> {
    let mut git = git::command(path);
    git.args(["rev-list", "--objects", "--no-object-names"]).args(from).arg("--stdin");
    each_written(git, lines, reached).context("git rev-list failed")
}

/// Calls for each object that a program writes when it has read these lines.
fn each_written(mut program: Command, lines: &str, mut written: impl FnMut(Oid)) -> anyhow::Result<()> {
    let mut child = Running(program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let mut input = child.0.stdin.take().context("it has no input")?;
    let output = BufReader::new(child.0.stdout.take().context("it has no output")?);
    // It writes nothing before it has read all.
    input.write_all(lines.as_bytes())?;
    drop(input);
    for line in output.lines() {
        let line = line?;
        written(line.trim_end().parse().with_context(|| format!("it wrote {line:?}, which names no object"))?);
    }
    let status = child.0.wait()?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

/// A program, which does not outlive its reader.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended, and that is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets go of packs that pushes keep which were killed: nobody would ever remove what they brought.
pub(crate) fn release_packs(path: &Path) -> io::Result<()> {
    for (pack, _) in git::packs(path)? {
        let keep = pack.with_extension(KEEP);
        let age = keep.metadata().ok().and_then(|keep| keep.modified().ok()?.elapsed().ok());
        // What somebody else keeps stays.
        let is_of_push = || fs::read(&keep).is_ok_and(|words| words.starts_with(b"receive-pack "));
        if age.is_some_and(|age| age > LONGEST_PUSH) && is_of_push() {
            warn!(pack = %pack.display(), "a push was killed when its pack was here: it is not kept any longer");
            fs::remove_file(&keep)?;
        }
    }
    Ok(())
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
    pub(crate) fn prepare(path: &Path, mut gone: HashSet<Oid>) -> anyhow::Result<Self> {
        let objects = path.join("objects");
        // The next start removes it, if this program is killed.
        let new = tempfile::Builder::new().prefix("tmp_pack_kept_").tempdir_in(&objects)?;
        let mut old = Vec::new();
        for (pack, _) in git::packs(path)? {
            let mut held: HashSet<Oid> = HashSet::new();
            each_of_pack(path, &pack, |id| {
                held.extend(gone.get(&id));
                Ok(())
            })?;
            // A push that is just written keeps its pack so.
            if pack.with_extension(KEEP).exists() {
                gone.retain(|id| !held.contains(id));
            } else if !held.is_empty() {
                old.push(pack);
            }
        }
        for pack in &old {
            write_rest(path, pack, &gone, new.path())?;
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

/// Calls for each object of a pack. Nothing here is kept in memory: a pack may be large.
fn each_of_pack(path: &Path, pack: &Path, mut held: impl FnMut(Oid) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut git = git::command(path);
    git.arg("show-index").stdin(File::open(pack.with_extension("idx"))?);
    let mut child = Running(git.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    let output = BufReader::new(child.0.stdout.take().context("git show-index has no output")?);
    for line in output.lines() {
        let line = line?;
        held(line.split(' ').nth(1).context("git show-index names no object")?.parse()?)?;
    }
    let status = child.0.wait()?;
    ensure!(status.success(), "git show-index ended with {status}");
    Ok(())
}

/// Writes a pack of what stays of another one, if anything does, with the differences that are
/// there.
fn write_rest(path: &Path, pack: &Path, gone: &HashSet<Oid>, folder: &Path) -> anyhow::Result<()> {
    let (mut input, mut stays) = (BufWriter::new(tempfile::tempfile_in(folder)?), false);
    each_of_pack(path, pack, |id| {
        if gone.contains(&id) {
            return Ok(());
        }
        stays = true;
        Ok(writeln!(input, "{id}")?)
    })?;
    if !stays {
        return Ok(());
    }
    let input = input.into_inner().context("the objects that stay cannot be listed")?;
    write_pack(path, input, folder)
}

/// Writes a pack of the objects that a file lists.
fn write_pack(path: &Path, mut ids: File, folder: &Path) -> anyhow::Result<()> {
    io::Seek::rewind(&mut ids)?;
    let mut git = git::command(path);
    git.args(["pack-objects", "-q", "--window=0", "--delta-base-offset"]).arg(folder.join("pack"));
    let status = git.stdin(ids).stdout(Stdio::null()).status()?;
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
        let mut list = tempfile::tempfile().unwrap();
        list.write_all(lines_of(ids).as_bytes()).unwrap();
        write_pack(path, list, &path.join("objects/pack")).unwrap();
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
        assert_eq!(list(path, &roots).unwrap(), gone);
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
    fn what_a_running_push_keeps_stays_until_it_must_be_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let repo = Repository::init_bare(path).unwrap();
        let pushed = commit(&repo, "pushed", &[]);
        pack(path, &pushed);
        let (pack, _) = git::packs(path).unwrap().remove(0);
        let mut keep = File::create(pack.with_extension(KEEP)).unwrap();
        let gone: HashSet<Oid> = pushed.into_iter().collect();
        release_packs(path).unwrap();
        assert!(Removal::prepare(path, gone.clone()).unwrap().gone.is_empty());
        let long_ago = std::time::SystemTime::now() - 2 * LONGEST_PUSH;
        keep.set_modified(long_ago).unwrap();
        release_packs(path).unwrap();
        assert!(Removal::prepare(path, gone.clone()).unwrap().gone.is_empty(), "an administrator keeps it");
        keep.write_all(b"receive-pack 4711 on central").unwrap();
        keep.set_modified(long_ago).unwrap();
        release_packs(path).unwrap();
        let removal = Removal::prepare(path, gone.clone()).unwrap();
        assert_eq!(removal.gone, gone);
        removal.finish().unwrap();
        assert_eq!(git::packs(path).unwrap(), []);
    }

    #[test]
    fn a_repository_that_cannot_be_read_has_nothing_to_remove() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let [first, tree, _] = commit(&repo, "first", &[]);
        repo.reference("refs/heads/a", first, true, "").unwrap();
        let tree = tree.to_string();
        fs::remove_file(folder.path().join("objects").join(&tree[..2]).join(&tree[2..])).unwrap();
        assert!(list(folder.path(), &BTreeSet::new()).is_err());
    }
}
