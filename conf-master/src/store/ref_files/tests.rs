//! Files of refs under Git's eyes, with locks and damage in their way.

use std::time::{Duration, Instant, SystemTime};

use conf_core::git;

use super::*;
use crate::store;
use crate::store::lock::PATIENCE;

/// A repository with some branches in the table, which all have the commit of `main`.
struct Room {
    _folder: tempfile::TempDir,
    repo: Repository,
    table: Table,
    ledger: CommitId,
    files: RefFiles,
}

impl Room {
    fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("central.git");
        store::init(&path).unwrap();
        let repo = store::open(&path).unwrap();
        // The numbers below are about branches.
        repo.find_reference(&RefName::Access.to_string()).unwrap().delete().unwrap();
        let id = |name: &RefName| repo.refname_to_id(&name.to_string()).unwrap();
        let (main, ledger) = (id(&RefName::Main).into(), id(&RefName::Ledger).into());
        let mut table = Table::default();
        table.set(RefName::Main, Some(RefTarget { value: main, commit: main }));
        let files = RefFiles::find(repo.path(), Sequence(0));
        assert_eq!(files.loose, [RefName::Main].into());
        Room { _folder: folder, repo, table, ledger, files }
    }

    /// Lands `moved` as the landing thread does.
    fn land(&mut self, moved: &[(RefName, Option<RefTarget>)]) {
        moved.iter().for_each(|(name, target)| self.table.set(name.clone(), *target));
        let moved = moved.iter().map(|(name, target)| (name, *target)).collect();
        let wanted = Wanted { table: &self.table, ledger: self.ledger, sequence: Sequence(7) };
        self.files.set(&self.repo, wanted, &moved).unwrap();
        self.files.keep_packed(self.repo.path(), wanted);
        self.expect_as_wanted();
    }

    /// Git and libgit2 see the table, and nothing else.
    fn expect_as_wanted(&self) {
        let git = git::command(self.repo.path()).args(["for-each-ref", "--format=%(refname) %(objectname)"]).output();
        let listed = String::from_utf8(git.unwrap().stdout).unwrap();
        let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
        let line = |name: &RefName, value: ObjectId| format!("{name} {value}");
        let mut wanted: BTreeSet<String> = self.table.iter().map(|(name, to)| line(name, to.value)).collect();
        wanted.insert(line(&RefName::Ledger, self.ledger));
        assert_eq!(listed, wanted);
        for (name, target) in self.table.iter() {
            assert_eq!(ObjectId::from(self.repo.refname_to_id(&name.to_string()).unwrap()), target.value);
        }
    }

    fn pack(&mut self) -> bool {
        let Room { repo, table, ledger, files, .. } = self;
        files.pack(repo.path(), Wanted { table, ledger: *ledger, sequence: Sequence(7) })
    }

    fn repair(&mut self) -> Vec<String> {
        let Room { repo, table, ledger, files, .. } = self;
        files.repair(repo, Wanted { table, ledger: *ledger, sequence: Sequence(7) }).unwrap()
    }

    fn main(&self) -> RefTarget {
        self.table.target(&RefName::Main).unwrap()
    }

    fn loose(&self) -> usize {
        RefFiles::find(self.repo.path(), Sequence(0)).loose.len()
    }
}

fn branch(number: usize) -> RefName {
    format!("refs/heads/services/s{number}/master").parse().unwrap()
}

