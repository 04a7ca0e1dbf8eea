//! From the text of a `datacenter.yaml` to its types: reads on after a fault, so that all come at once.

mod secrets;

use std::{collections::BTreeMap, str::FromStr};

use serde_json::{Map, Value};

use crate::manifest::{
    ClassManifest, ClassRef, Fault, Host, InstanceManifest, Overlay, Pattern, PinEntry, Role, Strictness,
};
use crate::settings::{
    lines::Lines,
    schema::Compatibility,
    yaml::{Key, Node, Shape, shown, twice},
};
use libconf::name::{
    BadName, BranchName, ComponentName, ComponentVersion, HostName, Kind, RoleName, Segment, TagName, Version,
};

/// What may stand in a map.
struct Place {
    /// What the map is, for people.
    what: &'static str,
    known: &'static [&'static str],
    /// Keys of later versions.
    later: &'static [&'static str],
    /// Keys that stand in a datacenter's file alone.
    of_datacenters: &'static [&'static str],
    /// Keys that stand in a class's file alone.
    of_classes: &'static [&'static str],
}

const CLASS: Place = Place {
    what: "the datacenter.yaml of a class",
    known: &["services", "applications", "devices", "platform", "secrets", "compatibility"],
    later: &["rollout", "export"],
    of_datacenters: &["conf", "inventories"],
    of_classes: &[],
};
const INSTANCE: Place = Place {
    what: "the datacenter.yaml of a datacenter",
    known: &["conf", "inventories", "platform", "services", "applications", "devices", "secrets"],
    of_datacenters: &[],
    of_classes: &["compatibility"],
    ..CLASS
};
const INVENTORIES: Place =
    Place { what: "`inventories`", known: &["roles", "hosts"], later: &[], of_datacenters: &[], of_classes: &[] };
const COMPATIBILITY: Place = Place { what: "`compatibility`", known: &["settings"], ..INVENTORIES };
const ROLE: Place = Place { what: "a role", known: &["components", "variables", "settings"], ..INVENTORIES };
const HOST: Place =
    Place { what: "a host", known: &["roles", "labels", "key", "components", "variables", "settings"], ..INVENTORIES };
const PIN: Place = Place {
    what: "a component's entry",
    known: &["name", "branch", "tag", "raw"],
    later: &["export", "rollout"],
    ..INVENTORIES
};

/// More faults than anyone reads at once are counted only.
const MAX_FAULTS: usize = 50;

pub(crate) fn class(text: &str, strictness: Strictness) -> Result<ClassManifest, Vec<Fault>> {
    let mut reader = Reader::new(strictness);
    let mut fields = reader.document(text, &CLASS)?;
    let manifest = ClassManifest {
        components: reader.components(&mut fields),
        platform: reader.object(&mut fields, "platform"),
        secrets: reader.secrets(&mut fields),
        settings_compatibility: reader.or_passed_over(|reader| reader.compatibility(&mut fields)),
    };
    reader.finish(manifest)
}

pub(crate) fn instance(text: &str, strictness: Strictness) -> Result<InstanceManifest, Vec<Fault>> {
    let mut reader = Reader::new(strictness);
    let mut fields = reader.document(text, &INSTANCE)?;
    let conf = match fields.take("conf") {
        Some(node) => reader.class_ref(node),
        None => reader.fault(0, "`conf` is missing; write conf: datacenter-configuration/<class>/<tag>, or …/latest"),
    };
    let components = reader.components(&mut fields);
    let platform = reader.object(&mut fields, "platform");
    let secrets = reader.secrets(&mut fields);
    let (roles, hosts) = reader.inventories(fields.take("inventories"));
    match conf {
        Some(conf) => reader.finish(InstanceManifest { conf, components, platform, secrets, roles, hosts }),
        None => Err(reader.faults()),
    }
}

/// The known keys of one map.
struct Fields {
    line: usize,
    nodes: BTreeMap<String, Node>,
}

impl Fields {
    fn take(&mut self, key: &str) -> Option<Node> {
        self.nodes.remove(key)
    }
}

struct Reader {
    strict: bool,
    faults: Vec<Fault>,
}

impl Reader {
    fn new(strictness: Strictness) -> Self {
        Reader { strict: strictness == Strictness::Strict, faults: Vec::new() }
    }

    fn document(&mut self, text: &str, place: &Place) -> Result<Fields, Vec<Fault>> {
        let node = Node::parse(text).map_err(|fault| vec![fault])?;
        if node.shape == Shape::Null {
            return Err(vec![Fault::new(0, "the file is empty; write at least `services: []`")]);
        }
        self.fields(node, place).ok_or_else(|| std::mem::take(&mut self.faults))
    }

