//! Decides what the folders would become: components, templates, variables, secrets. Writes
//! nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::bail;
use conf_core::secret::MAX_VALUE_BYTES;
use conf_core::settings;
use conf_core::settings::TEMPLATE_ENDING;
use conf_core::suspect::{self, Finding};
use git2::FileMode;
use libconf::name::{ClassName, ComponentName, RoleName, SecretName};
use zeroize::Zeroizing;

use crate::import::flags::ImportFlags;
use crate::import::naming::{self, Group};
use crate::import::proposal::{Component, NamedHosts, Proposal, Secret};
use crate::import::scan::{Remark, Tree};
use crate::import::variables::{self, Text};

/// Makes the proposal.
pub(crate) fn propose<'a>(tree: &'a Tree, flags: &ImportFlags) -> anyhow::Result<Proposal<'a>> {
    let class = match &flags.class {
        Some(class) => class.clone(),
        None => named_after(flags)?,
    };
    let datacenter = match &flags.datacenter {
        Some(datacenter) => datacenter.clone(),
        None => format!("{class}/v1").parse()?,
    };
    let mut faults = tree.faults.clone();
    let groups = naming::groups(&tree.folders, flags, &mut faults);
    let mut roles: BTreeMap<RoleName, BTreeSet<ComponentName>> = BTreeMap::new();
    for (group, place) in groups.iter().flat_map(|group| group.places.iter().map(move |place| (group, place))) {
        roles.entry(place.role.clone()).or_default().insert(group.name.clone());
    }
    let hosts = hosts(flags, &roles)?;
    let mut components = Vec::new();
    for group in groups {
        components.push(component(group)?);
    }
    let mut deciding =
        Deciding { flags, components, secrets: Vec::new(), allowed: Vec::new(), used: Vec::new(), faults };
    let mut texts = deciding.read()?;
    deciding.find_again(&mut texts)?;
    let variables = variables::decide(flags, &mut deciding.components, &texts, &mut deciding.faults)?;
    deciding.faults.extend(unused(flags, &deciding.used));
    deciding.faults.sort();
    let Deciding { components, secrets, allowed, faults, .. } = deciding;
    Ok(Proposal {
        class,
        datacenter,
        branch: flags.branch.clone(),
        components,
        roles,
        hosts,
        variables,
        secrets,
        allowed,
        faults,
    })
}

fn named_after(flags: &ImportFlags) -> anyhow::Result<ClassName> {
    let folder = flags.folder.canonicalize()?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.parse().map_err(|bad| anyhow::anyhow!("{bad}; name the class by --class NAME"))
}

fn hosts(flags: &ImportFlags, roles: &BTreeMap<RoleName, BTreeSet<ComponentName>>) -> anyhow::Result<NamedHosts> {
    let mut hosts = NamedHosts::new();
    for named in &flags.hosts {
        if let Some(role) = named.roles.iter().find(|role| !roles.contains_key(role)) {
            let known: Vec<&str> = roles.keys().map(RoleName::as_str).collect();
            bail!("--host {}: there is no role {role}; there are {}", named.host, known.join(", "));
        }
        if hosts.insert(named.host.clone(), (named.roles.clone(), None)).is_some() {
            bail!("--host {} is named twice; write NAME=ROLE,ROLE", named.host);
        }
    }
    for named in &flags.host_keys {
        let Some((_, key)) = hosts.get_mut(&named.host) else {
            bail!("--host-key {0}: there is no --host {0}=ROLE", named.host);
        };
        *key = Some(named.key.clone());
    }
    Ok(hosts)
}

