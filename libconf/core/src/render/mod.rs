//! One component of a snapshot as readers get it: its files, and its settings as one JSON object.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    str::FromStr,
    time::Duration,
};

use git2::{ObjectType, Repository, Tree};
use serde_json::Value;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    git::safety::{self, Limits},
    layers::{self, LayerError, Sources},
    secret::{Generate, SecretValue, Source},
    settings::{self, SettingsFault},
    template::{self, Given, Job, Rendering},
};
use libconf::name::{BadName, ComponentName, ComponentVersion, HostName, SecretName};

/// What a component is made into. Equal renderings have equal hashes, whatever they were made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// By path relative to the component's root, folders left out (Git keeps no empty ones).
    pub files: BTreeMap<String, Content>,
    /// One JSON object in canonical form.
    pub settings: Vec<u8>,
    /// The settings as everybody may see them, with `{"$secret": "NAME"}` where a secret's value went in; `None` where none
    /// did.
    pub settings_shown: Option<Vec<u8>>,
}

/// The secrets that a component may read: each by its name, with its value or with why there is none.
#[derive(Clone, Default)]
pub struct Secrets {
    given: BTreeMap<String, Given>,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file.
    File {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Exported as 0555 in place of 0444.
        executable: bool,
        /// A secret's value went into it: exported as 0600, or 0700.
        secret: bool,
    },
    /// A relative link that stays inside the component.
    Link(String),
}

/// The SHA-256 of a rendering: the name of its entry in the store, 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreHash([u8; 32]);

/// Why a component was not rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The repository lacks something, or it is damaged: no component's fault, and mended by fetching anew.
    #[error("the repository cannot be read")]
    Repository(#[source] git2::Error),
    /// Its content is not what can be exported; the component keeps what it had.
    #[error("{0}")]
    Fault(String),
    /// Its templates cannot be rendered on this host; all faults at once.
    #[error("{}", .0.iter().map(SettingsFault::to_string).collect::<Vec<_>>().join("; "))]
    Templates(Vec<SettingsFault>),
}

/// Makes a component's files and settings as `host` has them; without a host, as one that the inventory says nothing of.
///
/// - `secrets`: those that the component may read; one that cannot be had is a fault only where it is asked for.
/// - Bounds: see [`template`]; templates are rendered in a process of their own, one component at a time.
pub fn render(
    repo: &Repository,
    sources: &Sources<'_>,
    component: &ComponentVersion,
    host: Option<&HostName>,
    secrets: &Secrets,
) -> Result<Rendered, RenderError> {
    let tree = sources.component_tree;
    let faults = safety::faults_in_tree(repo, tree, &Limits::default()).map_err(RenderError::Repository)?;
    if !faults.is_empty() {
        return Err(RenderError::Fault(faults.join("; ")));
    }
    let mut files = BTreeMap::new();
    let root = repo.find_tree(tree.into()).map_err(RenderError::Repository)?;
    collect(repo, &root, "", &mut files)?;
    // The layers look at the root alone; what may not be deeper is refused here.
    settings::choose(files.keys().map(String::as_str), sources.raw)
        .map_err(|fault| RenderError::Fault(fault.to_string()))?;
    let stack = layers::stack(repo, sources, &component.component, host).map_err(of_layers)?;
    let shown = Value::Object(stack.merged());
    if !sources.raw
        && let Some(templates) = Templates::of(&files).map_err(RenderError::Templates)?
    {
        put_results(&mut files, templates.on(sources, component, host, &shown, secrets).results)?;
    }
    let mut opened = shown.clone();
    let settings_shown = if secrets.put_into(&mut opened).map_err(RenderError::Fault)? {
        Some(settings::to_canonical(&shown))
    } else {
        None
    };
    Ok(Rendered { files, settings: settings::to_canonical(&opened), settings_shown })
}

