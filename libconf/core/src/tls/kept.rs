//! What was made of files, and is made again when they change.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;

use crate::tls::{
    dates::Dates,
    file::{NamedFile, Stamp, TlsError},
};

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
    /// What somebody was told of the dates.
    told: Dates,
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
            state: Mutex::new(State { now, made_of, refused: None, told: Dates::Good }),
            files,
        };
        if let Some(told) = kept.dates(&mut kept.state.lock()) {
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

    /// Tells once of each turn that the dates take.
    fn dates(&self, state: &mut State<T>) -> Option<String> {
        let dates = state.now.dates();
        if state.told == dates {
            return None;
        }
        state.told = dates.clone();
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
        looked.extend(self.dates(&mut state).map(Looked::Due));
        looked
    }
}

fn stamps(files: &[NamedFile]) -> Vec<Option<Stamp>> {
    files.iter().map(NamedFile::stamp).collect()
}
