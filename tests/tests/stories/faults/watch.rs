//! Eyes that never close: what readers of the exported files see while everything fails.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, openat};
use tests::reader::current;

use crate::faults::engineer::COMPONENTS;

/// A thread that reads the files of all hosts, host after host.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    excused: Arc<Vec<AtomicBool>>,
    rounds: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<Seen>>>,
}

/// What it saw.
#[derive(Default)]
struct Seen {
    rounds: u64,
    /// What must never be seen, each once.
    broken: BTreeSet<String>,
}

impl Watch {
    pub(super) fn start(exports: &[PathBuf]) -> Self {
        let excused: Arc<Vec<AtomicBool>> = Arc::new(exports.iter().map(|_| AtomicBool::new(false)).collect());
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let ended = Arc::clone(&rounds);
        let (asked, allowed, exports) = (Arc::clone(&stop), Arc::clone(&excused), exports.to_vec());
        let thread = thread::spawn(move || {
            let (mut seen, mut newest) = (Seen::default(), vec![0; exports.len()]);
            while !asked.load(Ordering::Relaxed) {
                seen.rounds += 1;
                for (number, export) in exports.iter().enumerate() {
                    let is_excused = allowed[number].load(Ordering::Relaxed);
                    let host = number + 1;
                    if let Some(sequence) = current(export) {
                        if sequence < newest[number] {
                            seen.broken.insert(format!("web-{host} went from #{} back to #{sequence}", newest[number]));
                        }
                        newest[number] = sequence;
                    }
                    match read_all(export) {
                        Ok(contents) if contents.iter().any(|one| *one != contents[0]) => {
                            seen.broken.insert(format!("web-{host} shows files of several changes: {contents:?}"));
                        }
                        Err(why) if !is_excused && !allowed[number].load(Ordering::Relaxed) => {
                            seen.broken.insert(format!("a file of web-{host} cannot be read: {why}"));
                        }
                        _ => {}
                    }
                }
                ended.store(seen.rounds, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(10));
            }
            seen
        });
        Watch { stop, excused, rounds, thread: Mutex::new(Some(thread)) }
    }

    /// Says whether the files of a host may be away.
    pub(super) fn excuse(&self, host: usize, may_be_away: bool) {
        self.excused[host].store(may_be_away, Ordering::Relaxed);
    }

    /// Ends it, and expects that nothing was seen that must not be.
    #[track_caller]
    pub(super) fn expect_unharmed(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.lock().expect("not poisoned").take();
        let seen = thread.expect("it is ended once").join().expect("it does not fail");
        println!("the files of all hosts were read {} times; seen that must not be: {:?}", seen.rounds, seen.broken);
        assert!(seen.broken.is_empty() && seen.rounds > 0, "{:?}", seen.broken);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Reads one file of each component through one look at `current`.
fn read_all(export: &Path) -> Result<Vec<String>, String> {
    let link = export.join("current");
    let opened = File::open(&link).map_err(|error| format!("{}: {error}", link.display()))?;
    let mut contents = Vec::new();
    for component in COMPONENTS {
        let path = format!("{component}/latest/round");
        let file = openat(&opened, &path, OFlags::RDONLY, Mode::empty()).map_err(|error| format!("{path}: {error}"))?;
        let mut content = String::new();
        File::from(file).read_to_string(&mut content).map_err(|error| format!("{path}: {error}"))?;
        contents.push(content);
    }
    Ok(contents)
}

/// The watch itself, tried by files that break a promise.
mod broken {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tests::eventually;

    use crate::faults::watch::*;

    /// Has `current` name a snapshot with these contents.
    fn export(folder: &Path, sequence: u64, contents: [&str; 3]) {
        let snapshot = folder.join("snapshots").join(sequence.to_string());
        for (component, content) in COMPONENTS.iter().zip(contents) {
            let files = snapshot.join(component).join("latest");
            fs::create_dir_all(&files).expect("the folder can be made");
            fs::write(files.join("round"), content).expect("the folder can be written");
        }
        symlink(&snapshot, folder.join("next")).expect("the folder can be written");
        fs::rename(folder.join("next"), folder.join("current")).expect("both are in one folder");
    }

    /// Watches an export, first as it should be, and then after this.
    fn watch(then: impl FnOnce(&Path)) {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        export(folder.path(), 2, ["a"; 3]);
        let watch = Watch::start(&[folder.path().to_owned()]);
        let look = || {
            let before = watch.rounds.load(Ordering::Relaxed);
            eventually("another look", || {
                let rounds = watch.rounds.load(Ordering::Relaxed);
                if rounds >= before + 2 { Ok(()) } else { Err(rounds.to_string()) }
            });
        };
        look();
        then(folder.path());
        look();
        watch.expect_unharmed();
    }

    #[test]
    fn a_change_is_no_harm() {
        watch(|folder| export(folder, 3, ["b"; 3]));
    }

    #[test]
    #[should_panic(expected = "files of several changes")]
    fn files_of_two_changes_are_noticed() {
        watch(|folder| export(folder, 3, ["b", "b", "a"]));
    }

    #[test]
    #[should_panic(expected = "went from #2 back to #1")]
    fn an_older_change_is_noticed() {
        watch(|folder| export(folder, 1, ["a"; 3]));
    }

    #[test]
    #[should_panic(expected = "cannot be read")]
    fn a_file_that_is_gone_is_noticed() {
        watch(|folder| fs::remove_file(folder.join("current")).expect("it is there"));
    }
}