/// What a component's templates come to on `host`, by the path of what they are made into.
pub fn templates(
    repo: &Repository,
    sources: &Sources<'_>,
    component: &ComponentVersion,
    host: Option<&HostName>,
    secrets: &Secrets,
) -> Result<BTreeMap<String, String>, RenderError> {
    let Some(templates) = Templates::read(repo, sources)? else { return Ok(BTreeMap::new()) };
    let stack = layers::stack(repo, sources, &component.component, host).map_err(of_layers)?;
    let mut faults = Vec::new();
    let mut made = BTreeMap::new();
    for (path, result) in templates.on(sources, component, host, &Value::Object(stack.merged()), secrets).results {
        match result {
            Ok(one) => drop(made.insert(path[..path.len() - template::ENDING.len()].to_owned(), one.text)),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(made) } else { Err(RenderError::Templates(faults)) }
}

fn of_layers(error: LayerError) -> RenderError {
    match error {
        LayerError::Repository(cause) => RenderError::Repository(cause),
        faults @ LayerError::Faults(_) => RenderError::Fault(faults.to_string()),
    }
}

/// What a look at templates came to.
#[derive(Debug)]
pub struct Looked {
    /// What is wrong with them.
    pub faults: Vec<SettingsFault>,
    /// The processor time that it took.
    pub spent: Duration,
    /// One of them took all the time or memory that it may; on the next host it would most likely take as much again.
    pub endless: bool,
}

/// The templates of one component, read once for many hosts.
pub struct Templates {
    /// All files that are text, where one of the templates may include any; else the templates alone.
    texts: BTreeMap<String, String>,
}

impl Templates {
    /// Reads them from a component's tree; `None` where there are none.
    pub fn read(repo: &Repository, sources: &Sources<'_>) -> Result<Option<Self>, RenderError> {
        if sources.raw || !layers::has_templates(repo, sources).map_err(RenderError::Repository)? {
            return Ok(None);
        }
        let mut files = BTreeMap::new();
        let root = repo.find_tree(sources.component_tree.into()).map_err(RenderError::Repository)?;
        collect(repo, &root, "", &mut files)?;
        Self::of(&files).map_err(RenderError::Templates)
    }

    fn of(files: &BTreeMap<String, Content>) -> Result<Option<Self>, Vec<SettingsFault>> {
        if !files.keys().any(|path| path.ends_with(template::ENDING)) {
            return Ok(None);
        }
        let mut faults = clashes(files);
        let mut texts = BTreeMap::new();
        for (path, content) in files {
            let is_template = path.ends_with(template::ENDING);
            let mut refuse = |line, reason: &str| {
                faults.push(SettingsFault { file: path.clone(), line, reason: reason.to_owned() });
            };
            match content {
                Content::Link(_) if is_template => refuse(None, "a template may not be a link; put the file itself"),
                Content::Link(_) => {}
                Content::File { bytes, .. } => match std::str::from_utf8(bytes) {
                    Ok(text) => drop(texts.insert(path.clone(), text.to_owned())),
                    Err(bad) if is_template => {
                        let line = bytes[..bad.valid_up_to()].split(|byte| *byte == b'\n').count();
                        refuse(Some(line), "it is not UTF-8 text; save it as UTF-8");
                    }
                    Err(_) => {}
                },
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let is_template = |path: &String| path.ends_with(template::ENDING);
        let names_others = |(path, text): (&String, &String)| is_template(path) && template::names_others(text);
        if !texts.iter().any(names_others) {
            // They are handed over for every host.
            texts.retain(|path, _| is_template(path));
        }
        Ok(Some(Templates { texts }))
    }

    /// Renders them for a host with these settings, to see what is wrong.
    pub fn look(
        &self,
        sources: &Sources<'_>,
        component: &ComponentVersion,
        host: Option<&HostName>,
        settings: &Value,
        secrets: &Secrets,
    ) -> Looked {
        let Rendering { results, spent, endless } = self.on(sources, component, host, settings, secrets);
        let mut faults: Vec<SettingsFault> = results.into_values().filter_map(Result::err).collect();
        // One that several include is at fault once.
        faults.dedup();
        Looked { faults, spent, endless }
    }

    fn on(
        &self,
        sources: &Sources<'_>,
        component: &ComponentVersion,
        host: Option<&HostName>,
        settings: &Value,
        secrets: &Secrets,
    ) -> Rendering {
        let mut variables = template::variables(sources, component, host);
        variables.insert("settings".to_owned(), settings.clone());
        template::render(Job { files: self.texts.clone(), variables, secrets: secrets.given.clone() })
    }
}

/// Puts in the place of each template what it came to.
fn put_results(files: &mut BTreeMap<String, Content>, results: template::Results) -> Result<(), RenderError> {
    let mut faults = Vec::new();
    for (path, result) in results {
        match result {
            Err(fault) => faults.push(fault),
            Ok(made) => {
                let executable = matches!(files.remove(&path), Some(Content::File { executable: true, .. }));
                let content =
                    Content::File { bytes: made.text.into_bytes(), executable, secret: !made.secrets.is_empty() };
                files.insert(path[..path.len() - template::ENDING.len()].to_owned(), content);
            }
        }
    }
    faults.dedup();
    if faults.is_empty() { Ok(()) } else { Err(RenderError::Templates(faults)) }
}

/// Templates that would be made into what is there already.
fn clashes(files: &BTreeMap<String, Content>) -> Vec<SettingsFault> {
    let mut faults = Vec::new();
    let mut there: HashMap<String, &str> = HashMap::new();
    let made = |path: &str| path.strip_suffix(template::ENDING).unwrap_or(path).to_lowercase();
    for path in files.keys().filter(|path| !path.ends_with(template::ENDING)) {
        // Folders are there as well.
        there.extend(path.match_indices('/').map(|(end, _)| (path[..end].to_lowercase(), path.as_str())));
        there.insert(path.to_lowercase(), path);
    }
    for path in files.keys().filter(|path| path.ends_with(template::ENDING)) {
        there.extend(path.match_indices('/').map(|(end, _)| (path[..end].to_lowercase(), path.as_str())));
    }
    for path in files.keys().filter(|path| path.ends_with(template::ENDING)) {
        let made = made(path);
        let reason = match there.get(&made) {
            _ if made.is_empty() || made.ends_with('/') => "it has no name but its ending; give it one".to_owned(),
            Some(other) => format!("it would be made into what {other} is already; rename one of the two"),
            None => {
                there.insert(made, path);
                continue;
            }
        };
        faults.push(SettingsFault { file: path.clone(), line: None, reason });
    }
    faults
}

/// A place in settings where a secret cannot be put.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretFault {
    /// Its JSON Pointer.
    pub pointer: String,
    /// What is wrong and what to do.
    pub reason: String,
}

impl Secrets {
    /// In the place of every value its name, `<secret NAME>`: for checks and for people. Certificates have their two parts.
    pub fn by_name(sources: &Sources<'_>, component: &ComponentName) -> Self {
        let mut secrets = Secrets::default();
        for (name, declared) in sources.secrets_of(component) {
            let stands = |part: &str| Zeroizing::new(format!("<secret {name}{part}>"));
            let value = match declared.source {
                Source::Generate(Generate::X509 { .. }) => {
                    let certificate = stands(" certificate").to_string();
                    SecretValue::Certificate { certificate, key: stands(" key") }
                }
                _ => SecretValue::Text(stands("")),
            };
            secrets.insert(name, Ok(value));
        }
        secrets
    }

    /// Adds one, or why it cannot be had; those words must not hold a value.
    pub fn insert(&mut self, name: &SecretName, value: Result<SecretValue, String>) {
        let given = match value {
            Ok(SecretValue::Text(text)) => Given::Text(text),
            Ok(SecretValue::Certificate { certificate, key }) => Given::Certificate { certificate, key },
            Err(why) => Given::Not(why),
        };
        self.given.insert(name.to_string(), given);
    }

    /// The settings with the secrets that they ask for, where they ask for any, and all that they ask for in vain.
    pub fn fill(&self, settings: &Value) -> (Option<Value>, Vec<SecretFault>) {
        let (mut filled, mut faults) = (settings.clone(), Vec::new());
        let found = self.walk(&mut filled, "", &mut faults);
        (found.then_some(filled), faults)
    }

    /// Puts values in the place of every `{"$secret": "NAME"}`; true when there was one.
    fn put_into(&self, settings: &mut Value) -> Result<bool, String> {
        let mut faults = Vec::new();
        let found = self.walk(settings, "", &mut faults);
        match faults.first() {
            None => Ok(found),
            Some(fault) => Err(format!("the settings ask at {} for {}", fault.pointer, fault.reason)),
        }
    }

    fn walk(&self, value: &mut Value, at: &str, faults: &mut Vec<SecretFault>) -> bool {
        let mut refuse = |name: &str, why: &str| {
            faults.push(SecretFault { pointer: at.to_owned(), reason: format!("the secret {name}: {why}") });
        };
        if let Some(name) = settings::asked_secret(value) {
            if at.is_empty() {
                refuse(name, "it stands in the place of all settings; write it under a key");
                return false;
            }
            *value = match self.given.get(name) {
                Some(Given::Text(text)) => text.as_str().into(),
                Some(Given::Certificate { certificate, key }) => {
                    serde_json::json!({"certificate": certificate, "key": key.as_str()})
                }
                Some(Given::Not(why)) => {
                    refuse(name, why);
                    return false;
                }
                None => {
                    refuse(name, "it is not declared in `secrets:` with this component among its `readers`");
                    return false;
                }
            };
            return true;
        }
        let mut found = false;
        match value {
            Value::Object(members) if members.contains_key(settings::SECRET) => {
                refuse("that it means", "write {\"$secret\": \"NAME\"}, with nothing else in it");
            }
            Value::Object(members) => {
                for (key, inner) in members {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    found |= self.walk(inner, &format!("{at}/{key}"), faults);
                }
            }
            Value::Array(items) => {
                for (number, inner) in items.iter_mut().enumerate() {
                    found |= self.walk(inner, &format!("{at}/{number}"), faults);
                }
            }
            _ => {}
        }
        found
    }
}

/// Shows the names alone.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.given.keys()).finish()
    }
}

