//! What the system says of a process in `/proc/<pid>/stat`.

use std::io;

use crate::fs::read_proc;

/// Some members of `/proc/<pid>/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    state: char,
    pub(crate) parent: i32,
    /// The number of its process group.
    pub(crate) group: i32,
    /// The time of its start, in clock ticks after the machine started.
    pub(crate) start: u64,
}

impl Stat {
    pub(crate) fn read(pid: i32) -> io::Result<Self> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "its state cannot be read");
        Self::parse(&read_proc(format!("/proc/{pid}/stat"))?).ok_or_else(bad)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name in brackets may hold spaces and brackets; field 3 follows the last of them.
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        let field = |number: usize| fields.get(number - 3);
        Some(Stat {
            state: field(3)?.chars().next()?,
            parent: field(4)?.parse().ok()?,
            group: field(5)?.parse().ok()?,
            start: field(22)?.parse().ok()?,
        })
    }

    /// True for a process that has ended and was not reaped.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let text = "7 (a) R (b) Z 5 6 3 4 0 0 0 0 0 0 0 0 0 0 0 0 0 0 99 100\n";
        let expected = Stat { state: 'Z', parent: 5, group: 6, start: 99 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert!(expected.has_ended());
        assert_eq!(Stat::parse("7 (a) R 5 6\n"), None);
        assert!(!Stat::read(std::process::id().cast_signed()).unwrap().has_ended());
    }
}
