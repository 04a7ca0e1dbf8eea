//! From the text of a `policy.yaml` to its types. The reader goes on after a fault, so that all
//! faults come at once.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use libconf::name::{BadName, DatacenterName, GroupName, PrincipalName, RefName};

use crate::access::policy::model::{Policy, PolicyFault, Right};
use crate::access::verb::Verb;
use crate::nearest::nearest;
use crate::settings::{Fault, Key, Node, Shape, shown, twice};

/// The most bytes of a policy.
const MOST_BYTES: usize = 1 << 20;
/// The most rights, which every check looks at.
const MOST_RIGHTS: usize = 1_000;
/// The most names in groups, and the most patterns in rights.
const MOST_NAMES: usize = 10_000;
/// The longest pattern: longer than every name of a ref.
const LONGEST_PATTERN: usize = 500;
/// The most faults that are told at once; the rest are counted.
const MOST_FAULTS: usize = 50;

const EXAMPLE: &str = "{group: web, may: [push, tag], refs: [\"services/web/*\"], datacenters: [\"lab/*\"]}";

impl Policy {
    /// Reads a `policy.yaml`. The error lists all faults that can be found at once, in order of
    /// line.
    pub fn parse(text: &str) -> Result<Self, Vec<PolicyFault>> {
        let whole = |reason: String| PolicyFault { line: None, pointer: String::new(), reason };
        if text.len() > MOST_BYTES {
            return Err(vec![whole(format!("it is longer than {MOST_BYTES} bytes"))]);
        }
        let fault = |Fault { line, reason }: Fault| PolicyFault { line, ..whole(reason) };
        let node = Node::parse(text).map_err(|one| vec![fault(one)])?;
        if node.shape == Shape::Null {
            return Err(vec![whole("it is empty; write `groups` and `rights`".to_owned())]);
        }
        let mut reader = Reader::default();
        let policy = reader.policy(node);
        let mut faults = reader.faults;
        if faults.is_empty() {
            return Ok(policy);
        }
        faults.sort();
        faults.dedup();
        if let more @ 1.. = faults.len().saturating_sub(MOST_FAULTS) {
            faults.truncate(MOST_FAULTS);
            faults.push(whole(format!("and {more} more faults")));
        }
        Err(faults)
    }
}

/// A place in the file: its line, and its JSON Pointer.
#[derive(Clone, Debug)]
struct At {
    line: usize,
    pointer: String,
}

impl At {
    fn inner(&self, line: usize, part: &str) -> At {
        let part = part.replace('~', "~0").replace('/', "~1");
        At { line, pointer: format!("{}/{part}", self.pointer) }
    }
}

#[derive(Default)]
struct Reader {
    faults: Vec<PolicyFault>,
    names: usize,
    patterns: usize,
}

impl Reader {
    fn policy(&mut self, node: Node) -> Policy {
        let at = At { line: node.line, pointer: String::new() };
        let mut fields = self.fields(&at, node, "the policy", &["groups", "rights"]);
        let groups = fields.remove("groups").map(|(at, node)| self.groups(&at, node)).unwrap_or_default();
        let rights = if let Some((at, node)) = fields.remove("rights") {
            self.rights(&at, node)
        } else {
            self.fault::<()>(&at, format!("`rights` is missing; write rights: [{EXAMPLE}]"));
            Vec::new()
        };
        Policy { groups, rights }
    }

    fn groups(&mut self, at: &At, node: Node) -> BTreeMap<GroupName, BTreeSet<PrincipalName>> {
        let mut groups = BTreeMap::new();
        for (key, node) in self.entries(at, node, "`groups`") {
            let at = at.inner(key.line, &key.text);
            let name = self.name::<GroupName>(&at, &key.text);
            let mut members = BTreeSet::new();
            for (at, text) in self.texts(&at, node, "[alice, bob]") {
                self.names += 1;
                if self.names == MOST_NAMES + 1 {
                    self.fault::<()>(&at, format!("there are more than {MOST_NAMES} names in groups"));
                }
                let Some(member) = self.name::<PrincipalName>(&at, &text) else { continue };
                if !members.insert(member) {
                    let reason = format!("`{}` already stands in this list; take one of the two out", shown(&text));
                    self.fault::<()>(&at, reason);
                }
            }
            if let Some(name) = name {
                groups.insert(name, members);
            }
        }
        groups
    }

