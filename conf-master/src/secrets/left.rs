//! Hosts that could open a value and are no readers of it any more. Until there is another value,
//! they may know the one that counts.

use std::collections::{BTreeMap, BTreeSet};

use conf_core::secret::{About, HostKey, LeftReader};
use libconf::name::{HostName, SecretName, Segment, Sequence};

use crate::catalog::Catalog;
use crate::text::some_of;

/// 1,000 of one value; older ones are forgotten. A value that so many may know must be replaced in
/// any case.
const MOST_LEFT: usize = 1000;
/// The most hosts that a message names.
const MOST_NAMED: usize = 5;

/// The hosts of an id's datacenters by their keys, as they were before a change.
pub(crate) fn hosts<'c>(catalog: &'c Catalog, id: &Segment) -> BTreeMap<&'c HostKey, &'c HostName> {
    let of_id = catalog.datacenters.iter().filter(|(name, _)| name.id == *id);
    let hosts = of_id.flat_map(|(_, one)| &one.manifest.instance.hosts);
    hosts.filter_map(|(name, host)| Some((host.key.as_ref()?, name))).collect()
}

/// Notes who could open a value and cannot open its next sealing, to these recipients from the
/// change `since` on. Forgets who can again. Returns a line about those who left.
pub(crate) fn note(
    about: &mut About,
    name: &SecretName,
    recipients: &[HostKey],
    hosts: &BTreeMap<&HostKey, &HostName>,
    since: Sequence,
) -> Option<String> {
    let next: BTreeSet<&HostKey> = recipients.iter().collect();
    about.left.retain(|left| !next.contains(&left.key));
    let gone = about.recipients.iter().filter(|key| !next.contains(key));
    // Any other key is one of conf-master's own.
    let gone = gone.filter_map(|key| Some(LeftReader { host: (*hosts.get(key)?).clone(), key: key.clone(), since }));
    let gone: Vec<LeftReader> = gone.collect();
    let names = some_of(gone.iter().map(|left| &left.host), MOST_NAMED).join(", ");
    let words =
        (!gone.is_empty()).then(|| format!("the secret {name} should be rotated: {names} could open it until now"));
    about.left.extend(gone);
    let over = about.left.len().saturating_sub(MOST_LEFT);
    about.left.drain(..over);
    words
}

#[cfg(test)]
mod tests {
    use conf_core::secret::Identity;

    use super::*;

    #[test]
    fn who_left_is_known_until_there_is_another_value_or_they_are_back() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| Identity::create(&folder.path().join(name)).unwrap().recipient().clone();
        let (own, web, api) = (key("own"), key("web"), key("api"));
        let name = |text: &str| text.parse::<HostName>().unwrap();
        let (first, second) = (name("web-1"), name("api-1"));
        let hosts = BTreeMap::from([(&web, &first), (&api, &second)]);
        let recipients = vec![own.clone(), web.clone(), api.clone()];
        let mut about = About {
            sequence: Sequence(1),
            made: 0,
            source: "given".into(),
            recipients,
            valid_until: None,
            left: Vec::new(),
        };
        let cookie = "cookie".parse().unwrap();
        let mut seal = |recipients: &[&HostKey], since: u64| {
            let recipients: Vec<HostKey> = recipients.iter().map(|key| (*key).clone()).collect();
            let words = note(&mut about, &cookie, &recipients, &hosts, Sequence(since));
            about.recipients = recipients;
            let left = about.left.iter().map(|left| (left.host.to_string(), left.since.0));
            (words, left.collect::<Vec<_>>())
        };
        let at = |host: &str, since: u64| (host.to_owned(), since);
        let (words, left) = seal(&[&own, &api], 5);
        let expected = "the secret cookie should be rotated: web-1 could open it until now";
        assert_eq!((words.as_deref(), left), (Some(expected), vec![at("web-1", 5)]));
        assert_eq!(seal(&[&own], 7).1, [at("web-1", 5), at("api-1", 7)]);
        assert_eq!(seal(&[&own, &web], 9), (None, vec![at("api-1", 7)]));
        // A key of conf-master's own is nobody's.
        assert_eq!(seal(&[&web], 11), (None, vec![at("api-1", 7)]));
    }
}
