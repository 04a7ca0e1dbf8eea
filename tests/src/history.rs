//! The readings of participants of distributed operations, and the check that they can be true.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use serde::Deserialize;

/// One reading of one process, as `src/bin/participant.rs` writes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Observation {
    /// The service.
    pub service: String,
    /// Its process.
    pub process: u32,
    /// The number of the reading in this process.
    pub order: u64,
    /// The snapshot that the process was on.
    pub current: u64,
    /// The version that it read at.
    pub pinned: u64,
    /// The value that it read and that all datacenters share.
    pub round: u64,
    /// The value that it read and that its datacenter alone has.
    pub local: u64,
}

/// Every accepted change, in order, and so the right values at each sequence.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    rounds: BTreeMap<u64, u64>,
    locals: BTreeMap<String, BTreeMap<u64, u64>>,
}

impl Truth {
    /// Notes that all datacenters have this round from `sequence` on.
    pub fn round(&mut self, sequence: u64, round: u64) {
        self.rounds.insert(sequence, round);
    }

    /// Notes that one datacenter has this value of its own from `sequence` on.
    pub fn local(&mut self, datacenter: &str, sequence: u64, local: u64) {
        self.locals.entry(datacenter.to_owned()).or_default().insert(sequence, local);
    }

    /// Returns the round and the datacenter's own value at a sequence.
    pub fn at(&self, datacenter: &str, sequence: u64) -> (u64, u64) {
        let newest = |values: &BTreeMap<u64, u64>| values.range(..=sequence).next_back().map_or(0, |(_, value)| *value);
        (newest(&self.rounds), self.locals.get(datacenter).map_or(0, newest))
    }

    /// Returns the sequence of the newest change.
    pub fn newest(&self) -> u64 {
        let locals = self.locals.values().flat_map(BTreeMap::keys);
        self.rounds.keys().chain(locals).max().copied().unwrap_or_default()
    }
}

/// Reads a file of lines as participants write them. If a process was killed, its last line may be
/// cut off. Later lines are then from other processes.
pub fn read(path: &Path) -> Vec<Observation> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut cut: Option<(&str, u32)> = None;
    let mut seen: Vec<Observation> = Vec::new();
    for line in text.lines() {
        match serde_json::from_str::<Observation>(line) {
            Ok(one) => {
                if let Some((cut, _)) = cut.take_if(|(_, process)| *process == one.process) {
                    panic!("a process goes on after a line that is cut off: {cut}");
                }
                seen.push(one);
            }
            Err(error) if error.is_eof() => cut = seen.last().map(|last| (line, last.process)),
            Err(error) => panic!("{line}: {error}"),
        }
    }
    seen
}

/// Describes every reading of each datacenter's participants that cannot be true. Each history is
/// in the order of its file.
pub fn faults(truth: &Truth, histories: &[(&str, Vec<Observation>)]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut current: HashMap<(&str, u32), u64> = HashMap::new();
    let mut rounds: HashMap<u64, &Observation> = HashMap::new();
    let mut values: HashMap<(&str, u64), &Observation> = HashMap::new();
    for (datacenter, history) in histories {
        for one in history {
            let before = current.insert((&one.service, one.process), one.current).unwrap_or_default();
            if one.current < before {
                faults.push(format!("the sequence fell from {before} to {} for one observer: {one:?}", one.current));
            }
            let other = *values.entry((datacenter, one.pinned)).or_insert(one);
            if (other.round, other.local) != (one.round, one.local) {
                faults.push(format!("two values of one sequence in {datacenter}: {other:?}, {one:?}"));
            }
            let other = *rounds.entry(one.pinned).or_insert(one);
            if other.round != one.round {
                faults.push(format!("two datacenters read two values of one sequence: {other:?}, {one:?}"));
            }
            let (round, local) = truth.at(datacenter, one.pinned);
            if (round, local) != (one.round, one.local) {
                faults.push(format!("change {} of {datacenter} is {round} and {local}, not {one:?}", one.pinned));
            }
        }
    }
    faults
}

/// Tells whether all participants of one operation read at one version.
pub fn is_one(operation: &[Observation]) -> bool {
    operation.windows(2).all(|two| two[0].pinned == two[1].pinned)
}

/// Tells whether they read two different shared values.
pub fn is_mixed(operation: &[Observation]) -> bool {
    operation.windows(2).any(|two| two[0].round != two[1].round)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(process: u32, current: u64, pinned: u64, round: u64, local: u64) -> Observation {
        Observation { service: "web".to_owned(), process, order: 0, current, pinned, round, local }
    }

    fn truth() -> Truth {
        let mut truth = Truth::default();
        truth.round(3, 1);
        truth.local("west", 5, 7);
        truth.round(6, 2);
        truth
    }

    #[test]
    fn possible_readings_are_no_faults() {
        let west = vec![seen(1, 3, 3, 1, 0), seen(1, 5, 5, 1, 7), seen(1, 6, 4, 1, 0), seen(2, 3, 6, 2, 7)];
        let east = vec![seen(3, 6, 6, 2, 0), seen(3, 6, 5, 1, 0)];
        assert_eq!(faults(&truth(), &[("west", west), ("east", east)]), [""; 0]);
        assert_eq!((truth().newest(), Truth::default().newest()), (6, 0));
    }

    #[test]
    fn each_rule_catches_a_reading_that_breaks_it_alone() {
        let one = |words: &str, histories: &[(&str, Vec<Observation>)]| {
            let found = faults(&truth(), histories);
            assert!(found.iter().any(|fault| fault.contains(words)), "{words}: {found:?}");
        };
        one("fell from 6 to 5", &[("west", vec![seen(1, 6, 6, 2, 7), seen(1, 5, 6, 2, 7)])]);
        one("two values of one sequence in west", &[("west", vec![seen(1, 6, 6, 2, 7), seen(2, 6, 6, 2, 0)])]);
        one("two datacenters", &[("west", vec![seen(1, 6, 6, 2, 7)]), ("east", vec![seen(3, 6, 6, 1, 0)])]);
        one("change 6 of west is 2 and 7", &[("west", vec![seen(1, 6, 6, 1, 7)])]);
        // Two processes are two observers.
        let two = [("west", vec![seen(1, 6, 6, 2, 7), seen(2, 5, 6, 2, 7)])];
        assert_eq!(faults(&truth(), &two), [""; 0]);
    }

    #[test]
    fn a_line_that_was_cut_off_is_the_last_one_of_its_process() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let line = |process: u32| {
            format!(r#"{{"service":"web","process":{process},"order":0,"current":3,"pinned":3,"round":1,"local":0}}"#)
        };
        let written = |lines: &[&str]| {
            fs::write(file.path(), lines.join("\n")).expect("it can be written");
            std::panic::catch_unwind(|| read(file.path()))
        };
        let (one, two) = (line(1), line(2));
        assert_eq!(written(&[&one, &one[..40]]).expect("it can be read"), [seen(1, 3, 3, 1, 0)]);
        let both = [seen(1, 3, 3, 1, 0), seen(2, 3, 3, 1, 0)];
        assert_eq!(written(&[&one, &one[..40], &two, ""]).expect("it can be read"), both);
        written(&[&one, &one[..40], &one]).expect_err("its process was not killed");
        written(&[&one, &one[1..], &two]).expect_err("that is no line's beginning");
    }
}
