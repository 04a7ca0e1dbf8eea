//! The keys of a `datacenter.yaml` that are about secrets.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    manifest::reader::{
        basics::{Fields, Reader},
        place::{INVENTORIES, Place},
    },
    secret::{Declaration, Encoding, Generate, HostKey, Source},
    settings::{Fault, Node, Shape, shown},
};
use libconf::name::{ComponentName, SecretName, SourceName};

const SECRET: Place =
    Place { what: "a secret", known: &["generate", "from", "readers"], earlier: &CHOSEN, ..INVENTORIES };
/// Keys by which a snapshot of an earlier version chose what a host reads or runs.
const CHOSEN: [&str; 2] = ["file", "command"];
const GENERATE: Place = Place { what: "`generate`", known: &["length", "encoding", "alphabet", "x509"], ..INVENTORIES };
const X509: Place = Place { what: "`x509`", known: &["names", "days"], ..INVENTORIES };

/// The most random bytes behind an encoding, and the most characters of an alphabet.
const MAX_LENGTH: u64 = 1024;
/// The fewest random bytes; fewer can be guessed.
const MIN_BYTES: usize = 16;
/// The fewest random bits; fewer can be guessed, even by asking for each guess.
const MIN_BITS: f64 = 64.0;
const MAX_NAMES: usize = 100;
/// The most days of a certificate: ten years. A longer one is never replaced.
const MAX_DAYS: u64 = 3650;
const DEFAULT_DAYS: u32 = 90;

impl Reader {
    /// Reads `secrets:`. A lenient reader ignores a secret that it cannot read: a later version may
    /// have other sources.
    pub(crate) fn secrets(&mut self, fields: &mut Fields) -> BTreeMap<SecretName, Declaration> {
        self.or_passed_over(|reader| reader.all_secrets(fields))
    }

