//! What many changes leave on the disk of a host.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt as _, path::Path};

use hyper::Method;
use serde_json::json;
use tests::{
    Host, Site,
    figures::{Kind, Row, Spread},
};

use crate::{client::Client, fleet, options::Size};

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// Changes components of a host, one after the other, and looks at its folders.
pub(crate) fn measure(size: Size, site: &Site, host: &Host) -> Vec<Row> {
    let changes = size.changes();
    let components = fleet::of_host(size.services(), size.most_hosts() + 1);
    let mut client = Client::open(site.master.address);
    let mut versions: Vec<i64> = components
        .iter()
        .map(|component| {
            let now =
                site.master.http().get_json(&format!("/api/v1/config/{component}")).expect("the section is there");
            now["version"].as_i64().expect("a version")
        })
        .collect();
    for change in 0..changes {
        let at = change % components.len();
        let config = fleet::object(&components[at], change);
        let request = json!({"section": components[at], "config": config, "version": versions[at]});
        let body = json!({"request": request}).to_string();
        let answer = client.send(Method::POST, "/api/v1/config/update", body);
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        versions[at] = answer["version"].as_i64().expect("a version");
    }
    host.wait_applied(site.master.sequence());
    let export = used(&host.export());
    let current = fs::canonicalize(host.export().join("current")).expect("it is exported");
    let live = reachable(&current);
    let repository = used(&host.repository());
    let kept = fs::read_dir(host.export().join("snapshots")).map(Iterator::count).unwrap_or_default();
    let what = format!("export of a host after {changes} changes");
    let mebibytes = |bytes: u64| Spread::one(float(bytes) / MEBIBYTE);
    let size = Row::new("export", &what, "MiB", mebibytes(export.bytes))
        .beside(Kind::Floor, "its live content", mebibytes(live.bytes))
        .beside(Kind::Ours, "the repository of the host", mebibytes(repository.bytes))
        .goal(3.0 * float(live.bytes) / MEBIBYTE + 2.0)
        .means(
            "Blocks on the disk, with every snapshot that is kept for readers of the last five minutes. A host needs this much \
             room, whatever the number of changes.",
        );
    let what = format!("… files, folders and links in it, {kept} snapshots");
    let files = Row::new("export-files", &what, "files", Spread::one(float(export.files)))
        .beside(Kind::Floor, "its live content", Spread::one(float(live.files)))
        .means("Each is an inode of the host's file system.");
    vec![size, files]
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
fn float(number: u64) -> f64 {
    number as f64
}

/// What a folder takes on the disk.
#[derive(Default)]
struct Used {
    files: u64,
    bytes: u64,
    seen: HashSet<u64>,
}

fn used(folder: &Path) -> Used {
    let mut used = Used::default();
    add(folder, false, &mut used);
    used
}

/// As [`used`], through links.
fn reachable(folder: &Path) -> Used {
    let mut used = Used::default();
    add(folder, true, &mut used);
    used
}

fn add(path: &Path, follow: bool, used: &mut Used) {
    let metadata = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
    // The agent may tidy up meanwhile.
    let Ok(metadata) = metadata else { return };
    used.files += 1;
    if used.seen.insert(metadata.ino()) {
        used.bytes += metadata.blocks() * 512;
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            add(&entry.path(), follow, used);
        }
    }
}
