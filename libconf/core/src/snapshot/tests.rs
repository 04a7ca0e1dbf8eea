use git2::Repository;

use crate::{
    api::Pin,
    sign::{KeyError, SigningKey, TrustedKeys, public_path, sign_statement, sign_succession},
    snapshot::{
        Component, Composition, Difference, SharedTrees, Snapshot, SnapshotError,
        commit::{parse, signed, with_signature},
        compare,
        compose::BLOB_MODE,
    },
};
use libconf::name::{CommitId, ComponentVersion, Kind, Sequence};

struct Bench {
    folder: tempfile::TempDir,
    repo: Repository,
    key: SigningKey,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path().join("repo.git")).unwrap();
        let key = SigningKey::generate(&folder.path().join("key"), "").unwrap();
        Bench { folder, repo, key }
    }

    fn component(&self, name: &str, content: &str) -> (ComponentVersion, Option<Component>) {
        let component: ComponentVersion = name.parse().unwrap();
        let blob = self.repo.blob(content.as_bytes()).unwrap();
        let mut tree = self.repo.treebuilder(None).unwrap();
        tree.insert("config.yaml", blob, BLOB_MODE).unwrap();
        let tree = tree.write().unwrap().into();
        let commit = CommitId::from([7; 20]);
        let pin = Pin { component: component.clone(), branch: "master".parse().unwrap(), commit };
        (component, Some(Component { pin, tree }))
    }

    fn compose(
        &self,
        sequence: u64,
        parent: Option<&Snapshot>,
        components: impl IntoIterator<Item = (ComponentVersion, Option<Component>)>,
    ) -> Snapshot {
        self.compose_shared(&mut SharedTrees::default(), sequence, parent, components)
    }

    fn compose_shared(
        &self,
        shared: &mut SharedTrees,
        sequence: u64,
        parent: Option<&Snapshot>,
        components: impl IntoIterator<Item = (ComponentVersion, Option<Component>)>,
    ) -> Snapshot {
        let empty = self.repo.treebuilder(None).unwrap().write().unwrap().into();
        let composition = Composition {
            datacenter: "us-west/v1".parse().unwrap(),
            sequence: Sequence(sequence),
            // Each thousand changes are an epoch.
            epoch: 1 + u32::try_from(sequence / 1000).unwrap(),
            time: 1_700_000_000,
            parent: parent.map(|parent| parent.commit),
            base: parent.map(|parent| parent.tree),
            components: components.into_iter().collect(),
            datacenter_tree: empty,
            datacenter_commit: CommitId::from([8; 20]),
            class_tree: empty,
            class: ("refs/tags/datacenter-configuration/big/v1".parse().unwrap(), CommitId::from([9; 20])),
            secrets_tree: None,
            summary: "test".to_owned(),
            by: "tester".to_owned(),
        };
        let commit = shared.compose(&self.repo, &composition, &self.key).unwrap();
        Snapshot::read(&self.repo, commit).unwrap()
    }
}

#[test]
fn a_composed_snapshot_is_read_and_compared() {
    let bench = Bench::new();
    let first =
        bench.compose(1, None, [bench.component("services/a/latest", "1"), bench.component("devices/d/v1", "1")]);
    let all = first.components(&bench.repo).unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(first.components_of(&bench.repo, |_| true).unwrap(), all);
    let services = first.components_of(&bench.repo, |name| name.kind == Kind::Services).unwrap();
    assert_eq!(services.keys().map(ToString::to_string).collect::<Vec<_>>(), ["services/a/latest"]);
    let removed = ("devices/d/v1".parse().unwrap(), None);
    let second = bench.compose(2, Some(&first), [bench.component("services/a/v2", "2"), removed]);
    let names = |difference: &Difference| difference.components.keys().map(ToString::to_string).collect::<Vec<_>>();
    let difference = compare(&bench.repo, Some(&first), &second).unwrap();
    assert_eq!(names(&difference), ["services/a/v2", "devices/d/v1"]);
    assert!(!difference.datacenter && !difference.class);
    assert_eq!(second.parent, Some(first.commit));
    assert_eq!(second.datacenter_commit, Some(CommitId::from([8; 20])));
    let class = ("refs/tags/datacenter-configuration/big/v1".parse().unwrap(), CommitId::from([9; 20]));
    assert_eq!(second.class, Some(class));
    let tree = bench.repo.find_tree(second.tree.into()).unwrap();
    assert!(tree.get_name("devices").is_none(), "an empty folder is removed");
    let again = bench.compose(
        3,
        None,
        second.components(&bench.repo).unwrap().into_iter().map(|(name, one)| (name, Some(one))),
    );
    assert_eq!(again.tree, second.tree, "the same content gives the same tree, whichever way it was composed");
}

