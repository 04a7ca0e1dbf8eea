//! Reading the options again at SIGHUP: what is different, what of it holds at once, and what needs
//! a restart.

use std::{
    collections::BTreeMap,
    env, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use clap::Parser;
use serde::de::DeserializeOwned;

use crate::{
    daemon::{
        flags::{self, Given},
        log::{chain, set_level},
    },
    tls::{Certificates, Looked},
};

/// Flags and variables that name a file with a credential that is read for each request: a new
/// content holds without a restart.
const READ_OFTEN: [&str; 2] = ["token-file", "CONSUL_HTTP_TOKEN_FILE"];
/// The same for files that are read at the start alone.
const READ_ONCE: [&str; 2] = ["trusted-key", "identity"];

/// The flag that holds at once.
const LEVEL: &str = "log-level";

type ReadOptions = Box<dyn Fn() -> Result<Given, String> + Send>;

/// The options that a daemon runs with, and the way to read them again.
pub struct Reload {
    read: Option<ReadOptions>,
    /// The options as they hold now: those that need a restart stay as they were.
    now: Given,
    /// The content of the files of [`READ_OFTEN`], [`READ_ONCE`] and `more`, as it holds now.
    contents: BTreeMap<String, Content>,
    /// More files that are read at the start alone.
    more: BTreeMap<String, PathBuf>,
    certificates: Certificates,
}

/// What is known of a file's content: a hash, which shows nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Read(u64),
    Unreadable,
}

/// What happened to one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// It is as it should be.
    Done(String),
    /// It stays as it was, and somebody must do something.
    Kept(String),
}

impl Said {
    fn of_certificate(looked: Looked) -> Self {
        match looked {
            Looked::Read(words) => Said::Done(words),
            Looked::Refused(fault) => Said::Kept(format!("{}; the last good files stay in use", chain(&fault))),
            Looked::Due(words) => Said::Kept(words),
        }
    }
}

impl Reload {
    /// Reads the options of this process as [`flags::parse_with`] does. What cannot be read now has
    /// been refused by that already.
    pub fn new<P: Parser + 'static, E: DeserializeOwned + Default + Send + 'static>(
        prefix: &'static str,
        structured: &'static [&'static str],
    ) -> Self {
        Self::reading(Box::new(move || flags::read_again::<P, E>(prefix, structured)))
    }

    /// For a program without options.
    pub fn nothing() -> Self {
        Reload {
            read: None,
            now: Given::new(),
            contents: BTreeMap::new(),
            more: BTreeMap::new(),
            certificates: Certificates::default(),
        }
    }

    fn reading(read: ReadOptions) -> Self {
        let now = read().unwrap_or_default();
        let reload = Reload { read: Some(read), now, ..Reload::nothing() };
        Reload { contents: reload.contents_now(), ..reload }
    }

    /// Also watches a file that is read at the start alone.
    #[must_use]
    pub fn with_file(mut self, what: &str, path: PathBuf) -> Self {
        self.more.insert(what.to_owned(), path);
        self.contents = self.contents_now();
        self
    }

    /// Also reads the certificates again that the program takes up later.
    #[must_use]
    pub fn with_certificates(mut self, certificates: &Certificates) -> Self {
        self.certificates = certificates.clone();
        self
    }

    pub(crate) fn has_certificates(&self) -> bool {
        !self.certificates.is_empty()
    }

    /// Reads certificates that have changed. Of a fault nobody hears at the first look, unless
    /// somebody `is_asked`.
    pub(crate) fn look(&self, is_asked: bool) -> Vec<Said> {
        let mut said: Vec<Said> = self.certificates.look(is_asked).into_iter().map(Said::of_certificate).collect();
        // Of one file there may be two clients.
        said.dedup();
        said
    }

    /// Reads everything again, and tells what is different.
    pub(crate) fn again(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        match self.read.as_ref().map(|read| read()) {
            None => {}
            Some(Ok(given)) => self.compare(&given, &mut said),
            Some(Err(words)) => said.push(Said::Kept(format!("the options stay as they are: {words}"))),
        }
        self.compare_contents(&mut said);
        said.extend(self.look(true));
        if said.is_empty() {
            said.push(Said::Done("the options and credentials were read again; nothing is different".to_owned()));
        }
        said
    }

    fn compare(&mut self, given: &Given, said: &mut Vec<Said>) {
        let names = self.now.keys().chain(given.keys());
        let different: Vec<&String> = names.filter(|name| self.now.get(*name) != given.get(*name)).collect();
        let mut later: Vec<&str> = different.iter().map(|name| name.as_str()).filter(|name| *name != LEVEL).collect();
        later.sort_unstable();
        later.dedup();
        if !later.is_empty() {
            let words = format!("different now, and used after a restart: {}", later.join(", "));
            said.push(Said::Kept(words));
        }
        let level = given.get(LEVEL).filter(|level| self.now.get(LEVEL) != Some(level));
        if let Some(level) = level {
            match set_level(level) {
                Ok(()) => {
                    said.push(Said::Done(format!("{LEVEL} is now {level}")));
                    self.now.insert(LEVEL.to_owned(), level.clone());
                }
                Err(error) => said.push(Said::Kept(format!("{LEVEL} stays as it is: {error}"))),
            }
        }
    }

    fn compare_contents(&mut self, said: &mut Vec<Said>) {
        let (files, now) = (self.files(), self.contents_now());
        for (name, content) in now {
            if self.contents.get(&name) == Some(&content) {
                continue;
            }
            let path = files.get(&name).map(|path| path.display().to_string()).unwrap_or_default();
            let words = format!("{name}: the content of {path} is different");
            match content {
                Content::Unreadable => said.push(Said::Kept(format!("{name}: {path} cannot be read"))),
                Content::Read(_) if READ_OFTEN.contains(&name.as_str()) => {
                    said.push(Said::Done(format!("{words}; requests send it from now on")));
                    self.contents.insert(name, content);
                }
                Content::Read(_) => said.push(Said::Kept(format!("{words}, and used after a restart"))),
            }
        }
    }

    /// The files with credentials, by the flag or the variable that names them.
    fn files(&self) -> BTreeMap<String, PathBuf> {
        let named = READ_OFTEN.iter().chain(&READ_ONCE).filter_map(|name| {
            let of_flag = self.now.get(*name).cloned();
            let path = of_flag.or_else(|| env::var(name).ok()).filter(|path| !path.is_empty())?;
            Some(((*name).to_owned(), PathBuf::from(path)))
        });
        named.chain(self.more.clone()).collect()
    }

    fn contents_now(&self) -> BTreeMap<String, Content> {
        self.files().into_iter().map(|(name, path)| (name, content_of(&path))).collect()
    }
}