    fn rights(&mut self, at: &At, node: Node) -> Vec<Right> {
        let nodes = self.list(at, node, &format!("[{EXAMPLE}]"));
        if nodes.len() > MOST_RIGHTS {
            self.fault::<()>(at, format!("there are {} rights; there may be {MOST_RIGHTS}", nodes.len()));
            return Vec::new();
        }
        nodes.into_iter().filter_map(|(at, node)| self.right(&at, node)).collect()
    }

    fn right(&mut self, at: &At, node: Node) -> Option<Right> {
        let mut fields = self.fields(at, node, "a right", &["group", "may", "refs", "datacenters"]);
        let group = match fields.remove("group") {
            Some((at, node)) => {
                let line = node.line;
                self.text(&at, node).and_then(|text| self.name::<GroupName>(&at, &text)).map(|group| (group, line))
            }
            None => self.fault(at, format!("`group` is missing; write {EXAMPLE}")),
        };
        let may = match fields.remove("may") {
            Some((at, node)) => self.verbs(&at, node),
            None => self.fault(at, format!("`may` is missing; write {EXAMPLE}")),
        };
        let refs = fields.remove("refs").map(|(at, node)| self.globs(&at, node, fault_in_ref));
        let datacenters = fields.remove("datacenters").map(|(at, node)| self.globs(&at, node, fault_in_datacenter));
        let ((group, line), may) = (group?, may?);
        if may.contains(&Verb::Administer) && (refs.is_some() || datacenters.is_some()) {
            return self.fault(
                at,
                "`administer` is every right everywhere; take `refs` and `datacenters` out, or give single rights",
            );
        }
        Some(Right { group, may, refs, datacenters, line })
    }

    fn verbs(&mut self, at: &At, node: Node) -> Option<BTreeSet<Verb>> {
        let mut verbs = BTreeSet::new();
        let nodes = self.texts(at, node, "[push, tag]");
        if nodes.is_empty() {
            return self.fault(at, "this right gives nothing; name what the group may do, or take the right out");
        }
        for (at, text) in nodes {
            match Verb::ALL.into_iter().find(|verb| verb.to_string() == text) {
                Some(verb) if verbs.insert(verb) => {}
                Some(verb) => {
                    self.fault::<()>(&at, format!("`{verb}` already stands in this list; take one of the two out"));
                }
                None => {
                    let known = Verb::ALL.map(|verb| verb.to_string());
                    let near = nearest(&text, known.iter().map(String::as_str));
                    let known = known.join(", ");
                    self.fault::<()>(&at, format!("`{}` is not known{near}; there are {known}", shown(&text)));
                }
            }
        }
        Some(verbs)
    }

    fn globs(&mut self, at: &At, node: Node, wrong: fn(&str) -> Option<String>) -> Vec<String> {
        let before = self.faults.len();
        let texts = self.texts(at, node, "[\"lab/*\"]");
        if texts.is_empty() && self.faults.len() == before {
            self.fault::<()>(at, "nothing matches an empty list; leave it out where everything may match");
        }
        let mut globs = Vec::new();
        for (at, text) in texts {
            self.patterns += 1;
            if self.patterns == MOST_NAMES + 1 {
                self.fault::<()>(&at, format!("there are more than {MOST_NAMES} patterns in rights"));
            }
            let is_known = |letter: char| letter.is_ascii_alphanumeric() || "._-/*?".contains(letter);
            if text.len() > LONGEST_PATTERN || text.is_empty() || !text.chars().all(is_known) {
                let reason = "is no pattern: letters, digits and `. _ - / * ?` may stand in it, and not too many";
                self.fault::<()>(&at, format!("`{}` {reason}", shown(&text)));
            } else if let Some(reason) = wrong(&text) {
                self.fault::<()>(&at, reason);
            } else if globs.contains(&text) {
                self.fault::<()>(&at, format!("`{text}` already stands in this list; take one of the two out"));
            } else {
                globs.push(text);
            }
        }
        globs
    }
}