#[test]
fn many_refs_are_packed_at_once_few_after_a_while_and_no_empty_folder_stays() {
    let mut room = Room::open();
    let to = Some(room.main());
    for number in 0..MOST_LOOSE - 1 {
        room.land(&[(branch(number), to)]);
    }
    assert_eq!(room.loose(), MOST_LOOSE, "with main");
    room.land(&[(branch(MOST_LOOSE), to)]);
    assert_eq!(room.loose(), 0);
    let folders = |of: &str| fs::read_dir(room.repo.path().join(of)).map_or(0, Iterator::count);
    assert_eq!((folders("refs/heads"), folders("refs/conf")), (0, 1));
    let snapshot = "refs/snapshots/us-west/v1".parse().unwrap();
    room.land(&[(snapshot, to)]);
    assert!(room.pack());
    assert!(!room.repo.path().join("refs/snapshots").exists(), "no folder of one ref alone stays");
    // A landing of many makes no file.
    let many: Vec<_> = (1000..1000 + 2 * MOST_LOOSE).map(|number| (branch(number), to)).collect();
    room.land(&many);
    assert_eq!(room.loose(), 0);
    // Deletions need a new file of packed refs anyway.
    room.land(&[(branch(1), to), (branch(2), None), (branch(1000), None)]);
    assert_eq!(room.loose(), 0);
    assert!(room.repo.path().join("refs/conf/ledger").exists(), "the ledger keeps its file");
}

#[test]
fn tags_are_packed_as_git_packs_them_and_what_no_push_made_goes_with_words() {
    let mut room = Room::open();
    let main = room.main();
    let who = git2::Signature::now("a", "a@b").unwrap();
    let repo = store::open(room.repo.path()).unwrap();
    let commit = repo.find_object(main.value.into(), None).unwrap();
    let tag = repo.tag_annotation_create("v1", &commit, &who, "v1").unwrap();
    let tags = [("a/v1", ObjectId::from(tag)), ("b/v1", main.value)];
    for (name, value) in tags {
        let name = format!("refs/tags/services/{name}").parse().unwrap();
        room.table.set(name, Some(RefTarget { value, commit: main.commit }));
    }
    let path = room.repo.path().to_owned();
    let read = || fs::read_to_string(path.join("packed-refs")).unwrap();
    assert!(room.pack());
    let ours = read();
    room.expect_as_wanted();
    // Git's own hand writes the same.
    for (name, target) in room.table.iter() {
        room.repo.reference(&name.to_string(), target.value.into(), true, "").unwrap();
    }
    assert!(git::command(&path).args(["pack-refs", "--all"]).status().unwrap().success());
    assert_eq!(read(), ours);
    // It has packed the ledger, too, and removed its file.
    assert!(!path.join("refs/conf/ledger").exists());
    room.expect_as_wanted();
    fs::write(path.join("packed-refs"), format!("{ours}{} refs/heads/zzz\n", main.value)).unwrap();
    assert!(room.pack());
    assert_eq!(read(), ours);
}

#[test]
fn a_lock_that_stays_keeps_refs_loose_and_nothing_else() {
    // A busy machine may make one landing slow, but not that of each room.
    let is_prompt = (0..5).any(|_| land_beside_a_lock() < PATIENCE);
    assert!(is_prompt, "it is waited for again");
}

/// Lands beside a lock that was waited for already, and returns how long that took.
fn land_beside_a_lock() -> Duration {
    let mut room = Room::open();
    let to = Some(room.main());
    let lock = room.repo.path().join("packed-refs.lock");
    fs::write(&lock, "").unwrap();
    let many: Vec<_> = (0..=MOST_LOOSE).map(|number| (branch(number), to)).collect();
    room.land(&many);
    assert_eq!(room.loose(), MOST_LOOSE + 2);
    let since = Instant::now();
    room.land(&[(branch(7), to)]);
    let took = since.elapsed();
    fs::remove_file(&lock).unwrap();
    room.land(&many);
    assert_eq!(room.loose(), 0);
    took
}

