//! Sealing and opening, by age. The secret's name is sealed too, so that a sealed file put in
//! another's place is refused.
//!
//! For up to [`PART`] recipients a sealed value is one age file. For more it is several, so that a
//! host finds its own at once: the line [`PARTS`]; then a line `<bytes>` and an age file of that
//! size with the value, sealed to a key that is made for this value alone; then for each part a
//! line (`<bytes> <mark>…`, a [`mark`] for each of its recipients) and an age file of that size
//! with that key.

use std::{io::Write as _, str};

use age::{Encryptor, Recipient, secrecy::ExposeSecret as _, ssh, x25519};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::host_key::HostKey;
use crate::secret::{
    identity::{Identity, OpenError},
    value::{MAX_VALUE_BYTES, SecretValue},
};
use libconf::name::{SecretName, Segment};

/// The most bytes of one sealed value: a stanza for each of about 50,000 hosts.
pub const MAX_SEALED_BYTES: usize = 8 << 20;
/// The most recipients of one age file. Reading its header takes time that grows with the square of
/// their number: with a thousand, more than a second.
const PART: usize = 32;
/// The first line of a sealed value that has several age files.
const PARTS: &[u8] = b"conf-sealed 2\n";

/// The sealed text, as JSON. Readers ignore members that they do not know.
#[derive(Serialize, Deserialize)]
struct Inside<N, V> {
    datacenter: N,
    name: N,
    value: V,
}

/// Why a value cannot be sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The value is too large.
    #[error("it has {0} bytes; a secret has at most {MAX_VALUE_BYTES}")]
    Large(usize),
    /// The value has too many recipients.
    #[error("for {0} hosts it would have more than {MAX_SEALED_BYTES} bytes; let fewer hosts run its readers")]
    Many(usize),
    /// The library's reason.
    #[error("it cannot be sealed: {0}")]
    Failed(String),
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(reason: impl ToString) -> SealError {
    SealError::Failed(reason.to_string())
}

/// Seals a value to `recipients`, of which there must be at least one. Two sealings of one value
/// differ.
pub fn seal(
    value: &SecretValue,
    datacenter: &Segment,
    name: &SecretName,
    recipients: &[HostKey],
) -> Result<Vec<u8>, SealError> {
    let bytes = match value {
        SecretValue::Text(text) => text.len(),
        SecretValue::Certificate { certificate, key } => certificate.len() + key.len(),
    };
    if bytes > MAX_VALUE_BYTES {
        return Err(SealError::Large(bytes));
    }
    // Room for the worst case (every byte written as `\u00..`), since a buffer that grows leaves
    // copies behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(6 * bytes + 512));
    let inside = Inside { datacenter: datacenter.as_str(), name: name.as_str(), value };
    serde_json::to_writer(&mut *plain, &inside).map_err(failed)?;

    if recipients.len() <= PART {
        return seal_part(&plain, recipients);
    }
    let key = x25519::Identity::generate();
    let value = seal_part(&plain, &[HostKey(key.to_public().to_string())])?;
    let key = key.to_string();
    let mut sealed = PARTS.to_vec();
    sealed.extend(format!("{}\n", value.len()).bytes());
    sealed.extend(value);
    for part in recipients.chunks(PART) {
        let bytes = seal_part(key.expose_secret().as_bytes(), part)?;
        let marks: Vec<String> = part.iter().map(mark).collect();
        sealed.extend(format!("{} {}\n", bytes.len(), marks.join(" ")).bytes());
        sealed.extend(bytes);
        if sealed.len() > MAX_SEALED_BYTES {
            return Err(SealError::Many(recipients.len()));
        }
    }
    Ok(sealed)
}

/// The mark by which a recipient finds its part: half of the SHA-256 of its key, which is public.
fn mark(key: &HostKey) -> String {
    let half = u128::from_be_bytes(Sha256::digest(key.to_string()).first_chunk().copied().unwrap_or_default());
    format!("{half:032x}")
}

/// Cuts off one age file of several: the words on its line after its size, the file, and the rest.
fn part(sealed: &[u8]) -> Option<(str::Split<'_, char>, &[u8], &[u8])> {
    let end = sealed.iter().position(|byte| *byte == b'\n')?;
    let (line, after) = (str::from_utf8(&sealed[..end]).ok()?, &sealed[end + 1..]);
    let mut words = line.split(' ');
    let (part, rest) = after.split_at_checked(words.next()?.parse().ok()?)?;
    Some((words, part, rest))
}

/// Opens a sealed value of either form.
fn unseal(identity: &Identity, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let Some(sealed) = sealed.strip_prefix(PARTS) else { return identity.unseal(sealed) };
    let damaged = || OpenError::Damaged("its parts are not of the known form");
    let (_, value, mut rest) = part(sealed).ok_or_else(damaged)?;
    let own = mark(identity.recipient());
    while !rest.is_empty() {
        let (mut marks, key, next) = part(rest).ok_or_else(damaged)?;
        if marks.any(|mark| mark == own) {
            let key = identity.unseal(key)?;
            let key = str::from_utf8(&key).ok().and_then(|key| key.parse::<x25519::Identity>().ok());
            return Identity::of_age(key.ok_or_else(damaged)?).unseal(value);
        }
        rest = next;
    }
    // No part names this key, so the value is sealed to others.
    Err(OpenError::NotForThisKey)
}

/// Seals a file as plain age does, so that `age -d` opens it too.
pub fn seal_file(plain: &[u8], recipients: &[HostKey]) -> Result<Vec<u8>, SealError> {
    seal_part(plain, recipients)
}

/// Opens what [`seal_file`] has sealed.
pub fn open_file(identity: &Identity, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    identity.unseal(sealed)
}

fn seal_part(plain: &[u8], recipients: &[HostKey]) -> Result<Vec<u8>, SealError> {
    let recipients: Vec<Box<dyn Recipient>> = recipients.iter().map(recipient).collect::<Result<_, _>>()?;
    let encryptor = Encryptor::with_recipients(recipients.iter().map(|recipient| &**recipient)).map_err(failed)?;
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed).map_err(failed)?;
    writer.write_all(plain).and_then(|()| writer.finish().map(drop)).map_err(failed)?;
    Ok(sealed)
}

fn recipient(key: &HostKey) -> Result<Box<dyn Recipient>, SealError> {
    let text = key.to_string();
    let age = text.parse::<x25519::Recipient>().map(|key| Box::new(key) as Box<dyn Recipient>);
    let ssh = || text.parse::<ssh::Recipient>().map(|key| Box::new(key) as Box<dyn Recipient>);
    age.or_else(|_| ssh()).map_err(|_| failed(format!("{key} is no key")))
}

/// Opens a sealed value, which must be the one of this datacenter and name.
pub fn open(
    identity: &Identity,
    sealed: &[u8],
    datacenter: &Segment,
    name: &SecretName,
) -> Result<SecretValue, OpenError> {
    if sealed.len() > MAX_SEALED_BYTES {
        return Err(OpenError::Damaged("it is too large"));
    }
    let plain = unseal(identity, sealed)?;
    let inside: Inside<String, SecretValue> = serde_json::from_slice(&plain)
        // The library's own words may hold a part of the value.
        .map_err(|_| OpenError::Damaged("its content is not of the known form"))?;
    if inside.datacenter != datacenter.as_str() || inside.name != name.as_str() {
        return Err(OpenError::Swapped { datacenter: inside.datacenter, name: inside.name });
    }
    Ok(inside.value)
}