#[test]
fn trees_that_snapshots_share_are_those_that_each_alone_would_have() {
    let bench = Bench::new();
    let mut shared = SharedTrees::default();
    let [one, other] = ["1", "2"].map(|content| bench.component("services/a/latest", content));
    let more = bench.component("applications/b/v1", "3");
    let gone = ("services/a/latest".parse().unwrap(), None);
    let (mut small, mut large): (Option<Snapshot>, Option<Snapshot>) = (None, None);
    for (sequence, change) in (1..).zip([vec![one.clone()], vec![other.clone()], vec![one, more], vec![gone]]) {
        // Both begin alike; then one of them has a component more, over which the same change is another one.
        for last in [&mut small, &mut large] {
            let alone = bench.compose(sequence, last.as_ref(), change.clone());
            let composed = bench.compose_shared(&mut shared, sequence, last.as_ref(), change.clone());
            assert_eq!(composed.tree, alone.tree, "{sequence}");
            *last = Some(composed);
        }
        if sequence == 1 {
            large = Some(bench.compose(1, large.as_ref(), [bench.component("services/z/v1", "0")]));
        }
    }
    assert_ne!(small.unwrap().tree, large.unwrap().tree);
}

#[test]
fn a_snapshot_of_an_earlier_version_names_no_commits_of_its_layers() {
    let text = format!(
        "tree {0}\nauthor a <a> 1 +0000\ncommitter a <a> 1 +0000\n\nus-west/v1: x\n\nConf-Sequence: 7\nConf-Format: 1\n",
        CommitId::from([1; 20])
    );
    let snapshot = parse(CommitId::from([2; 20]), text.as_bytes()).unwrap();
    assert_eq!((snapshot.sequence, snapshot.datacenter_commit, snapshot.class), (Sequence(7), None, None));
}

#[test]
fn only_a_snapshot_signed_for_this_datacenter_is_accepted() {
    let bench = Bench::new();
    let snapshot = bench.compose(1, None, [bench.component("services/a/latest", "1")]);
    let trusted = TrustedKeys::load(&public_path(&bench.folder.path().join("key"))).unwrap();
    let (here, there) = ("us-west/v1".parse().unwrap(), "us-east/v1".parse().unwrap());
    assert_eq!(Snapshot::verify(&bench.repo, snapshot.commit, &trusted, &here).unwrap(), snapshot);
    let error = Snapshot::verify(&bench.repo, snapshot.commit, &trusted, &there).unwrap_err();
    assert!(matches!(error, SnapshotError::OtherDatacenter { .. }), "{error}");
    let other = bench.folder.path().join("other");
    SigningKey::generate(&other, "").unwrap();
    let other = TrustedKeys::load(&public_path(&other)).unwrap();
    let error = Snapshot::verify(&bench.repo, snapshot.commit, &other, &here).unwrap_err();
    assert!(matches!(error, SnapshotError::Untrusted { .. }), "{error}");
    let error = Snapshot::verify(&bench.repo, CommitId::from([9; 20]), &trusted, &here).unwrap_err();
    assert!(matches!(error, SnapshotError::Read { .. }), "{error}");
}

#[test]
fn of_two_histories_the_one_counts_that_a_succession_continues() {
    let bench = Bench::new();
    let one = |sequence, parent| bench.compose(sequence, parent, [bench.component("services/a/latest", "1")]);
    let common = one(5, None);
    let (replaced, next) = (one(6, Some(&common)), one(1000, Some(&common)));
    let third = one(2000, Some(&one(1003, Some(&next))));
    let (trusted, here) = (TrustedKeys::of(&bench.key), "us-west/v1".parse().unwrap());
    let newest = |snapshot: &Snapshot| Snapshot::verify_new(&bench.repo, snapshot.commit, &trusted, &here);
    let of = |snapshot: &Snapshot| (snapshot.epoch, snapshot.sequence);
    newest(&replaced).unwrap();
    assert!(matches!(newest(&next), Err(SnapshotError::OtherEpoch { epoch: 2, known: 1, .. })));
    assert!(!next.succeeds(of(&replaced), &trusted), "nobody has said so");
    let first = sign_succession(&[], (Sequence(5), Sequence(1000)), 0, &bench.key).unwrap();
    trusted.follow(std::slice::from_ref(&first)).unwrap();
    newest(&next).unwrap();
    assert!(matches!(newest(&replaced), Err(SnapshotError::OtherEpoch { epoch: 1, known: 2, .. })));
    // What was taken before still reads.
    Snapshot::verify(&bench.repo, replaced.commit, &trusted, &here).unwrap();
    assert!(next.succeeds(of(&replaced), &trusted) && !next.succeeds(of(&common), &trusted));
    assert!(!replaced.succeeds(of(&next), &trusted));
    // Whoever was away for two of them.
    let second =
        sign_succession(std::slice::from_ref(&first), (Sequence(1002), Sequence(2000)), 0, &bench.key).unwrap();
    trusted.follow(&[first, second]).unwrap();
    assert_eq!((trusted.epoch(), trusted.epoch_at(Sequence(1999)), trusted.epoch_at(Sequence(2000))), (3, 2, 3));
    for (epoch, sequence, is_replaced) in [(1, 6, true), (1, 5, false), (2, 1003, true), (2, 1002, false)] {
        assert_eq!(third.succeeds((epoch, Sequence(sequence)), &trusted), is_replaced, "{epoch} {sequence}");
    }
    // One that went on alone and has a number of the next epoch.
    assert!(third.succeeds((1, Sequence(1500)), &trusted) && !third.succeeds((1, Sequence(2001)), &trusted));
}