#[test]
fn a_crash_after_each_step_of_packing_loses_nothing() {
    let mut room = Room::open();
    let to = Some(room.main());
    let all: Vec<_> = (0..MOST_LOOSE / 2).map(|number| (branch(number), to)).collect();
    room.land(&all);
    // One has an earlier value in its own file than in `packed-refs`, and one was deleted.
    let who = git2::Signature::now("a", "a@b").unwrap();
    let repo = store::open(room.repo.path()).unwrap();
    let commit = repo.find_commit(room.main().commit.into()).unwrap();
    let tree = commit.tree().unwrap();
    let next = repo.commit(None, &who, &who, "next", &tree, &[&commit]).unwrap().into();
    room.table.set(branch(1), Some(RefTarget { value: next, commit: next }));
    room.table.set(branch(2), None);
    let path = room.repo.path().to_owned();
    // It died before the rename: the next start removes the lock.
    fs::write(path.join("packed-refs.lock"), "# pack-refs").unwrap();
    fs::remove_file(path.join("packed-refs.lock")).unwrap();
    assert_eq!(room.repair().len(), 2);
    room.expect_as_wanted();
    // It died after the rename: all files of refs are still there, and old.
    for (name, target) in room.table.clone().iter() {
        write_one(&path, name, target.value).unwrap();
    }
    let after = room.table.target(&branch(1)).unwrap();
    room.table.set(branch(1), to);
    let Room { table, ledger, .. } = &room;
    write(&path, Wanted { table, ledger: *ledger, sequence: Sequence(7) }, &mut None).unwrap();
    assert_eq!(
        ObjectId::from(room.repo.refname_to_id(&branch(1).to_string()).unwrap()),
        after.value,
        "the old file wins"
    );
    room.files = RefFiles::find(&path, Sequence(0));
    assert_eq!(room.repair().len(), 1);
    room.expect_as_wanted();
}

#[test]
fn lost_and_damaged_files_of_refs_are_written_anew() {
    let mut room = Room::open();
    let to = Some(room.main());
    let many: Vec<_> = (0..=MOST_LOOSE).map(|number| (branch(number), to)).collect();
    room.land(&many);
    let packed = room.repo.path().join("packed-refs");
    let good = fs::read_to_string(&packed).unwrap();
    for content in [Some("\0garbage\n"), Some(""), Some(&good[..good.len() / 2]), None] {
        match content {
            Some(content) => fs::write(&packed, content).unwrap(),
            None => fs::remove_file(&packed).unwrap(),
        }
        assert!(!room.repair().is_empty());
        room.expect_as_wanted();
        assert_eq!(fs::read_to_string(&packed).unwrap(), good, "{content:?}");
    }
    assert_eq!(room.repair(), [""; 0]);
}

#[test]
fn a_file_of_a_ref_that_a_power_cut_has_emptied_is_written_again_over_a_right_packed_value() {
    let mut room = Room::open();
    let to = Some(room.main());
    room.land(&[(branch(1), to)]);
    assert!(room.pack());
    let file = room.repo.path().join(branch(1).to_string());
    assert!(!file.exists());
    for torn in ["", "\0\0\0\0"] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, torn).unwrap();
        // A start finds it.
        room.files = RefFiles::find(room.repo.path(), Sequence(7));
        let said = room.repair();
        assert!(said.iter().any(|line| line.contains("services/s1/master")), "{said:?}");
        room.expect_as_wanted();
    }
}

#[test]
fn the_lock_of_a_killed_git_is_waited_for_once_and_removed_when_it_is_old() {
    let mut room = Room::open();
    let to = Some(room.main());
    room.land(&(0..=MOST_LOOSE).map(|number| (branch(number), to)).collect::<Vec<_>>());
    let lock = room.repo.path().join("packed-refs.lock");
    fs::write(&lock, "").unwrap();
    let gone = (0..5).map(branch).collect::<Vec<_>>();
    gone.iter().for_each(|name| room.table.set(name.clone(), None));
    let moved = gone.iter().map(|name| (name, None)).collect();
    let Room { repo, table, ledger, files, .. } = &mut room;
    let wanted = Wanted { table, ledger: *ledger, sequence: Sequence(7) };
    // Five times for five refs: with a wait for each of them each time this takes a minute.
    let began = Instant::now();
    for _ in 0..5 {
        assert!(files.set(repo, wanted, &moved).is_err(), "somebody may be at work");
    }
    assert!(began.elapsed() < 15 * PATIENCE);
    let hour = Duration::from_secs(3600);
    fs::File::open(&lock).unwrap().set_modified(SystemTime::now() - hour).unwrap();
    files.set(repo, wanted, &moved).unwrap();
    room.expect_as_wanted();
    assert!(!lock.exists());
}
