//! What was made of files, and is made again when they change.

use std::{
    fmt,
    mem::discriminant,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::tls::{
    dates::Dates,
    file::{NamedFile, Stamp, TlsError},
};

/// 1 day: how often somebody is told that a certificate is due, also where robots renew one for a
/// few days each time.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The certificates of a program. Clones are of the same program.
#[derive(Clone, Default)]
pub struct Certificates(Arc<Mutex<Vec<Arc<dyn Renewed>>>>);

/// What happened to one certificate.
#[derive(Debug)]
pub(crate) enum Looked {
    /// New files are in use.
    Read(String),
    /// The files cannot be used; the last good ones stay in use.
    Refused(TlsError),
    /// Somebody should renew it.
    Due(String),
}

trait Renewed: Send + Sync {
    fn look(&self, is_asked: bool) -> Vec<Looked>;
}

impl Certificates {
    pub(crate) fn add<T: Dated>(&self, kept: &Arc<Kept<T>>) {
        let kept = Arc::clone(kept);
        self.0.lock().push(kept);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Reads again what has changed, and tells what came of it. A pair whose halves are replaced
    /// one after the other does not fit in between, so nobody hears of a fault before the second
    /// look, unless somebody `is_asked`.
    pub(crate) fn look(&self, is_asked: bool) -> Vec<Looked> {
        let all = self.0.lock().clone();
        all.iter().flat_map(|one| one.look(is_asked)).collect()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates")
    }
}

/// What is made of files, and is good for a time.
pub(crate) trait Dated: Send + Sync + 'static {
    fn dates(&self) -> Dates;
}

/// The last good thing that was made of some files.
pub(crate) struct Kept<T> {
    files: Vec<NamedFile>,
    make: Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>,
    state: Mutex<State<T>>,
}

struct State<T> {
    now: Arc<T>,
    /// The files as they were when it was made.
    made_of: Vec<Option<Stamp>>,
    /// The files of which nothing could be made, and whether somebody was told.
    refused: Option<(Vec<Option<Stamp>>, bool)>,
    /// What somebody was told of the dates, and when.
    told: Dates,
    at: Option<Instant>,
}

impl<T: Dated> Kept<T> {
    /// Makes the thing; an error is one of `make`.
    pub(crate) fn new(
        files: Vec<NamedFile>,
        make: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, TlsError> {
        let made_of = stamps(&files);
        let now = Arc::new(make()?);
        files.iter().for_each(NamedFile::warn_if_open);
        let kept = Kept {
            make: Box::new(make),
            state: Mutex::new(State { now, made_of, refused: None, told: Dates::Good, at: None }),
            files,
        };
        if let Some(told) = kept.dates(&mut kept.state.lock(), Instant::now()) {
            tracing::warn!("{told}");
        }
        Ok(Arc::new(kept))
    }

    pub(crate) fn now(&self) -> Arc<T> {
        Arc::clone(&self.state.lock().now)
    }

    /// Its files, for people.
    fn shown(&self) -> String {
        let shown = self.files.iter().map(|file| format!("{} {}", file.what, file.path.display()));
        shown.collect::<Vec<_>>().join(", ")
    }

    /// Makes it again, unless that is worse than what there is.
    fn again(&self, now: &T) -> Result<T, TlsError> {
        let made = (self.make)()?;
        match (made.dates(), now.dates()) {
            (Dates::Bad(_), Dates::Bad(_)) => Ok(made),
            (Dates::Bad(fault), _) => Err(TlsError::Usage(format!("the new certificate of {} {fault}", self.shown()))),
            _ => Ok(made),
        }
    }

    /// Tells of each turn that the dates take, and once a day of what goes on.
    fn dates(&self, state: &mut State<T>, now: Instant) -> Option<String> {
        let dates = state.now.dates();
        let is_new = discriminant(&state.told) != discriminant(&dates);
        let is_due = state.at.is_none_or(|at| now.saturating_duration_since(at) >= DAY);
        state.told = dates.clone();
        if !is_new && !is_due {
            return None;
        }
        state.at = Some(now);
        let step = "put a new one in its place: it is read without a restart";
        match dates {
            Dates::Good => None,
            Dates::Soon(until) => {
                let until = until.replace("expired on", "expires on");
                Some(format!("the certificate of {} {until}; {step}", self.shown()))
            }
            Dates::Bad(fault) => {
                Some(format!("the certificate of {} {fault}, so that nobody trusts it; {step}", self.shown()))
            }
        }
    }
}

impl<T: Dated> Renewed for Kept<T> {
    fn look(&self, is_asked: bool) -> Vec<Looked> {
        // Connections that begin meanwhile wait for no file.
        let found = stamps(&self.files);
        let now = Some(self.state.lock()).filter(|state| state.made_of != found).map(|state| Arc::clone(&state.now));
        let made = now.map(|now| self.again(&now));
        let mut state = self.state.lock();
        let mut looked = Vec::new();
        match made {
            None => state.refused = None,
            Some(Ok(made)) => {
                self.files.iter().for_each(NamedFile::warn_if_open);
                (state.now, state.made_of, state.refused) = (Arc::new(made), found, None);
                looked.push(Looked::Read(format!("{}: read again; new connections use it", self.shown())));
            }
            Some(Err(fault)) => {
                let is_told = state.refused.as_ref().filter(|(of, _)| *of == found).map(|(_, is_told)| *is_told);
                let tells = is_asked || is_told == Some(false);
                if tells {
                    looked.push(Looked::Refused(fault));
                }
                state.refused = Some((found, tells || is_told == Some(true)));
            }
        }
        looked.extend(self.dates(&mut state, Instant::now()).map(Looked::Due));
        looked
    }
}

fn stamps(files: &[NamedFile]) -> Vec<Option<Stamp>> {
    files.iter().map(NamedFile::stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is due on some day.
    #[derive(Clone)]
    struct Thing(Dates);

    impl Dated for Thing {
        fn dates(&self) -> Dates {
            self.0.clone()
        }
    }

    #[test]
    fn a_certificate_that_is_due_is_told_of_once_a_day() {
        let soon = |day: &str| Dates::Soon(format!("expired on {day}"));
        let kept = Kept::new(Vec::new(), || Ok(Thing(Dates::Good))).unwrap();
        let begin = Instant::now();
        let tell = |dates: Dates, after: Duration| {
            let mut state = kept.state.lock();
            state.now = Arc::new(Thing(dates));
            kept.dates(&mut state, begin + after).is_some()
        };
        let hours = |number: u64| Duration::from_secs(number * 3600);
        assert!(!tell(Dates::Good, hours(30)) && !tell(Dates::Good, hours(60)), "nothing is told of a good one");
        // A robot renews it for a few days, every eight hours.
        let told: Vec<bool> = (0..7).map(|turn| tell(soon(&turn.to_string()), hours(100 + 8 * turn))).collect();
        assert_eq!(told, [true, false, false, true, false, false, true]);
        assert!(tell(Dates::Bad("expired".to_owned()), hours(149)), "a turn for the worse is told at once");
        assert!(!tell(Dates::Good, hours(150)) && tell(soon("9"), hours(150)));
    }
}