#[test]
fn a_revoked_key_counts_for_the_snapshots_before_it_was_replaced_alone() {
    let bench = Bench::new();
    let parent = bench.compose(4, None, [bench.component("services/a/latest", "1")]);
    let later = bench.compose(5, Some(&parent), [bench.component("services/a/latest", "2")]);
    let next = SigningKey::generate(&bench.folder.path().join("next"), "").unwrap();
    let (trusted, here) = (TrustedKeys::of(&bench.key), "us-west/v1".parse().unwrap());
    let verify = |commit| Snapshot::verify(&bench.repo, commit, &trusted, &here);
    let revokes = vec![bench.key.fingerprint()];
    let statement = sign_statement(&[], (Sequence(5), 0), revokes, (&bench.key, &next)).unwrap();
    verify(later.commit).unwrap();
    Snapshot::verify_new(&bench.repo, parent.commit, &trusted, &here).unwrap();
    trusted.follow(&[statement]).unwrap();
    verify(parent.commit).unwrap();
    // Its owner may sign another one with that number now: none of it becomes the newest.
    let error = Snapshot::verify_new(&bench.repo, parent.commit, &trusted, &here).unwrap_err();
    assert!(matches!(error, SnapshotError::Untrusted { cause: KeyError::Revoked { .. }, .. }), "{error:?}");
    let error = verify(later.commit).unwrap_err();
    assert!(matches!(error, SnapshotError::Untrusted { cause: KeyError::Revoked { .. }, .. }), "{error:?}");
    // One of another format says nothing of its change that this program could read.
    let bytes = bench.repo.odb().unwrap().read(parent.commit.into()).unwrap().data().to_vec();
    let (_, text) = signed(&bytes).unwrap();
    let text = String::from_utf8(text).unwrap().replace("Conf-Format: 1", "Conf-Format: 2");
    let signature = bench.key.sign(&text).unwrap();
    let bytes = with_signature(text.as_bytes(), &signature).unwrap();
    let error = Snapshot::verify_bytes(parent.commit, &bytes, &trusted, &here).unwrap_err();
    assert!(matches!(error, SnapshotError::Untrusted { cause: KeyError::Revoked { .. }, .. }), "{error:?}");
    let error = Snapshot::verify_bytes(parent.commit, &bytes, &TrustedKeys::of(&bench.key), &here).unwrap_err();
    assert!(matches!(error, SnapshotError::Newer { .. }), "{error:?}");
}

/// The same signature with its first two lines joined.
fn rewrapped(text: &str) -> String {
    let begin = "-----BEGIN SSH SIGNATURE-----\n ";
    let at = text.find(begin).unwrap() + begin.len();
    let (before, rest) = text.split_at(at);
    format!("{before}{}", rest.replacen("\n ", "", 1))
}

/// The same signature before the committer.
fn moved(text: &str) -> String {
    let (headers, message) = text.split_once("\n\n").unwrap();
    let (others, signature) = headers.split_at(headers.find("gpgsig ").unwrap());
    let (first, committer) = others.split_at(others.find("committer ").unwrap());
    format!("{first}{signature}\n{}\n\n{message}", committer.trim_end())
}

#[test]
fn a_signed_commit_is_taken_apart_as_git_does_and_only_if_that_is_clear() {
    let bench = Bench::new();
    let commit = bench.compose(7, None, [bench.component("services/a/latest", "1")]).commit;
    let (signature, text) = bench.repo.extract_signature(&commit.into(), None).unwrap();
    let bytes = bench.repo.odb().unwrap().read(commit.into()).unwrap().data().to_vec();
    let found = signed(&bytes).unwrap();
    assert_eq!((found.0.as_bytes(), &found.1[..]), (signature.trim_ascii_end(), &text[..]));
    let (trusted, here) = (TrustedKeys::of(&bench.key), "us-west/v1".parse().unwrap());
    Snapshot::verify_bytes(commit, &bytes, &trusted, &here).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (headers, message) = text.split_once("\n\n").unwrap();
    let at = headers.find("gpgsig ").unwrap();
    for bad in [
        format!("{headers}\n{}\n\n{message}", &headers[at..]),
        format!("{}\n\n{message}", &headers[..at]),
        format!("{}\n\n{}\n{message}", &headers[..at], &headers[at..]),
        text[..text.len() - 2].to_owned(),
        headers.to_owned(),
        String::new(),
        "gpgsig ".to_owned(),
        // The same signature of the same text, in another commit each.
        format!("{headers}\n \n\n{message}"),
        text.replacen("gpgsig -----BEGIN SSH SIGNATURE-----\n ", "gpgsig -----BEGIN SSH SIGNATURE-----\n  ", 1),
        rewrapped(&text),
        moved(&text),
    ] {
        let error = Snapshot::verify_bytes(commit, bad.as_bytes(), &trusted, &here).unwrap_err();
        assert!(matches!(error, SnapshotError::Untrusted { .. }), "{error}: {bad}");
    }
}
