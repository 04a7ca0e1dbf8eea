//! Three machines with addresses of their own, set up by the very commands of docs/security.md.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    time::Duration,
};

use tests::{Consul, Machine, Network, page};

const PAGE: &str = include_str!("../../../docs/security.md");
/// How long a step may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The steps of the page: the heading of each, and the address where it is typed.
fn steps() -> Vec<(&'static str, Ipv4Addr)> {
    let (_, section) = PAGE.split_once("\n## Three machines\n").expect("the page has this section");
    let headings = section.lines().filter(|line| line.starts_with("### "));
    let address = |heading: &'static str| {
        let (_, rest) = heading.rsplit_once('(').expect("a heading says where its block is typed");
        rest.trim_end_matches(')').parse().expect("an address")
    };
    headings.map(|heading| (heading, address(heading))).collect()
}

/// Makes the programs of all machines, and returns their PATH. The disks of the machines are folders
/// here, so `scp` copies between these.
fn programs(folder: &Path) -> String {
    let more = folder.join("more");
    fs::create_dir_all(&more).expect("it can be made");
    symlink(Consul::program(), more.join("consul")).expect("it can be linked");
    let scp = format!(
        "#!/bin/bash\nset -eu\nto=${{@: -1}}; to=${{to#*@}}\n[ \"$1\" = -q ]\ncp \"${{@:2:$#-2}}\" '{}'/\"${{to%:}}\"/\n",
        folder.display()
    );
    fs::write(more.join("scp"), scp).expect("it can be written");
    fs::set_permissions(more.join("scp"), fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    page::programs(&folder.join("bin"), &[more])
}

#[test]
fn three_machines_are_set_up_as_the_page_says_and_a_push_reaches_the_process() {
    let own = "three_machines::three_machines_are_set_up_as_the_page_says_and_a_push_reaches_the_process";
    let Some(network) = Network::own(own) else { return };
    let folder = tempfile::Builder::new().prefix("conf-three-").tempdir().expect("a folder can be made");
    let path = programs(folder.path());
    let steps = steps();
    let mut machines: BTreeMap<Ipv4Addr, Machine> = BTreeMap::new();
    for (_, address) in &steps {
        let home = folder.path().join(address.to_string());
        machines.entry(*address).or_insert_with(|| network.machine(*address, &home, &path));
    }
    assert_eq!((machines.len(), steps.len() > 7), (3, true), "{steps:?}");
    for (heading, address) in steps {
        let of_step = |language| page::fenced(PAGE, heading, language).concat();
        let machine = machines.get_mut(&address).expect("it was started");
        let printed = machine.paste(&of_step("sh"), PATIENCE);
        println!("{heading}\n{printed}");
        page::expect_printed(&printed, &of_step("text"));
    }
}
