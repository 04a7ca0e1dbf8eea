//! From the text of a `datacenter.yaml` to its types.

use std::{collections::BTreeMap, str::FromStr};

use crate::{
    manifest::{
        model::{ClassManifest, ClassRef, InstanceManifest, PinEntry, Strictness},
        reader::{
            basics::{Fields, Reader},
            inventories::Inventories,
            place::{CLASS, COMPATIBILITY, INSTANCE, PIN},
        },
    },
    settings::{Compatibility, Fault, Node, Shape, shown},
};
use libconf::name::{BadName, BranchName, ComponentName, ComponentVersion, Kind, Segment, TagName, Version};

impl ClassManifest {
    /// Reads a class's `datacenter.yaml`; the error lists all faults that can be found at once, in
    /// order of line.
    pub fn parse(text: &str, strictness: Strictness) -> Result<Self, Vec<Fault>> {
        class(text, strictness)
    }
}

impl InstanceManifest {
    /// Reads a datacenter's `datacenter.yaml`; the error lists all faults that can be found at
    /// once, in order of line.
    pub fn parse(text: &str, strictness: Strictness) -> Result<Self, Vec<Fault>> {
        instance(text, strictness)
    }
}

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
    let Inventories { roles, hosts, closed } = reader.inventories(fields.take("inventories"));
    match conf {
        Some(conf) => reader.finish(InstanceManifest { conf, components, platform, secrets, roles, hosts, closed }),
        None => Err(reader.faults()),
    }
}

impl Reader {
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

    /// The inner `None` is `latest`.
    #[expect(clippy::option_option, reason = "the outer one says that there was a fault")]
    fn tag(&mut self, text: &str, line: usize, key: &str) -> Option<Option<TagName>> {
        if text == Version::LATEST { Some(None) } else { self.name(text, line, key).map(Some) }
    }

    /// The components of the three lists, with a fault for each that stands twice under one
    /// version.
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
        let any_links = self.or_passed_over(|reader| reader.any_links(&mut fields));
        let (name, branch, tag, raw) = (name?, branch?, tag?, raw?);
        let text = tag.as_ref().map_or(Version::LATEST, TagName::as_str);
        let version = self.name(text, line, "tag")?;
        let component = ComponentVersion { component: ComponentName { kind, name }, version };
        Some((component, PinEntry { branch, tag, raw, any_links, line }))
    }

    fn any_links(&mut self, fields: &mut Fields) -> bool {
        let Some(node) = fields.take("links") else { return false };
        match self.text(node, "links") {
            Some((word, _)) if word == "any" => true,
            Some((word, line)) => {
                let reason = format!(
                    "`links` is {:?}; write `links: any` for links that may lead anywhere, or take it out",
                    shown(&word)
                );
                self.fault::<()>(line, reason);
                false
            }
            None => false,
        }
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
}