/// Why a pattern matches no ref.
fn fault_in_ref(pattern: &str) -> Option<String> {
    if pattern.starts_with("refs/") {
        return Some(format!("`{pattern}`: write it without `refs/heads/` and `refs/tags/`, as in services/web/*"));
    }
    let is_ref = |of: &str| format!("refs/{of}/{pattern}").parse::<RefName>().is_ok();
    let is_one = !pattern.contains(['*', '?']);
    (is_one && !is_ref("heads") && !is_ref("tags")).then(|| {
        format!(
            "no branch and no tag can have the name `{pattern}`; `*` stands for the rest of a name, as in {pattern}/*"
        )
    })
}

/// Why a pattern matches no datacenter.
fn fault_in_datacenter(pattern: &str) -> Option<String> {
    let is_one = !pattern.contains(['*', '?']);
    (is_one && pattern.parse::<DatacenterName>().is_err()).then(|| {
        format!("no datacenter can have the name `{pattern}`: a datacenter is <id>/<version>, as in {pattern}/*")
    })
}

impl Reader {
    fn fault<T>(&mut self, at: &At, reason: impl Into<String>) -> Option<T> {
        let line = (at.line > 0).then_some(at.line);
        self.faults.push(PolicyFault { line, pointer: at.pointer.clone(), reason: reason.into() });
        None
    }

    fn wrong<T>(&mut self, at: &At, node: &Node, wanted: &str) -> Option<T> {
        self.fault(at, format!("this must be {wanted}, but it is {}", node.what()))
    }

    /// The entries of a map, with a fault for each key that stands twice.
    fn entries(&mut self, at: &At, node: Node, what: &str) -> Vec<(Key, Node)> {
        let Shape::Map(entries) = node.shape else {
            self.wrong::<()>(at, &node, &format!("a map: {what}"));
            return Vec::new();
        };
        let mut doubled = Vec::new();
        twice(&entries, &mut doubled, |_| "keep one of the two");
        for Fault { line, reason } in doubled {
            self.faults.push(PolicyFault { line, pointer: at.pointer.clone(), reason });
        }
        entries
    }

    /// The known keys of a map, with a fault for each other key.
    fn fields(&mut self, at: &At, node: Node, what: &str, known: &[&'static str]) -> BTreeMap<String, (At, Node)> {
        let mut fields = BTreeMap::new();
        for (key, node) in self.entries(at, node, what) {
            let at = at.inner(key.line, &key.text);
            if known.contains(&key.text.as_str()) {
                fields.insert(key.text, (at, node));
            } else {
                let near = nearest(&key.text, known.iter().copied());
                let reason =
                    format!("`{}` is no key of {what}{near}; there are {}", shown(&key.text), known.join(", "));
                self.fault::<()>(&at, reason);
            }
        }
        fields
    }

    fn list(&mut self, at: &At, node: Node, example: &str) -> Vec<(At, Node)> {
        match node.shape {
            Shape::List(nodes) => {
                let place = |(number, node): (usize, Node)| (at.inner(node.line, &number.to_string()), node);
                nodes.into_iter().enumerate().map(place).collect()
            }
            _ => self.wrong(at, &node, &format!("a list, as in {example}")).unwrap_or_default(),
        }
    }

    fn texts(&mut self, at: &At, node: Node, example: &str) -> Vec<(At, String)> {
        let nodes = self.list(at, node, example);
        nodes.into_iter().filter_map(|(at, node)| Some((at.clone(), self.text(&at, node)?))).collect()
    }

    fn text(&mut self, at: &At, node: Node) -> Option<String> {
        match node.shape {
            Shape::Text(text) => Some(text),
            Shape::Number(_) | Shape::Bool(_) => self.wrong(at, &node, "text (put it in quotes)"),
            _ => self.wrong(at, &node, "text"),
        }
    }

    fn name<T: FromStr<Err = BadName>>(&mut self, at: &At, text: &str) -> Option<T> {
        match text.parse() {
            Ok(name) => Some(name),
            Err(bad) => self.fault(at, bad.to_string()),
        }
    }
}