    fn finish<T>(self, manifest: T) -> Result<T, Vec<Fault>> {
        if self.faults.is_empty() { Ok(manifest) } else { Err(self.faults()) }
    }

    fn faults(mut self) -> Vec<Fault> {
        self.faults.sort();
        self.faults.dedup();
        let more = self.faults.len().saturating_sub(MAX_FAULTS);
        if more > 0 {
            self.faults.truncate(MAX_FAULTS);
            self.faults.push(Fault::new(0, format!("and {more} more faults")));
        }
        self.faults
    }

    fn fault<T>(&mut self, line: usize, reason: impl Into<String>) -> Option<T> {
        self.faults.push(Fault::new(line, reason));
        None
    }

    /// A value of another type than is wanted.
    fn wrong<T>(&mut self, node: &Node, label: &str, wanted: &str) -> Option<T> {
        self.fault(node.line, format!("{label} must be {wanted}, but it is {}", node.what()))
    }

    /// The entries of a map, none of them twice; nothing when it is no map.
    fn entries(&mut self, node: Node, label: &str) -> Option<Vec<(Key, Node)>> {
        let Shape::Map(entries) = node.shape else {
            let wanted = if node.shape == Shape::Null { "a map (an empty one is {})" } else { "a map" };
            return self.wrong(&node, label, wanted);
        };
        twice(&entries, &mut self.faults, |node| match node.shape {
            Shape::List(_) => "merge the two lists",
            Shape::Map(_) => "merge the two maps",
            _ => "keep one of the two",
        });
        Some(entries)
    }

    /// The known keys of a map; the others are faults, or passed over. Nothing when it is no map.
    fn fields(&mut self, node: Node, place: &Place) -> Option<Fields> {
        let line = node.line;
        let mut nodes = BTreeMap::new();
        for (key, node) in self.entries(node, place.what)? {
            if place.known.contains(&key.text.as_str()) {
                nodes.insert(key.text, node);
            } else if self.strict {
                self.faults.push(Fault::new(key.line, unknown(&key.text, place)));
            }
        }
        Some(Fields { line, nodes })
    }

    fn list(&mut self, node: Node, key: &str, example: &str) -> Vec<Node> {
        match node.shape {
            Shape::List(nodes) => return nodes,
            Shape::Null => self.wrong(&node, &quoted(key), "a list (an empty one is [])"),
            _ => self.wrong(&node, &quoted(key), &format!("a list, as in {example}")),
        }
        .unwrap_or_default()
    }

    fn text(&mut self, node: Node, key: &str) -> Option<(String, usize)> {
        match node.shape {
            Shape::Text(text) => Some((text, node.line)),
            Shape::Number(_) | Shape::Bool(_) => self.wrong(&node, &quoted(key), "text (put it in quotes)"),
            _ => self.wrong(&node, &quoted(key), "text"),
        }
    }

    fn name<T: FromStr<Err = BadName>>(&mut self, text: &str, line: usize, key: &str) -> Option<T> {
        match text.parse() {
            Ok(name) => Some(name),
            Err(bad) => self.fault(line, format!("`{}`: {bad}", shown(key))),
        }
    }

    /// A map of anything, kept as it is.
    fn object(&mut self, fields: &mut Fields, key: &str) -> Map<String, Value> {
        let Some(node) = fields.take(key) else { return Map::new() };
        let entries = self.entries(node, &quoted(key)).unwrap_or_default();
        entries.into_iter().map(|(key, node)| (key.text, node.into_json(&mut self.faults))).collect()
    }

    fn class_ref(&mut self, node: Node) -> Option<ClassRef> {
        let (text, line) = self.text(node, "conf")?;
        let parts: Vec<&str> = text.split('/').collect();
        let ["datacenter-configuration", class, tag] = parts.as_slice() else {
            let reason = format!(
                "`conf` is {:?}; write datacenter-configuration/<class>/<tag>, or …/latest to follow the class's branch",
                shown(&text)
            );
            return self.fault(line, reason);
        };
        Some(ClassRef { class: self.name(class, line, "conf")?, tag: self.tag(tag, line, "conf")?, line })
    }

    /// `None` within is `latest`.
    #[expect(clippy::option_option, reason = "the outer one says that there was a fault")]
    fn tag(&mut self, text: &str, line: usize, key: &str) -> Option<Option<TagName>> {
        if text == Version::LATEST { Some(None) } else { self.name(text, line, key).map(Some) }
    }

    /// Every component of the three lists, none of them twice under one version.
    fn components(&mut self, fields: &mut Fields) -> BTreeMap<ComponentVersion, PinEntry> {
        let mut components = BTreeMap::<ComponentVersion, PinEntry>::new();
        for kind in Kind::ALL {
            let Some(node) = fields.take(kind.as_str()) else { continue };
            for node in self.list(node, kind.as_str(), "[{name: web, branch: master, tag: latest}]") {
                let Some((component, entry)) = self.component(kind, node) else { continue };
                let line = entry.line;
                if let Some(first) = components.get(&component) {
                    let reason = format!("{component} already stands in line {}; keep one of the two", first.line);
                    self.faults.push(Fault::new(line, reason));
                    continue;
                }
                components.insert(component, entry);
            }
        }
        components
    }

