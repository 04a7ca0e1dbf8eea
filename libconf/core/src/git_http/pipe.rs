//! The way of a program's output to its reader: a little waits in memory, and what the reader does
//! not take in time goes into a file. So the program ends early, however slow the reader is.

use std::{collections::VecDeque, io, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    daemon::blocking,
    git_http::failure::Failure,
    http::{SpoolFile, Spools, Who},
};

/// 64 KiB wait in memory.
const IN_MEMORY: usize = 64 << 10;
/// 2 GiB of one answer wait in a file; then the program waits for its reader.
const MOST_FILE: u64 = 2 << 30;

/// Makes a way for the reader `who`.
pub(crate) fn pipe(spools: Spools, who: Who) -> (PipeIn, PipeOut) {
    let shared = Arc::new(Shared::default());
    (PipeIn { shared: shared.clone(), spools, who }, PipeOut(shared))
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something came, or the end.
    filled: Notify,
    /// Something was taken, or the reader has gone.
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What waits in memory; it comes before what is in the file.
    parts: VecDeque<Bytes>,
    bytes: usize,
    file: Option<Filed>,
    end: Option<Result<(), Failure>>,
    is_abandoned: bool,
}

/// A file, up to where it is written, and up to where it is read.
#[derive(Clone, Debug)]
struct Filed {
    file: Arc<SpoolFile>,
    written: u64,
    read: u64,
}

/// The program's side.
#[derive(Debug)]
pub(crate) struct PipeIn {
    shared: Arc<Shared>,
    spools: Spools,
    who: Who,
}

/// The reader's side.
#[derive(Debug)]
pub(crate) struct PipeOut(Arc<Shared>);

/// The reader has gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abandoned;

/// What becomes of a part.
enum Way {
    Done,
    File(Filed),
    NewFile,
}

impl PipeIn {
    /// Passes a part on. Waits only where the reader's share of files and disk is used up.
    pub(crate) async fn send(&self, part: Bytes) -> Result<(), Abandoned> {
        loop {
            let is_written = match self.way(&part)? {
                Way::Done => return Ok(()),
                Way::File(filed) => self.write(filed, part.clone()).await,
                Way::NewFile => self.open().await,
            };
            match is_written {
                Ok(Step::Done) => return Ok(()),
                Ok(Step::Again) => {}
                Ok(Step::Wait) => self.shared.taken.notified().await,
                Err(cause) => {
                    tracing::warn!(%cause, "an answer cannot wait in a file, and waits for its reader");
                    self.shared.taken.notified().await;
                }
            }
        }
    }

    fn way(&self, part: &Bytes) -> Result<Way, Abandoned> {
        let mut state = self.shared.state.lock();
        if state.is_abandoned {
            return Err(Abandoned);
        }
        // A reader that came up to the program is served from memory again.
        let is_drained = state.parts.is_empty();
        if state.file.as_ref().is_some_and(|one| one.read == one.written && (one.written > 0 || is_drained)) {
            state.file = None;
        }
        Ok(match &state.file {
            Some(filed) => Way::File(filed.clone()),
            None if state.bytes < IN_MEMORY => {
                state.bytes += part.len();
                state.parts.push_back(part.clone());
                self.shared.filled.notify_one();
                Way::Done
            }
            None => Way::NewFile,
        })
    }

    async fn open(&self) -> io::Result<Step> {
        let (spools, who) = (self.spools.clone(), self.who);
        let Some(file) = blocking(move || spools.file(who)).await? else { return Ok(Step::Wait) };
        // Nobody else makes one.
        self.shared.state.lock().file = Some(Filed { file: Arc::new(file), written: 0, read: 0 });
        Ok(Step::Again)
    }

    async fn write(&self, filed: Filed, part: Bytes) -> io::Result<Step> {
        let Filed { file, written, .. } = filed;
        let length = written + part.len() as u64;
        let write = move || {
            if length > MOST_FILE || !file.has_room(length) {
                return Ok(Step::Wait);
            }
            file.write(&part, written).map(|()| Step::Done)
        };
        let step = blocking(write).await?;
        if matches!(step, Step::Done)
            && let Some(filed) = &mut self.shared.state.lock().file
        {
            filed.written = length;
            self.shared.filled.notify_one();
        }
        Ok(step)
    }

    /// Nothing else comes.
    pub(crate) fn end(&self, end: Result<(), Failure>) {
        self.shared.state.lock().end.get_or_insert(end);
        self.shared.filled.notify_one();
    }
}