fn content_of(path: &Path) -> Content {
    match fs::read(path) {
        Ok(bytes) => {
            let mut hash = DefaultHasher::new();
            bytes.hash(&mut hash);
            Content::Read(hash.finish())
        }
        Err(_) => Content::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A daemon whose options the test sets.
    struct Case {
        given: Arc<Mutex<Result<Given, String>>>,
        reload: Reload,
    }

    fn given(flags: &[(&str, &str)]) -> Given {
        flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    impl Case {
        fn new(flags: &[(&str, &str)]) -> Self {
            let given = Arc::new(Mutex::new(Ok(given(flags))));
            let read = Arc::clone(&given);
            Case { given, reload: Reload::reading(Box::new(move || read.lock().unwrap().clone())) }
        }

        /// Reads again; what needs somebody is marked.
        fn again(&mut self) -> Vec<String> {
            let said = self.reload.again().into_iter().map(|said| match said {
                Said::Done(words) => words,
                Said::Kept(words) => format!("! {words}"),
            });
            said.collect()
        }

        fn then(&mut self, flags: &[(&str, &str)]) -> Vec<String> {
            *self.given.lock().unwrap() = Ok(given(flags));
            self.again()
        }
    }

    const NOTHING: [&str; 1] = ["the options and credentials were read again; nothing is different"];

    #[test]
    fn what_needs_a_restart_is_said_until_then() {
        let mut case = Case::new(&[("central", "http://a"), ("keep", "5"), ("log-level", "info")]);
        assert_eq!(case.again(), NOTHING);
        let changed = [("central", "http://b"), ("log-level", "info"), ("watch", "[]")];
        for _ in 0..2 {
            assert_eq!(case.then(&changed), ["! different now, and used after a restart: central, keep, watch"]);
        }
        assert_eq!(case.then(&[("central", "http://a"), ("keep", "5"), ("log-level", "info")]), NOTHING);
    }

    #[test]
    fn the_level_holds_at_once_and_is_said_once() {
        let mut case = Case::new(&[("log-level", "info")]);
        assert_eq!(case.then(&[("log-level", "debug")]), ["log-level is now debug"]);
        assert_eq!(case.again(), NOTHING);
        let said = case.then(&[("log-level", "a=loud")]);
        assert!(said[0].starts_with("! log-level stays as it is: 'a=loud' is not a log level"), "{said:?}");
    }

    #[test]
    fn broken_options_change_nothing() {
        let mut case = Case::new(&[("keep", "5")]);
        *case.given.lock().unwrap() = Err("/etc/a.yaml, line 2: unknown key 'kep'".to_owned());
        assert_eq!(case.again(), ["! the options stay as they are: /etc/a.yaml, line 2: unknown key 'kep'"]);
        assert_eq!(case.then(&[("keep", "5")]), NOTHING);
    }

    #[test]
    fn credentials_are_held_against_what_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (token, key, own) = (path("token"), path("key.pub"), path("own"));
        [&token, &key, &own].iter().for_each(|path| fs::write(path, "one").unwrap());
        let mut case = Case::new(&[("token-file", &token), ("trusted-key", &key)]);
        case.reload = case.reload.with_file("the signing key", own.clone().into());
        assert_eq!(case.again(), NOTHING);
        [&token, &key, &own].iter().for_each(|path| fs::write(path, "two").unwrap());
        let of_key = format!("! the signing key: the content of {own} is different, and used after a restart");
        let of_trusted = format!("! trusted-key: the content of {key} is different, and used after a restart");
        let of_token = format!("token-file: the content of {token} is different; requests send it from now on");
        assert_eq!(case.again(), [of_key.clone(), of_token, of_trusted.clone()]);
        assert_eq!(case.again(), [of_key, of_trusted.clone()]);
        fs::write(&own, "one").unwrap();
        fs::remove_file(&token).unwrap();
        assert_eq!(case.again(), [format!("! token-file: {token} cannot be read"), of_trusted]);
    }
}
