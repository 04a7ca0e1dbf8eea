//! Every recipient of a sealed value opens it, and no other key does.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use age::x25519;
use zeroize::Zeroizing;

use crate::secret::*;
use crate::sign::SigningKey;
use libconf::name::{SecretName, Segment};

/// An OpenSSH key, as hosts have one, and the line of its public half.
fn ssh_key(folder: &Path) -> (PathBuf, String) {
    let path = folder.join("ssh_host_ed25519_key");
    let key = SigningKey::generate(&path, "root@web-1").unwrap();
    (path, key.public_line())
}

/// An identity of age, as earlier versions made them.
fn of_age(path: &Path) -> Identity {
    let key = x25519::Identity::generate();
    let secret = age::secrecy::ExposeSecret::expose_secret(&key.to_string()).to_owned();
    fs::write(path, format!("# public key: {}\n{secret}\n", key.to_public())).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    Identity::load(path).unwrap()
}

fn text(value: &str) -> SecretValue {
    SecretValue::Text(Zeroizing::new(value.to_owned()))
}

fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
    file
}

fn place() -> (Segment, SecretName) {
    ("us-west".parse().unwrap(), "adminKey".parse().unwrap())
}

#[test]
fn every_recipient_opens_a_value_and_no_other_key_does() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str| Identity::create(&folder.path().join(name)).unwrap();
    let (one, two, other) = (make("one"), of_age(&folder.path().join("two")), make("other"));
    let ssh = Identity::load(&ssh_key(folder.path()).0).unwrap();
    let (id, name) = place();
    let recipients = [one.recipient().clone(), ssh.recipient().clone(), two.recipient().clone()];
    let pair = SecretValue::Certificate { certificate: "public".to_owned(), key: Zeroizing::new("private".to_owned()) };
    for value in [text("Ünïcode \" \\ \n\0"), text(""), text(&"x".repeat(MAX_VALUE_BYTES)), pair] {
        let sealed = seal(&value, &id, &name, &recipients).unwrap();
        for identity in [&one, &two, &ssh] {
            assert_eq!(open(identity, &sealed, &id, &name).unwrap(), value);
        }
        assert_eq!(open(&other, &sealed, &id, &name), Err(OpenError::NotForThisKey));
    }
    assert!(matches!(seal(&text(&"x".repeat(MAX_VALUE_BYTES + 1)), &id, &name, &recipients), Err(SealError::Large(_))));
    assert!(seal(&text("x"), &id, &name, &[]).is_err());
}

#[test]
fn swapped_or_changed_values_are_refused_without_showing_them() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::create(&folder.path().join("identity")).unwrap();
    let (id, name) = place();
    let (other_id, other_name): (Segment, SecretName) = ("us-east".parse().unwrap(), "other".parse().unwrap());
    let mut sealed = seal(&text("canary"), &id, &name, &[identity.recipient().clone()]).unwrap();
    for (id, name) in [(&other_id, &name), (&id, &other_name)] {
        let refused = open(&identity, &sealed, id, name).unwrap_err();
        assert_eq!(refused, OpenError::Swapped { datacenter: "us-west".to_owned(), name: "adminKey".to_owned() });
    }
    for at in 0..sealed.len() {
        sealed[at] ^= 1;
        let refused = open(&identity, &sealed, &id, &name).unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains("canary"));
        sealed[at] ^= 1;
    }
    for cut in 0..sealed.len() {
        assert!(open(&identity, &sealed[..cut], &id, &name).is_err(), "{cut}");
    }
    assert!(open(&identity, &sealed, &id, &name).is_ok());
}