    fn component(&mut self, kind: Kind, node: Node) -> Option<(ComponentVersion, PinEntry)> {
        let mut fields = self.fields(node, &PIN)?;
        let line = fields.line;
        let name = self.required::<Segment>(&mut fields, "name");
        let branch = self.required::<BranchName>(&mut fields, "branch");
        let tag = match fields.take("tag") {
            Some(node) => self.text(node, "tag").and_then(|(text, line)| self.tag(&text, line, "tag")),
            None => Some(None),
        };
        let raw = match fields.take("raw") {
            Some(Node { shape: Shape::Bool(raw), .. }) => Some(raw),
            Some(node) => self.wrong(&node, "`raw`", "true or false"),
            None => Some(false),
        };
        let (name, branch, tag, raw) = (name?, branch?, tag?, raw?);
        let text = tag.as_ref().map_or(Version::LATEST, TagName::as_str);
        let version = self.name(text, line, "tag")?;
        let component = ComponentVersion { component: ComponentName { kind, name }, version };
        Some((component, PinEntry { branch, tag, raw, line }))
    }

    fn required<T: FromStr<Err = BadName>>(&mut self, fields: &mut Fields, key: &str) -> Option<T> {
        let Some(node) = fields.take(key) else {
            let reason = format!("`{key}` is missing; write {{name: <name>, branch: <branch>, tag: <tag or latest>}}");
            return self.fault(fields.line, reason);
        };
        let (text, line) = self.text(node, key)?;
        self.name(&text, line, key)
    }

    fn compatibility(&mut self, fields: &mut Fields) -> Compatibility {
        let Some(node) = fields.take("compatibility") else { return Compatibility::None };
        let line = node.line;
        let Some(mut fields) = self.fields(node, &COMPATIBILITY) else { return Compatibility::None };
        let Some(node) = fields.take("settings") else {
            self.fault::<()>(line, "`compatibility` says nothing; write {settings: backward}");
            return Compatibility::None;
        };
        let promised = self.text(node, "settings").and_then(|(word, line)| match word.parse() {
            Ok(promised) => Some(promised),
            Err(()) => {
                self.fault(line, format!("`settings` is {:?}; write backward, forward, full or none", shown(&word)))
            }
        });
        promised.unwrap_or(Compatibility::None)
    }

    fn inventories(&mut self, node: Option<Node>) -> (BTreeMap<RoleName, Role>, BTreeMap<HostName, Host>) {
        let Some(node) = node else { return Default::default() };
        let Some(mut fields) = self.fields(node, &INVENTORIES) else { return Default::default() };
        let roles = self.named(fields.take("roles"), "roles", |reader, _, node| {
            let Some(mut fields) = reader.fields(node, &ROLE) else { return Role::default() };
            Role {
                components: reader.patterns(&mut fields),
                variables: reader.object(&mut fields, "variables"),
                settings: reader.settings(&mut fields),
            }
        });
        let hosts: BTreeMap<HostName, Host> = self.named(fields.take("hosts"), "hosts", |reader, line, node| {
            let Some(mut fields) = reader.fields(node, &HOST) else { return Host::default() };
            Host {
                roles: reader.roles(&mut fields),
                components: reader.patterns(&mut fields),
                labels: reader.labels(&mut fields),
                line,
                key: reader.host_key(&mut fields),
                variables: reader.object(&mut fields, "variables"),
                settings: reader.settings(&mut fields),
            }
        });
        if self.strict {
            for (role, line) in
                hosts.values().flat_map(|host| &host.roles).filter(|(role, _)| !roles.contains_key(role))
            {
                let near = nearest(role.as_str(), roles.keys().map(RoleName::as_str));
                let reason = format!("there is no role `{role}`{near}; write it under `inventories: roles:`");
                self.faults.push(Fault::new(*line, reason));
            }
        }
        (roles, hosts)
    }

    /// A map of names to what stands under each.
    fn named<K: FromStr<Err = BadName> + Ord, V>(
        &mut self,
        node: Option<Node>,
        key: &str,
        read: impl Fn(&mut Self, usize, Node) -> V,
    ) -> BTreeMap<K, V> {
        let entries = node.and_then(|node| self.entries(node, &quoted(key))).unwrap_or_default();
        let mut named = BTreeMap::new();
        for (key, node) in entries {
            let value = read(self, key.line, node);
            if let Some(name) = self.name(&key.text, key.line, &key.text) {
                named.insert(name, value);
            }
        }
        named
    }

