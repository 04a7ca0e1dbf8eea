//! Noticing that something else has changed placed files, without reading them: by what the system
//! says of each. The files of an entry are read only when that is another than before.

use std::io;

use crate::{
    export::{Contents, Export},
    fs::{Fingerprint, Folder},
    place::{
        entry::{PlaceEntry, PlaceMode},
        placements::Placements,
    },
};

impl Placements {
    /// Describes every path that does not hold what it should, each in one sentence. Looks at
    /// entries until there were `most` files or more, and at the following ones the next time. An
    /// entry that could not be placed is shown as that, and is no matter of looking.
    pub(crate) fn look(&mut self, export: &Export, have: &Contents, most: usize) -> Vec<String> {
        let (mut problems, mut looked) = (Vec::new(), 0);
        for _ in 0..self.entries.len() {
            if looked >= most {
                break;
            }
            self.next %= self.entries.len();
            let entry = self.entries[self.next].clone();
            self.next += 1;
            if self.errors.contains_key(&entry.path) || entry.matching(have).count() > 1 {
                continue;
            }
            looked += 1 + self.journal.at(&entry.path).map_or(0, |placed| placed.files.len() + placed.folders.len());
            problems.extend(self.look_at(&entry, export, have));
        }
        problems
    }

    fn look_at(&mut self, entry: &PlaceEntry, export: &Export, have: &Contents) -> Vec<String> {
        // Whether a link leads where it should costs less than to remember it.
        let now = (entry.mode != PlaceMode::Link).then(|| self.fingerprint(entry, have));
        if now.is_some() && self.seen.get(&entry.path).copied() == now {
            return Vec::new();
        }
        let problems = self.problems_of(entry, export, have);
        if let Some(now) = now.filter(|_| problems.is_empty()) {
            self.seen.insert(entry.path.clone(), now);
        }
        problems
    }

    /// What the system says of an entry's folder and of all that is placed there.
    fn fingerprint(&self, entry: &PlaceEntry, have: &Contents) -> u64 {
        let mut fingerprint = Fingerprint::default();
        // Another rendering should be there: the same files are not right any more.
        for (component, hash) in entry.matching(have) {
            fingerprint.add(&format!("{component} {hash}"), None);
        }
        let root = Folder::existing(&entry.path);
        // A folder that is exchanged as a whole holds nothing else.
        if let Some(root) = root.as_ref().ok().filter(|_| entry.mode == PlaceMode::Exchange) {
            fingerprint.add("", root.own_stat().ok().as_ref());
        }
        let placed = self.placed_at(entry);
        for path in placed.files.iter().chain(&placed.folders) {
            let stat = root.as_ref().ok().and_then(|root| root.stat_below(path).ok());
            fingerprint.add(path, stat.as_ref());
        }
        fingerprint.number()
    }

    /// Writes the journal again if somebody has removed it.
    pub(crate) fn keep_journal(&self) -> io::Result<()> {
        self.journal.keep()
    }
}