#[test]
fn among_many_recipients_each_finds_its_own_part() {
    let folder = tempfile::tempdir().unwrap();
    let make = |number: usize| Identity::create(&folder.path().join(number.to_string())).unwrap();
    let mut identities: Vec<Identity> = (0..70).map(make).collect();
    identities.push(Identity::load(&ssh_key(folder.path()).0).unwrap());
    let recipients: Vec<HostKey> = identities.iter().map(|identity| identity.recipient().clone()).collect();
    let (id, name) = place();
    let value = text("canary");
    for count in [32, 33, 64, 71] {
        let sealed = seal(&value, &id, &name, &recipients[..count]).unwrap();
        assert_eq!(sealed.starts_with(b"age-encryption.org/v1"), count == 32, "{count}");
        for (number, identity) in identities.iter().enumerate() {
            let opened = open(identity, &sealed, &id, &name);
            assert_eq!(opened.clone().ok(), (number < count).then(|| value.clone()), "{number} of {count}: {opened:?}");
            assert!(number < count || opened == Err(OpenError::NotForThisKey));
        }
    }
    let long = text(&"x".repeat(MAX_VALUE_BYTES));
    let sealed = seal(&long, &id, &name, &recipients).unwrap();
    assert!(sealed.len() < MAX_VALUE_BYTES + 300 * recipients.len(), "{}: the value stands there once", sealed.len());
    assert_eq!(open(&identities[70], &sealed, &id, &name).unwrap(), long);

    let sealed = seal(&value, &id, &name, &recipients).unwrap();
    let last = identities.last().unwrap();
    for cut in (0..sealed.len()).step_by(7) {
        assert!(open(last, &sealed[..cut], &id, &name).is_err(), "{cut}");
    }
    let mut changed = sealed.clone();
    changed[15] = b'x';
    assert!(matches!(open(last, &changed, &id, &name), Err(OpenError::Damaged(_))));
}

#[test]
fn an_identity_is_made_once_and_kept_from_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity");
    let (made, was_made) = Identity::load_or_create(&path).unwrap();
    assert!(was_made);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (read, was_made) = Identity::load_or_create(&path).unwrap();
    assert!(!was_made);
    assert_eq!(read.recipient(), made.recipient());
    assert!(Identity::create(&path).is_err());
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
    text.lines().for_each(|line| assert!(!format!("{read:?}").contains(line)));
    assert!(read.recipient().signs(), "it signs reports, too");
    // Those of age that exist stay good.
    let path = folder.path().join("age");
    let age = of_age(&path);
    let text = fs::read_to_string(&path).unwrap();
    let secret = text.lines().nth(1).unwrap();
    assert!(secret.starts_with("AGE-SECRET-KEY-1") && !format!("{age:?}").contains(secret));
    assert!(!age.recipient().signs() && age.signer().is_none());
    for (text, mode, want) in [
        (text.as_str(), 0o644, "chmod 600"),
        (&text, 0o620, "chmod 600"),
        ("", 0o600, "empty"),
        ("nonsense", 0o600, "no key of age"),
        (&format!("{text}{text}"), 0o600, "more than one"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n", 0o600, "no OpenSSH"),
    ] {
        let refused = Identity::load(file(text, mode).path()).unwrap_err().to_string();
        assert!(refused.contains(want), "{refused}");
    }
}

#[test]
fn keys_of_hosts() {
    let folder = tempfile::tempdir().unwrap();
    let (path, public) = ssh_key(folder.path());
    let ssh: HostKey = public.parse().unwrap();
    assert_eq!(public, format!("{ssh} root@web-1"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(ssh, *Identity::load(&path).unwrap().recipient());
    let identity = of_age(&folder.path().join("identity"));
    let age = identity.recipient();
    assert_eq!(age.to_string().parse::<HostKey>().unwrap(), *age);
    let secret = fs::read_to_string(folder.path().join("identity")).unwrap();
    for (text, want) in [
        ("", "no public key"),
        ("age1nonsense", "damaged"),
        (&format!("{age} {age}"), "more than a key"),
        ("ssh-ed25519 AAAA", "damaged"),
        ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ", "only Ed25519"),
        (secret.lines().nth(1).unwrap(), "private key"),
    ] {
        let refused = text.parse::<HostKey>().unwrap_err().to_string();
        assert!(refused.contains(want), "{refused}");
    }
}

#[test]
fn values_are_not_shown() {
    assert_eq!(format!("{:?}", text("canary")), "SecretValue::Text(…)");
    let pair = SecretValue::Certificate { certificate: String::new(), key: Zeroizing::new("canary".to_owned()) };
    assert!(!format!("{pair:?}").contains("canary"));
}