/// What came of one try.
#[derive(Clone, Copy)]
enum Step {
    Done,
    Again,
    Wait,
}

impl Drop for PipeIn {
    fn drop(&mut self) {
        self.end(Err(Failure::Git("it was given up".to_owned())));
    }
}

impl PipeOut {
    /// The next part; `None` after the last one and after a failure.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        loop {
            let filed = {
                let mut state = self.0.state.lock();
                if let Some(part) = state.parts.pop_front() {
                    state.bytes -= part.len();
                    self.0.taken.notify_one();
                    return Some(Ok(part));
                }
                match state.file.clone().filter(|filed| filed.read < filed.written) {
                    Some(filed) => Some(filed),
                    None => match &mut state.end {
                        Some(Ok(())) => return None,
                        // It is told once.
                        Some(end) => return std::mem::replace(end, Ok(())).err().map(Err),
                        None => None,
                    },
                }
            };
            match filed {
                Some(filed) => return Some(self.read(filed).await),
                None => self.0.filled.notified().await,
            }
        }
    }

    async fn read(&mut self, filed: Filed) -> Result<Bytes, Failure> {
        let Filed { file, written, read } = filed;
        let most = usize::try_from(written - read).unwrap_or(IN_MEMORY).min(IN_MEMORY);
        let part = blocking(move || file.read(read, most)).await;
        let mut state = self.0.state.lock();
        match part {
            Ok(part) => {
                if let Some(filed) = &mut state.file {
                    filed.read += part.len() as u64;
                }
                self.0.taken.notify_one();
                Ok(part)
            }
            Err(cause) => {
                (state.file, state.end) = (None, Some(Ok(())));
                Err(Failure::Git(format!("what it wrote cannot be read again: {cause}")))
            }
        }
    }
}

impl Drop for PipeOut {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.is_abandoned = true;
        (state.parts, state.file) = (VecDeque::new(), None);
        self.0.taken.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32) -> Bytes {
        Bytes::from(number.to_le_bytes().repeat(2500))
    }

    #[tokio::test]
    async fn a_writer_ends_before_its_reader_begins_and_all_comes_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let (input, mut output) = pipe(Spools::new(folder.path()), Who::User(1));
        for number in 0..100 {
            input.send(part(number)).await.unwrap();
        }
        input.end(Ok(()));
        drop(input);
        let mut all = Vec::new();
        while let Some(part) = output.next().await {
            all.extend_from_slice(&part.unwrap());
        }
        assert!(all == (0..100).flat_map(|number| part(number).to_vec()).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_reader_that_catches_up_is_served_from_memory_again() {
        let folder = tempfile::tempdir().unwrap();
        let (input, mut output) = pipe(Spools::new(folder.path()), Who::User(1));
        let mut expected = Vec::new();
        let mut all = Vec::new();
        for round in 0..3 {
            for number in 0..20 {
                input.send(part(round * 20 + number)).await.unwrap();
                expected.extend_from_slice(&part(round * 20 + number));
            }
            assert!(input.shared.state.lock().file.is_some());
            while all.len() < expected.len() {
                all.extend_from_slice(&output.next().await.unwrap().unwrap());
            }
        }
        input.send(part(0)).await.unwrap();
        assert!(input.shared.state.lock().file.is_none());
        drop(input);
        all.extend_from_slice(&output.next().await.unwrap().unwrap());
        expected.extend_from_slice(&part(0));
        assert!(all == expected);
        assert!(output.next().await.unwrap().is_err(), "a writer that was dropped has not ended well");
        assert!(output.next().await.is_none());
    }

    #[tokio::test]
    async fn a_writer_learns_that_its_reader_has_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = pipe(Spools::new(folder.path()), Who::User(1));
        input.send(part(0)).await.unwrap();
        drop(output);
        assert!(input.send(part(1)).await.is_err());
    }

    #[tokio::test]
    async fn without_room_for_a_file_the_writer_waits_for_its_reader() {
        let folder = tempfile::tempdir().unwrap();
        let spools = Spools::new(&folder.path().join("not there"));
        let (input, mut output) = pipe(spools, Who::User(1));
        let writing = tokio::spawn(async move {
            for number in 0..100 {
                input.send(part(number)).await.unwrap();
            }
            input.end(Ok(()));
        });
        let mut all = Vec::new();
        while let Some(part) = output.next().await {
            all.extend_from_slice(&part.unwrap());
        }
        writing.await.unwrap();
        assert!(all == (0..100).flat_map(|number| part(number).to_vec()).collect::<Vec<_>>());
    }
}