/// Reads a folder that [`safety`] has looked at: its names are plain UTF-8, its depth and size bounded.
fn collect(
    repo: &Repository,
    tree: &Tree<'_>,
    above: &str,
    files: &mut BTreeMap<String, Content>,
) -> Result<(), RenderError> {
    for entry in tree {
        let path = format!("{above}{}", String::from_utf8_lossy(entry.name_bytes()));
        if entry.kind() == Some(ObjectType::Tree) {
            let inner = repo.find_tree(entry.id()).map_err(RenderError::Repository)?;
            collect(repo, &inner, &format!("{path}/"), files)?;
            continue;
        }
        let blob = repo.find_blob(entry.id()).map_err(RenderError::Repository)?;
        let content = match entry.filemode() {
            0o120_000 => Content::Link(String::from_utf8_lossy(blob.content()).into_owned()),
            mode => Content::File { bytes: blob.content().to_vec(), executable: mode == 0o100_755, secret: false },
        };
        files.insert(path, content);
    }
    Ok(())
}

impl Rendered {
    /// True when a secret's value went into a file or into the settings.
    pub fn is_secret(&self) -> bool {
        let secret = |content: &Content| matches!(content, Content::File { secret: true, .. });
        self.settings_secret() || self.files.values().any(secret)
    }

