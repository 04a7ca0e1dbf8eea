//! `inventories` of a datacenter: its roles and hosts.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{
    manifest::{
        model::{Host, Overlay, Role},
        pattern::Pattern,
        reader::{
            basics::{Fields, Reader, quoted},
            place::{HOST, INVENTORIES, ROLE},
        },
    },
    nearest::nearest,
    settings::{Fault, Lines, Node, Shape, shown},
};
use libconf::name::{ComponentName, HostName, RoleName, Segment};

/// The content of `inventories`.
pub(crate) struct Inventories {
    pub(crate) roles: BTreeMap<RoleName, Role>,
    pub(crate) hosts: BTreeMap<HostName, Host>,
    pub(crate) closed: bool,
}

impl Default for Inventories {
    fn default() -> Self {
        Inventories { roles: BTreeMap::new(), hosts: BTreeMap::new(), closed: true }
    }
}

impl Reader {
    pub(crate) fn inventories(&mut self, node: Option<Node>) -> Inventories {
        let Some(node) = node else { return Inventories::default() };
        let Some(mut fields) = self.fields(node, &INVENTORIES) else { return Inventories::default() };
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
        let closed = self.or_passed_over(|reader| reader.closed(&mut fields, !hosts.is_empty()));
        Inventories { roles, hosts, closed }
    }

    /// Reads `closed`.
    fn closed(&mut self, fields: &mut Fields, has_hosts: bool) -> bool {
        match fields.take("closed") {
            None => true,
            Some(Node { shape: Shape::Bool(true), line }) if !has_hosts => {
                let words = "`closed` needs `hosts`: where no host is listed, each runs everything; list hosts, or take this out";
                self.faults.push(Fault::new(line, words));
                true
            }
            Some(Node { shape: Shape::Bool(closed), .. }) => closed,
            Some(node) => self.wrong(&node, "`closed`", "true or false").unwrap_or(true),
        }
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
        // A letter takes the place of each wildcard for the check of the name.
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
