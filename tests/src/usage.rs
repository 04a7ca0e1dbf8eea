//! What processes use: processor time and memory, as the kernel counts them, and room on the disk.

use std::{collections::HashSet, fs, path::Path, time::Duration};

/// The kernel's tick in `/proc/PID/stat`: `USER_HZ` is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// Returns the processor time that processes have used since they started, together with their
/// children, living and gone.
pub fn processor_time(pids: &[u32]) -> Duration {
    let ticks: u64 = with_descendants(pids).iter().map(|process| process.ticks).sum();
    TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// Returns the bytes of all files below a folder, while files come and go.
pub fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(about) if about.is_dir() => bytes_below(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Pages that no other process has.
    pub private: u64,
    /// Those, and a fair share of what is shared.
    pub proportional: u64,
    /// Everything that is mapped and in memory.
    pub resident: u64,
}

/// Returns the memory of processes and their living children.
pub fn memory(pids: &[u32]) -> Memory {
    let mut sum = Memory::default();
    for Process { pid, .. } in with_descendants(pids) {
        // A process may end meanwhile.
        let one = own_memory(pid);
        sum.private += one.private;
        sum.proportional += one.proportional;
        sum.resident += one.resident;
    }
    sum
}

/// Returns the memory of one process, without its children.
pub fn own_memory(pid: u32) -> Memory {
    // It may end meanwhile.
    rollup(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default())
}

/// One process, as `/proc/PID/stat` shows it.
struct Process {
    pid: u32,
    parent: u32,
    /// The ticks of it and of its children that it has waited for.
    ticks: u64,
}

/// Lists processes and all that they started, in one look at the processes of the machine.
fn with_descendants(pids: &[u32]) -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut rest: Vec<Process> = numbers.filter_map(stat).collect();
    let mut known: HashSet<u32> = pids.iter().copied().collect();
    let mut found = Vec::new();
    loop {
        let (new, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|one| known.contains(&one.pid) || known.contains(&one.parent));
        rest = others;
        if new.is_empty() {
            return found;
        }
        known.extend(new.iter().map(|one| one.pid));
        found.extend(new);
    }
}

/// Reads a process; one that ended meanwhile is none.
fn stat(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces. Of the fields of proc(5) the 4th is the parent, and 14
    // to 17 are the times.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>()?;
    Some(Process { pid, parent: fields.get(1)?.parse().ok()?, ticks })
}

fn rollup(text: &str) -> Memory {
    let kibibytes = |name: &str| -> u64 {
        let values =
            text.lines().filter_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
        values.sum::<u64>() * 1024
    };
    Memory {
        private: kibibytes("Private_Clean:") + kibibytes("Private_Dirty:"),
        proportional: kibibytes("Pss:"),
        resident: kibibytes("Rss:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_summed_by_kind() {
        let text = "00400000-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:  300 kB\nPss_Anon: 7 kB\n\
                    Private_Clean: 4 kB\nPrivate_Dirty: 6 kB\n";
        assert_eq!(rollup(text), Memory { private: 10 << 10, proportional: 300 << 10, resident: 900 << 10 });
        assert_eq!(rollup(""), Memory::default());
    }

    #[test]
    fn a_process_that_works_uses_time_and_memory() {
        let me = [std::process::id()];
        let before = processor_time(&me);
        let mut sum = 0_u64;
        while processor_time(&me) < before + TICK * 3 {
            sum = (0..1_000_000).fold(sum, |sum: u64, next| sum.wrapping_mul(31).wrapping_add(next));
        }
        assert_ne!(sum, 1);
        let memory = memory(&me);
        assert!(memory.private > 0 && memory.private <= memory.resident, "{memory:?}");
    }
}
