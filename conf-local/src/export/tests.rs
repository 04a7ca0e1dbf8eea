use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use conf_core::render::StoreHash;
use libconf::name::{CommitId, ComponentVersion, Sequence};

use crate::export::{CURRENT, Contents, Export, Header, plan};

/// The header of a snapshot that was made soon after 1970.
pub(crate) fn header(sequence: u64) -> Header {
    Header {
        datacenter: "us-west/v1".parse().unwrap(),
        host: "web-1".parse().unwrap(),
        sequence: Sequence(sequence),
        commit: CommitId::from([u8::try_from(sequence).unwrap(); 20]),
        parent: None,
        time: 1000 + sequence,
        faults: BTreeMap::new(),
        held: BTreeMap::new(),
        rendering: 1,
        through: None,
    }
}

#[test]
fn a_snapshot_that_is_rendered_again_is_a_new_link() {
    let folder = tempfile::tempdir().unwrap();
    let mut export = Export::open(folder.path(), Vec::new()).unwrap();
    let mut links = Vec::new();
    for (sequence, fault) in [(1, None), (2, Some("in the way")), (2, None)] {
        let component: ComponentVersion = "services/web/latest".parse().unwrap();
        let faults = fault.map(|fault| (component.clone(), fault.to_owned())).into_iter().collect();
        let header = Header { faults, ..header(sequence) };
        let contents = Contents::from([(component, StoreHash::of(&format!("{sequence} {fault:?}")))]);
        export.build(&header, &plan(&Contents::new(), &contents), true).unwrap();
        export.switch(header, contents).unwrap();
        let current = folder.path().join(CURRENT);
        assert_eq!(fs::read_link(&current).unwrap(), Path::new(&format!("snapshots/{sequence}")));
        links.push(fs::symlink_metadata(current).unwrap().ino());
    }
    // A process that watches the folder of the link sees each switch; it does not see exchanges in
    // `snapshots`.
    assert!(links[0] != links[1] && links[1] != links[2], "{links:?}");
}