    /// True when a secret's value went into the settings: exported as 0600.
    pub fn settings_secret(&self) -> bool {
        self.settings_shown.is_some()
    }

    /// Its name in the store. Where there are secrets in it the name depends on `salt`, which only this host knows, so that a
    /// name does not let anybody try what the secret might be.
    pub fn hash(&self, salt: &[u8]) -> StoreHash {
        let mut hash = Sha256::new();
        // Every part goes in with its length, so that no two renderings give the same bytes.
        let mut part = |kind: &[u8], bytes: &[u8]| {
            hash.update(kind);
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(b"conf-store-1", &[]);
        if self.is_secret() {
            part(b"salt", salt);
        }
        for (path, content) in &self.files {
            part(b"path", path.as_bytes());
            match content {
                Content::File { bytes, executable, secret } => {
                    let kind: &[u8] = match (executable, secret) {
                        (false, false) => b"file",
                        (true, false) => b"exec",
                        (false, true) => b"secret file",
                        (true, true) => b"secret exec",
                    };
                    part(kind, bytes);
                }
                Content::Link(target) => part(b"link", target.as_bytes()),
            }
        }
        part(b"settings", &self.settings);
        if let Some(shown) = &self.settings_shown {
            part(b"shown", shown);
        }
        StoreHash(hash.finalize().into())
    }
}

impl StoreHash {
    /// The hash of a text.
    pub fn of(text: &str) -> Self {
        StoreHash(Sha256::digest(text).into())
    }
}

impl fmt::Display for StoreHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StoreHash {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName {
            text: text.chars().take(80).collect(),
            what: "the name of a store entry",
            reason: "it must be 64 lower-case hex digits",
        };
        if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| bad())?;
        }
        Ok(StoreHash(bytes))
    }
}
