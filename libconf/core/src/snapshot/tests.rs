use git2::Repository;

use crate::{
    api::Pin,
    sign::{SigningKey, TrustedKeys, public_path},
    snapshot::{
        Component, Composition, Difference, Snapshot, SnapshotError, commit::parse, compare, compose,
        compose::BLOB_MODE,
    },
};
use libconf::name::{CommitId, ComponentVersion, Sequence};

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
        let empty = self.repo.treebuilder(None).unwrap().write().unwrap().into();
        let composition = Composition {
            datacenter: "us-west/v1".parse().unwrap(),
            sequence: Sequence(sequence),
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
        let commit = compose(&self.repo, &composition, &self.key).unwrap();
        Snapshot::read(&self.repo, commit).unwrap()
    }
}

#[test]
fn a_composed_snapshot_is_read_and_compared() {
    let bench = Bench::new();
    let first =
        bench.compose(1, None, [bench.component("services/a/latest", "1"), bench.component("devices/d/v1", "1")]);
    assert_eq!(first.components(&bench.repo).unwrap().len(), 2);
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
