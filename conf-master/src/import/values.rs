//! Finds values that occur in several files and differ between installations: domains and
//! addresses.

use std::{collections::BTreeMap, net::Ipv4Addr, ops::Range, sync::LazyLock};

use regex::Regex;

/// A value that a datacenter could define once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its bytes in the text.
    pub(crate) range: Range<usize>,
    /// Its sort.
    pub(crate) sort: Sort,
}

/// The sort of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sort {
    /// A domain: `example.com`, also in `web.example.com` and `auth.example.com`.
    Domain,
    /// An IPv4 address.
    Address,
}

impl Sort {
    /// Returns the name under which the first value of this sort is offered.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Sort::Domain => "domain",
            Sort::Address => "address",
        }
    }
}

static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+")
        .expect("the pattern is well-formed")
});

/// Last labels that make a name a domain. Two letters count as a country, unless they are the
/// ending of a file.
const TOP: &str = "com org net edu gov mil int info biz io dev app cloud online site internal intranet local localdomain lan \
                   corp home private test example arpa";
/// Endings of files that look like a country.
const ENDINGS: &str = "py sh js ts rs md pl pm so cc rb go gz db mo ps in am ac la ms mk st id";
/// Labels below a country that many share: `example.co.uk` is a domain, `co.uk` is not.
const SHARED: &str = "co com org net ac gov edu";

fn is_one_of(list: &str, word: &str) -> bool {
    list.split(' ').any(|one| one == word)
}

/// Finds domains and addresses in a text.
pub(crate) fn in_text(text: &str) -> Vec<Candidate> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    for token in TOKEN.find_iter(text) {
        let before = token.start().checked_sub(1).map(|at| bytes[at]);
        let after = bytes.get(token.end());
        if before.is_some_and(|byte| matches!(byte, b'_' | b'-' | b'.' | b'$' | b'%') || !byte.is_ascii())
            || after.is_some_and(|byte| matches!(byte, b'_' | b'-' | b'(') || !byte.is_ascii())
        {
            continue;
        }
        if let Ok(address) = token.as_str().parse::<Ipv4Addr>() {
            let [first, ..] = address.octets();
            if !address.is_loopback() && !address.is_broadcast() && first != 0 && first != 255 {
                found.push(Candidate { range: token.range(), sort: Sort::Address });
            }
        } else if let Some(domain) = domain(token.as_str()) {
            let start = token.end() - domain.len();
            found.push(Candidate { range: start..token.end(), sort: Sort::Domain });
        }
    }
    found
}

/// Returns the domain of a host's name.
fn domain(token: &str) -> Option<&str> {
    let labels: Vec<&str> = token.split('.').collect();
    let (top, rest) = labels.split_last()?;
    let country = top.len() == 2 && top.bytes().all(|byte| byte.is_ascii_lowercase()) && !is_one_of(ENDINGS, top);
    if token.bytes().any(|byte| byte.is_ascii_uppercase()) || !(country || is_one_of(TOP, top)) {
        return None;
    }
    let wanted = if country && rest.last().is_some_and(|label| is_one_of(SHARED, label)) { 3 } else { 2 };
    let start: usize = labels.len().checked_sub(wanted)?;
    let length = labels[start..].iter().map(|label| label.len() + 1).sum::<usize>() - 1;
    let domain = &token[token.len() - length..];
    domain.bytes().any(|byte| byte.is_ascii_alphabetic()).then_some(domain)
}

/// Finds a value that a person named, where it is a whole word: not within a longer word or number.
pub(crate) fn named<'a>(text: &'a str, value: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
    let word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    text.match_indices(value).map(|(start, value)| start..start + value.len()).filter(move |range| {
        let bytes = text.as_bytes();
        let before = range.start.checked_sub(1).and_then(|at| bytes.get(at));
        let begins = !word(bytes.get(range.start)) || !word(before);
        begins && (!word(bytes.get(range.end - 1)) || !word(bytes.get(range.end)))
    })
}

/// Names the values, the most frequent first: `domain`, `domain_2`, `address`, … Names that are
/// taken are skipped.
pub(crate) fn names(values: &[(Sort, String)], taken: &[&str]) -> Vec<String> {
    let mut counts: BTreeMap<Sort, usize> = BTreeMap::new();
    let mut name = |sort: Sort| loop {
        let count = counts.entry(sort).or_default();
        *count += 1;
        let name = if *count == 1 { sort.name().to_owned() } else { format!("{}_{count}", sort.name()) };
        if !taken.contains(&name.as_str()) {
            return name;
        }
    };
    values.iter().map(|(sort, _)| name(*sort)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        in_text(text).into_iter().map(|one| &text[one.range]).collect()
    }

    #[test]
    fn domains_and_addresses() {
        assert_eq!(found("server_name web.example.com auth.example.com;"), ["example.com", "example.com"]);
        assert_eq!(found("ns1.example.com. admin@example.org"), ["example.com", "example.org"]);
        assert_eq!(found("http://shop.example.co.uk:80/x"), ["example.co.uk"]);
        assert_eq!(found("bind 10.0.0.5; net 10.1.0.0/16"), ["10.0.0.5", "10.1.0.0"]);
        for none in [
            "include /etc/nginx/mime.types; nginx.conf config.yaml x.py",
            "127.0.0.1 0.0.0.0 255.255.255.0",
            "version 1.2.3 1.2.3.4.5",
            "org.apache.log4j.Logger.getLogger()",
            "$host.example.com",
            "co.uk",
        ] {
            assert_eq!(found(none), Vec::<&str>::new(), "{none}");
        }
    }

    #[test]
    fn named_values_match_whole_words() {
        let at = |text, value| named(text, value).collect::<Vec<_>>();
        assert_eq!(at("db1 db10 xdb1 db1", "db1"), [0..3, 14..17]);
        assert_eq!(at("port=80; 80", "80"), [5..7, 9..11]);
        let two = [(Sort::Domain, String::new()), (Sort::Domain, String::new()), (Sort::Address, String::new())];
        assert_eq!(names(&two, &["domain_2"]), ["domain", "domain_3", "address"]);
    }
}
