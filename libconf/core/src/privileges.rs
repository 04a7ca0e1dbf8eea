//! What a process may do beyond other users' processes, and how it gives that up.

use std::io;

use rustix::{
    io::Errno,
    process::geteuid,
    thread::{
        CapabilitySet, CapabilitySets, Gid, Uid, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};

/// The number of the user and of the group `nobody`.
const NOBODY: u32 = 65_534;

/// Gives up all privileges, for good: this thread becomes `nobody` if it is root, has no
/// capability, and gains none by any program. Call it before any other thread starts.
///
/// In a container that has no other user, or that lets root become none, root keeps its number and
/// has no capability.
pub fn drop_all() -> io::Result<()> {
    if geteuid().is_root() {
        bound(CapabilitySet::empty())?;
        match become_nobody() {
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    keep(CapabilitySet::empty())?;
    // Last, and it needs no capability: who sees it knows that all the rest is given up.
    Ok(set_no_new_privs(true)?)
}

fn become_nobody() -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)
}

/// Leaves this thread, and those that it starts, only these capabilities of those that it has.
/// Programs that it starts as root may have others: see [`bound`].
pub fn keep(wanted: CapabilitySet) -> io::Result<()> {
    let CapabilitySets { permitted, inheritable, .. } = capabilities(None)?;
    // A kernel before Linux 4.3 has no ambient set.
    match clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let kept = permitted & wanted;
    Ok(set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: inheritable & wanted })?)
}

/// Has no program that this thread starts gain other capabilities than these. A process that may
/// not decide that keeps its bounds.
pub fn bound(wanted: CapabilitySet) -> io::Result<()> {
    for capability in CapabilitySet::all().difference(wanted).iter() {
        match remove_capability_from_bounding_set(capability) {
            // This kernel does not know the capability.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(Errno::PERM) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, thread};

    use super::*;

    /// The lines of this thread's status.
    fn status() -> BTreeMap<String, String> {
        let text = fs::read_to_string("/proc/thread-self/status").unwrap();
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
    }

    #[test]
    fn a_thread_gives_up_what_it_has_and_others_do_not() {
        let before = status();
        let own = thread::spawn(|| drop_all().map(|()| status()));
        let dropped = own.join().unwrap().unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(dropped[set], "0".repeat(16), "{set}");
        }
        assert_eq!(dropped["NoNewPrivs"], "1");
        if geteuid().is_root() {
            let number = NOBODY.to_string();
            assert_eq!(dropped["Uid"].split('\t').collect::<Vec<_>>(), [&number; 4]);
            assert_eq!(dropped["Gid"].split('\t').collect::<Vec<_>>(), [&number; 4]);
            assert_eq!((dropped["Groups"].as_str(), dropped["CapBnd"].as_str()), ("", "0000000000000000"));
        } else {
            assert_eq!(dropped["Uid"], before["Uid"]);
        }
        let kept = thread::spawn(|| keep(CapabilitySet::CHOWN).map(|()| status())).join().unwrap().unwrap();
        let expected = if geteuid().is_root() { "0000000000000001" } else { "0000000000000000" };
        assert_eq!((kept["CapEff"].as_str(), &kept["CapBnd"]), (expected, &before["CapBnd"]));
        assert_eq!(status()["CapEff"], before["CapEff"]);
    }
}