/// Decides whether files of the component can be templates and settings.
fn component(group: Group<'_>) -> anyhow::Result<Component<'_>> {
    let Group { name, places, note } = group;
    let paths = places[0].files.keys().map(String::as_str);
    let (mut raw, mut settings) = (None, None);
    // A folder may have the name that a template would get.
    let named_so = |path: &&str| path.split('/').any(|part| part.ends_with(TEMPLATE_ENDING));
    if let Some(file) = paths.clone().find(named_so) {
        raw = Some(format!("{file} would be taken for a template of this system, or be in the way of one"));
    } else {
        match settings::choose(paths, false) {
            Err(fault) => raw = Some(fault.to_string()),
            Ok(None) => {}
            Ok(Some((file, format))) => {
                let bytes = places[0].read(file)?;
                let objection = || settings::objections(file, format, &bytes).into_iter().next();
                match settings::parse(file, format, &bytes).map_or_else(Some, |_| objection()) {
                    None => settings = Some(file.to_owned()),
                    Some(fault) => raw = Some(format!("it cannot be read as settings: {fault}")),
                }
            }
        }
    }
    Ok(Component { name, places, raw, settings, templates: BTreeMap::new(), notes: note.into_iter().collect() })
}

struct Deciding<'a, 'f> {
    flags: &'f ImportFlags,
    components: Vec<Component<'a>>,
    secrets: Vec<Secret>,
    allowed: Vec<Remark>,
    /// The `--allow-secret` flags that allowed something, once for each time.
    used: Vec<String>,
    faults: Vec<Remark>,
}

impl Deciding<'_, '_> {
    /// Reads every file, and finds text that looks like a secret by itself.
    fn read(&mut self) -> anyhow::Result<Vec<Text>> {
        let mut texts = Vec::new();
        for component in 0..self.components.len() {
            let folder = self.components[component].places[0];
            for file in folder.files.iter().filter(|(_, entry)| entry.mode != FileMode::Link).map(|(file, _)| file) {
                let bytes = folder.read(file)?;
                match String::from_utf8(bytes) {
                    Ok(text) if !text.contains('\0') => {
                        let text = Zeroizing::new(text);
                        let mut findings = Vec::new();
                        for finding in suspect::in_text(file, &text) {
                            if let Some(name) = self.secret(component, file, &text, &finding) {
                                findings.push((finding, name));
                            }
                        }
                        texts.push(Text { component, file: file.clone(), content: text, findings });
                    }
                    other => {
                        let bytes = other.map_or_else(std::string::FromUtf8Error::into_bytes, String::into_bytes);
                        if let Some(what) = suspect::in_bytes(file, &bytes) {
                            self.opaque(component, file, what);
                        }
                    }
                }
            }
        }
        Ok(texts)
    }

    /// Reports a secret in a file that cannot be a template.
    fn opaque(&mut self, component: usize, file: &str, what: &str) {
        let shown = self.components[component].places[0].shown(file);
        if self.is_allowed(component, file, None) {
            self.allowed.push(Remark::new(shown, format!("{what}, in clear, as it was asked")));
        } else {
            let reason = format!(
                "it looks like {what}, and is no text that a template could put together on the host. Take it by \
                 --leave-out and bring it there some other way, or say by --allow-secret that everybody may read it"
            );
            self.faults.push(Remark::new(shown, reason));
        }
    }

    /// Tells whether a flag names this line of the file, in any of the folders that hold it.
    fn is_allowed(&mut self, component: usize, file: &str, line: Option<usize>) -> bool {
        let before = self.used.len();
        for path in self.components[component].places.iter().map(|place| place.shown(file)) {
            let with_line = line.map(|line| format!("{path}:{line}"));
            let hits = |one: &&String| **one == path || Some(*one) == with_line.as_ref();
            self.used.extend(self.flags.allowed.iter().filter(hits).cloned());
        }
        self.used.len() > before
    }

    /// Declares a finding as a secret, or reports why it cannot be one.
    fn secret(&mut self, component: usize, file: &str, text: &str, finding: &Finding) -> Option<SecretName> {
        let line = text[..finding.range.start].matches('\n').count() + 1;
        let is_allowed = self.is_allowed(component, file, Some(line));
        let one = &self.components[component];
        let shown = one.places[0].shown(file);
        let remark = |reason: String| Remark { path: shown.clone(), line: Some(line), reason };
        if is_allowed {
            self.allowed.push(remark(format!("{}, in clear, as it was asked", finding.what)));
            return None;
        }
        let allow = format!("or say by --allow-secret {shown}:{line} that everybody may read it");
        if one.settings.as_deref() == Some(file) {
            let reason = format!(
                "it looks like {}, and {file} would be the settings of {}: write {{\"$secret\": \"NAME\"}} in its place, \
                 declare NAME after the import, {allow}",
                finding.what, one.name
            );
            self.faults.push(remark(reason));
            return None;
        }
        if let Some(raw) = &one.raw {
            let reason = format!(
                "it looks like {}, and no file of {} can be a template, since {raw}. Rename that file, {allow}",
                finding.what, one.name
            );
            self.faults.push(remark(reason));
            return None;
        }
        let value = &text[finding.range.clone()];
        if value.len() > MAX_VALUE_BYTES {
            let most = MAX_VALUE_BYTES;
            let reason =
                format!("it looks like {}, of more than {most} bytes: too long for a secret; {allow}", finding.what);
            self.faults.push(remark(reason));
            return None;
        }
        let reader = one.name.clone();
        let known = self.secrets.iter().position(|secret| *secret.value == *value);
        let at = known.unwrap_or_else(|| {
            let taken = self.secrets.iter().map(|secret| secret.name.as_str().to_ascii_uppercase()).collect();
            let name = naming::secret(&reader, file, finding.key.as_deref(), &taken);
            let value = Zeroizing::new(value.to_owned());
            self.secrets.push(Secret { name, value, what: finding.what, places: Vec::new(), readers: BTreeSet::new() });
            self.secrets.len() - 1
        });
        let secret = &mut self.secrets[at];
        secret.places.push((shown, line));
        secret.readers.insert(reader);
        Some(secret.name.clone())
    }

    /// Finds the values of secrets in places where nothing else shows that they are secrets.
    fn find_again(&mut self, texts: &mut [Text]) -> anyhow::Result<()> {
        let mut known: Vec<(Zeroizing<String>, &'static str)> = self
            .secrets
            .iter()
            .filter(|secret| is_telling(&secret.value))
            .map(|secret| (secret.value.clone(), secret.what))
            .collect();
        // One value may be a part of another.
        known.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        for text in &mut *texts {
            for (value, what) in &known {
                let again: Vec<_> = text.content.match_indices(value.as_str()).map(|(start, _)| start).collect();
                for start in again {
                    let range = start..start + value.len();
                    if !text.is_free(&range) {
                        continue;
                    }
                    let finding = Finding { range: range.clone(), what, key: None };
                    if let Some(name) = self.secret(text.component, &text.file, &text.content, &finding) {
                        text.findings.push((finding, name));
                    }
                }
            }
            text.findings.sort_by_key(|(one, _)| one.range.start);
        }
        let Some(any) = any_of(&known)? else { return Ok(()) };
        let are_text: HashSet<(usize, &str)> = texts.iter().map(|text| (text.component, text.file.as_str())).collect();
        for component in 0..self.components.len() {
            let folder = self.components[component].places[0];
            for file in folder.files.keys().filter(|file| !are_text.contains(&(component, file.as_str()))) {
                if any.is_match(&folder.read(file)?) {
                    self.opaque(component, file, "a file with a secret that occurs elsewhere too");
                }
            }
        }
        Ok(())
    }
}

/// Builds a pattern for any of these values in bytes.
fn any_of(known: &[(Zeroizing<String>, &'static str)]) -> anyhow::Result<Option<regex::bytes::Regex>> {
    if known.is_empty() {
        return Ok(None);
    }
    let escaped: Vec<String> = known.iter().map(|(value, _)| regex::escape(value)).collect();
    let bounds = 256 << 20;
    Ok(Some(regex::bytes::RegexBuilder::new(&escaped.join("|")).size_limit(bounds).build()?))
}

/// Tells whether a value is too unusual to occur elsewhere by chance.
fn is_telling(value: &str) -> bool {
    let classes = [
        value.bytes().any(|byte| byte.is_ascii_lowercase()),
        value.bytes().any(|byte| byte.is_ascii_uppercase()),
        value.bytes().any(|byte| byte.is_ascii_digit()),
        value.bytes().any(|byte| byte.is_ascii_punctuation()),
    ];
    value.len() >= 12 || (value.len() >= 8 && classes.iter().filter(|class| **class).count() > 1)
}

/// Reports `--allow-secret` flags that allowed nothing.
fn unused(flags: &ImportFlags, used: &[String]) -> Vec<Remark> {
    let reason = "--allow-secret names it, and nothing there looks like a secret";
    flags.allowed.iter().filter(|one| !used.contains(one)).map(|one| Remark::new(one.as_str(), reason)).collect()
}
