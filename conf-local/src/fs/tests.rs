use serde::{Deserialize, Serialize};

use conf_core::git::Durability;

use crate::fs::{Folder, file};

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Numbers {
    one: u32,
}

#[test]
fn no_name_leads_out_of_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    let inside = tempfile::tempdir().unwrap();
    let folder = Folder::open(inside.path()).unwrap();
    std::os::unix::fs::symlink(outside.path(), inside.path().join("way-out")).unwrap();
    for name in ["way-out/sentinel", "../sentinel", "/tmp/sentinel-of-conf", "a/../../sentinel"] {
        assert!(folder.write(name, b"x", 0o444).is_err(), "{name}");
    }
    assert!(folder.enter("way-out").is_err());
    assert!(folder.make("way-out/sub").is_err());
    folder.remove("way-out").unwrap();
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_state_file_is_read_back_unless_a_newer_agent_wrote_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("numbers.json");
    let read = || file::read_state::<Numbers>(&path);
    assert_eq!(read().unwrap(), Numbers { one: 0 });
    file::replace_state(&path, &Numbers { one: 1 }, Durability::None).unwrap();
    assert_eq!(read().unwrap(), Numbers { one: 1 });
    assert_eq!(std::fs::read_to_string(&path).unwrap(), r#"{"format":1,"one":1}"#);
    std::fs::write(&path, r#"{"format":2,"one":1}"#).unwrap();
    assert!(read().unwrap_err().to_string().contains("newer agent"));
    std::fs::write(&path, "{").unwrap();
    assert!(read().is_err());
}
