//! What the lock's key says.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use libconf::name::HostName;
use serde::{Deserialize, Serialize};

/// A key of Consul, written `consul:KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaderKey(String);

impl FromStr for LeaderKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = text.strip_prefix("consul:").unwrap_or_default();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-');
        let is_whole = key.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if key.len() <= 256 && is_whole && key.bytes().all(allowed) {
            return Ok(LeaderKey(key.to_owned()));
        }
        Err("write consul:KEY, such as consul:conf-master/leader".to_owned())
    }
}

impl fmt::Display for LeaderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "consul:{}", self.0)
    }
}

impl LeaderKey {
    /// The key in Consul.
    pub(crate) fn key(&self) -> &str {
        &self.0
    }
}

/// The value of the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seat {
    /// Who leads, or led last.
    pub(crate) leader: HostName,
    /// Its base URL.
    pub(crate) url: String,
    /// The epoch of its history.
    pub(crate) epoch: u32,
    /// The standbys that have every change that was answered.
    pub(crate) in_sync: BTreeSet<HostName>,
}

/// What a server may do, by what the key says, while nobody holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It goes on leading in its epoch.
    Stays,
    /// It leads in the next epoch.
    Succeeds,
    /// It lacks what others may have answered.
    None,
}

impl Seat {
    /// What a server of this name and epoch may do. Without a seat the election begins: a server
    /// that is no standby leads.
    pub(crate) fn claim(seat: Option<&Seat>, name: &HostName, epoch: u32, is_standby: bool) -> Claim {
        match seat {
            None if is_standby => Claim::None,
            None => Claim::Stays,
            // It took the lock for the next epoch, and was cut short.
            Some(seat) if seat.leader == *name && seat.epoch == epoch + 1 => Claim::Succeeds,
            Some(seat) if seat.epoch != epoch => Claim::None,
            Some(seat) if seat.leader == *name => Claim::Stays,
            Some(seat) if seat.in_sync.contains(name) => Claim::Succeeds,
            Some(_) => Claim::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_all_that_was_answered_leads_next() {
        let name = |name: &str| -> HostName { name.parse().unwrap() };
        let seat = Seat {
            leader: name("a"),
            url: "http://a:7400/".to_owned(),
            epoch: 3,
            in_sync: BTreeSet::from([name("b")]),
        };
        let claim = |who: &str, epoch: u32| Seat::claim(Some(&seat), &name(who), epoch, true);
        assert_eq!([claim("a", 3), claim("b", 3), claim("c", 3)], [Claim::Stays, Claim::Succeeds, Claim::None]);
        assert_eq!([claim("a", 2), claim("b", 2), claim("b", 4)], [Claim::Succeeds, Claim::None, Claim::None]);
        assert_eq!(Seat::claim(None, &name("a"), 1, false), Claim::Stays);
        assert_eq!(Seat::claim(None, &name("a"), 1, true), Claim::None);
    }

    #[test]
    fn a_key_is_written_with_its_server() {
        assert_eq!("consul:conf/leader".parse::<LeaderKey>().unwrap().key(), "conf/leader");
        for bad in ["conf/leader", "consul:", "consul:a//b", "consul:../a", "consul:a b", "etcd:a"] {
            bad.parse::<LeaderKey>().unwrap_err();
        }
    }
}