    /// Reads a part; a lenient reader ignores its faults.
    pub(crate) fn or_passed_over<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let known = self.faults.len();
        let found = read(self);
        if !self.strict {
            self.faults.truncate(known);
        }
        found
    }

    fn all_secrets(&mut self, fields: &mut Fields) -> BTreeMap<SecretName, Declaration> {
        let entries = fields.take("secrets").and_then(|node| self.entries(node, "`secrets`")).unwrap_or_default();
        let mut secrets = BTreeMap::<SecretName, Declaration>::new();
        for (key, node) in entries {
            let declaration = self.secret(node);
            let Some(name) = self.name::<SecretName>(&key.text, key.line, "secrets") else { continue };
            if let Some((twin, first)) = secrets.iter().find(|(known, _)| known.variable() == name.variable())
                && *twin != name
            {
                let reason = format!("`{name}` and `{twin}` in line {} differ only in case; rename one", first.line);
                self.fault::<()>(key.line, reason);
            }
            if let Some(declaration) = declaration {
                secrets.insert(name, Declaration { line: key.line, ..declaration });
            }
        }
        secrets
    }

    fn secret(&mut self, node: Node) -> Option<Declaration> {
        let mut fields = self.fields(node, &SECRET)?;
        let line = fields.line;
        let readers = self.readers(&mut fields);
        let chosen = CHOSEN.into_iter().find_map(|key| Some((key, fields.take(key)?.line)));
        let (generate, from) = (fields.take("generate"), fields.take("from"));
        let source = match (chosen, generate, from) {
            (Some((key, line)), ..) if self.strict => self.fault(
                line,
                format!(
                    "`{key}` would choose what a host reads or runs, and only the host's own file may do that; write \
                     from: <name> here, and secret-sources: {{<name>: {{{key}: …}}}} in conf-local.yaml of its hosts"
                ),
            ),
            (Some((key, _)), ..) => Some(Source::Chosen(key)),
            (None, None, None) => Some(Source::Given),
            (None, Some(node), None) => self.generate(node).map(Source::Generate),
            (None, None, Some(node)) => self.offered(node).map(Source::Host),
            (None, Some(_), Some(_)) => {
                self.fault(line, "a secret has `generate` or `from`, or none where it is given; keep one")
            }
        };
        Some(Declaration { source: source?, readers: readers?, line })
    }

    fn offered(&mut self, node: Node) -> Option<SourceName> {
        let (text, line) = self.text(node, "from")?;
        self.name(&text, line, "from")
    }

    fn readers(&mut self, fields: &mut Fields) -> Option<Vec<ComponentName>> {
        let nobody = "no component may read this secret; write readers: [services/<name>], or take it out";
        let Some(node) = fields.take("readers") else { return self.fault(fields.line, nobody) };
        let line = node.line;
        let mut readers = Vec::<ComponentName>::new();
        let nodes = self.list(node, "readers", "[services/web]");
        if nodes.is_empty() {
            return self.fault(line, nobody);
        }
        for node in nodes {
            let (text, line) = self.text(node, "readers")?;
            let reader = self.name::<ComponentName>(&text, line, "readers")?;
            if readers.contains(&reader) {
                self.fault::<()>(line, format!("{reader} stands twice among the readers; keep one of the two"));
            } else {
                readers.push(reader);
            }
        }
        Some(readers)
    }

    fn generate(&mut self, node: Node) -> Option<Generate> {
        let mut fields = self.fields(node, &GENERATE)?;
        let line = fields.line;
        let (length, encoding) = (fields.take("length"), fields.take("encoding"));
        let (alphabet, x509) = (fields.take("alphabet"), fields.take("x509"));
        match (length, encoding, alphabet, x509) {
            (None, None, None, Some(node)) => self.x509(node),
            (_, _, _, Some(node)) => {
                self.fault(node.line, "`x509` stands alone in `generate`; take the other keys out")
            }
            (_, Some(_), Some(node), None) => self.fault(node.line, "write `encoding` or `alphabet`, not both"),
            (None, ..) => {
                self.fault(line, "`length` is missing; write generate: {length: 32, encoding: base64}, or x509")
            }
            (Some(length), encoding, alphabet, None) => self.random(&length, encoding, alphabet),
        }
    }

    fn random(&mut self, length: &Node, encoding: Option<Node>, alphabet: Option<Node>) -> Option<Generate> {
        let line = length.line;
        let length = self.number(length, "length", MAX_LENGTH)?;
        let encoding = match (encoding, alphabet) {
            (_, Some(node)) => self.alphabet(node)?,
            (None, None) => Encoding::Base64,
            (Some(node), None) => match self.text(node, "encoding")? {
                (text, _) if text == "base64" => Encoding::Base64,
                (text, _) if text == "base64url" => Encoding::Base64Url,
                (text, _) if text == "hex" => Encoding::Hex,
                (text, line) => {
                    let reason = format!("`encoding` is {:?}; write base64, base64url or hex", shown(&text));
                    return self.fault(line, reason);
                }
            },
        };
        #[expect(clippy::cast_precision_loss, reason = "both are small")]
        let short = match &encoding {
            Encoding::Alphabet(alphabet) => {
                let bits = (alphabet.len() as f64).log2();
                let wanted = (MIN_BITS / bits).ceil();
                (length as f64 * bits < MIN_BITS).then(|| format!("of this alphabet write at least {wanted}"))
            }
            _ => (length < MIN_BYTES).then(|| format!("write at least {MIN_BYTES}, the bytes that are encoded")),
        };
        match short {
            Some(remedy) => self.fault(line, format!("a `length` of {length} could be guessed; {remedy}")),
            None => Some(Generate::Text { length, encoding }),
        }
    }

    fn alphabet(&mut self, node: Node) -> Option<Encoding> {
        let (text, line) = self.text(node, "alphabet")?;
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters.dedup();
        if letters.len() < 2
            || letters.len() < text.chars().count()
            || !text.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return self
                .fault(line, "`alphabet` must be two or more characters of ASCII, none of them twice and no space");
        }
        Some(Encoding::Alphabet(text))
    }

    fn x509(&mut self, node: Node) -> Option<Generate> {
        let mut fields = self.fields(node, &X509)?;
        let line = fields.line;
        let missing = "a certificate needs names; write x509: {names: [web.example.com], days: 90}";
        let Some(node) = fields.take("names") else { return self.fault(line, missing) };
        let line = node.line;
        let nodes = self.list(node, "names", "[web.example.com]");
        if nodes.is_empty() || nodes.len() > MAX_NAMES {
            return self.fault(line, if nodes.is_empty() { missing } else { "a certificate has at most 100 names" });
        }
        let mut names = Vec::new();
        for node in nodes {
            let (text, line) = self.text(node, "names")?;
            if !is_host(&text) {
                let reason = format!("{:?} is neither a DNS name (or *. and one) nor an IP address", shown(&text));
                return self.fault(line, reason);
            }
            names.push(text);
        }
        let days = match fields.take("days") {
            None => DEFAULT_DAYS,
            Some(node) => self.number(&node, "days", MAX_DAYS)?,
        };
        Some(Generate::X509 { names, days })
    }

    fn number<T: TryFrom<u64>>(&mut self, node: &Node, key: &str, most: u64) -> Option<T> {
        let number = if let Shape::Number(number) = &node.shape { number.as_u64() } else { None };
        match number.filter(|number| (1..=most).contains(number)).and_then(|number| number.try_into().ok()) {
            Some(number) => Some(number),
            None => self.fault(node.line, format!("`{key}` must be a whole number from 1 to {most}")),
        }
    }

    /// The key of a host, which conf-master alone needs.
    pub(crate) fn host_key(&mut self, fields: &mut Fields) -> Option<HostKey> {
        let node = fields.take("key")?;
        self.or_passed_over(|reader| {
            let (text, line) = reader.text(node, "key")?;
            text.parse().map_err(|bad| reader.faults.push(Fault::new(line, format!("`key`: {bad}")))).ok()
        })
    }
}

/// True for a DNS name as RFC 1123 has it, with or without a wildcard for its first label, or an IP
/// address.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_prefix("*.").unwrap_or(text);
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && name.split('.').all(label))
}