    fn roles(&mut self, fields: &mut Fields) -> Vec<(RoleName, usize)> {
        let Some(node) = fields.take("roles") else { return Vec::new() };
        let mut roles = Vec::<(RoleName, usize)>::new();
        for node in self.list(node, "roles", "[core]") {
            let Some((text, line)) = self.text(node, "roles") else { continue };
            let Some(role) = self.name::<RoleName>(&text, line, "roles") else { continue };
            if roles.iter().any(|(known, _)| *known == role) {
                self.faults.push(Fault::new(line, format!("the role `{role}` stands twice; keep one of the two")));
                continue;
            }
            roles.push((role, line));
        }
        roles
    }

    fn labels(&mut self, fields: &mut Fields) -> Map<String, Value> {
        let Some(node) = fields.take("labels") else { return Map::new() };
        let mut labels = Map::new();
        for (key, node) in self.entries(node, "`labels`").unwrap_or_default() {
            match node.shape {
                Shape::Text(_) | Shape::Number(_) | Shape::Bool(_) => {
                    labels.insert(key.text, node.into_json(&mut self.faults));
                }
                _ => _ = self.wrong::<()>(&node, &quoted(&key.text), "one word: text, a number, true or false"),
            }
        }
        labels
    }

    fn patterns(&mut self, fields: &mut Fields) -> Vec<Pattern> {
        let Some(node) = fields.take("components") else { return Vec::new() };
        let nodes = self.list(node, "components", "[services/web, applications/*]");
        nodes.into_iter().filter_map(|node| self.pattern(node)).collect()
    }

    fn pattern(&mut self, node: Node) -> Option<Pattern> {
        let (text, line) = self.text(node, "components")?;
        let bad = format!(
            "`{}` names no component; write <kind>/<name> or <kind>/<name>/<version>, as in services/web, services/web-* \
             or */*, where <kind> is services, applications or devices",
            shown(&text)
        );
        let parts: Vec<&str> = text.split('/').collect();
        let (kind, name, version) = match parts.as_slice() {
            [kind, name] => (*kind, *name, None),
            [kind, name, version] => (*kind, *name, Some(*version)),
            _ => return self.fault(line, bad),
        };
        // What a wildcard stands for is a letter, as good as any.
        let plausible = |glob: &str| glob.replace(['*', '?'], "x").parse::<Segment>().is_ok();
        let kind = match kind {
            "*" => None,
            kind => match kind.parse() {
                Ok(kind) => Some(kind),
                Err(_) => return self.fault(line, bad),
            },
        };
        if !plausible(name) || !version.is_none_or(plausible) {
            return self.fault(line, bad);
        }
        Some(Pattern { kind, name: name.to_owned(), version: version.map(str::to_owned), line })
    }

    /// Layers over components' settings.
    fn settings(&mut self, fields: &mut Fields) -> BTreeMap<ComponentName, Overlay> {
        let Some(node) = fields.take("settings") else { return BTreeMap::new() };
        let mut settings = BTreeMap::new();
        for (key, node) in self.entries(node, "`settings`").unwrap_or_default() {
            let lines = Lines::of_node(&node);
            let layer = self.entries(node, &quoted(&key.text)).unwrap_or_default();
            let values = layer.into_iter().map(|(key, node)| (key.text, node.into_json(&mut self.faults))).collect();
            if let Some(component) = self.name(&key.text, key.line, "settings") {
                settings.insert(component, Overlay { values, lines });
            }
        }
        settings
    }
}

fn quoted(key: &str) -> String {
    format!("`{}`", shown(key))
}

/// Says what to write instead of a key that is not known.
fn unknown(key: &str, place: &Place) -> String {
    if place.later.contains(&key) {
        return format!("`{key}` needs a later version of conf-master; take it out");
    }
    if place.of_datacenters.contains(&key) {
        return format!("`{key}` belongs in the datacenter.yaml of a datacenter, not in a class's; take it out");
    }
    if place.of_classes.contains(&key) {
        return format!("`{key}` belongs in the datacenter.yaml of a class, not in a datacenter's; take it out");
    }
    let near = nearest(key, place.known.iter().copied());
    let known = place.known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    format!("`{}` is not known{near}; {} has {known}", shown(key), place.what)
}

/// `, did you mean …?` when something is near enough.
fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> String {
    // Longer texts are no slips of the hand, and cost time to compare.
    let text: String = text.chars().take(100).collect();
    let near = known.map(|known| (strsim::damerau_levenshtein(&text, known), known)).min();
    match near {
        Some((distance, known)) if distance <= 1 + known.len() / 4 => format!(" (did you mean `{known}`?)"),
        _ => String::new(),
    }
}
