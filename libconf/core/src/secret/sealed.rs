//! Sealing and opening, by age.

use std::{io::Write as _, str};

use age::{Encryptor, Recipient, secrecy::ExposeSecret as _, ssh, x25519};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::secret::{
    error::{MAX_SEALED_BYTES, OpenError, SealError},
    host_key::HostKey,
    identity::Identity,
    value::{MAX_VALUE_BYTES, SecretValue},
};
use libconf::name::{SecretName, Segment};

/// The most recipients of one age file. Reading its header takes time that grows with the square of their number: with a
/// thousand, a second and more.
const PART: usize = 32;

/// The first line where there are several age files.
const PARTS: &[u8] = b"conf-sealed 2\n";

/// What stands inside, as JSON. Readers pass over members that they do not know.
#[derive(Serialize, Deserialize)]
struct Inside<N, T> {
    datacenter: N,
    name: N,
    value: Value<N, T>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Value<N, T> {
    Text(T),
    Certificate { certificate: N, key: T },
}

/// Seals a value to `recipients`; one at least. Two sealings of one value differ.
pub fn seal(
    value: &SecretValue,
    datacenter: &Segment,
    name: &SecretName,
    recipients: &[HostKey],
) -> Result<Vec<u8>, SealError> {
    let failed = |reason: &dyn ToString| SealError::Failed(reason.to_string());
    let (inner, bytes) = match value {
        SecretValue::Text(text) => (Value::Text(text.as_str()), text.len()),
        SecretValue::Certificate { certificate, key } => {
            (Value::Certificate { certificate: certificate.as_str(), key: key.as_str() }, certificate.len() + key.len())
        }
    };
    if bytes > MAX_VALUE_BYTES {
        return Err(SealError::Large(bytes));
    }
    // Room for the worst case (every byte written as `\u00..`), since a buffer that grows leaves copies behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(6 * bytes + 512));
    let inside = Inside { datacenter: datacenter.as_str(), name: name.as_str(), value: inner };
    serde_json::to_writer(&mut *plain, &inside).map_err(|error| failed(&error))?;

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

/// What a recipient's part is found by: half of the SHA-256 of its key, which is public.
fn mark(key: &HostKey) -> String {
    let half = u128::from_be_bytes(Sha256::digest(key.to_string()).first_chunk().copied().unwrap_or_default());
    format!("{half:032x}")
}

/// One age file of several: the words on its line after its size, the file, and what follows it.
fn part(sealed: &[u8]) -> Option<(str::Split<'_, char>, &[u8], &[u8])> {
    let end = sealed.iter().position(|byte| *byte == b'\n')?;
    let (line, after) = (str::from_utf8(&sealed[..end]).ok()?, &sealed[end + 1..]);
    let mut words = line.split(' ');
    let (part, rest) = after.split_at_checked(words.next()?.parse().ok()?)?;
    Some((words, part, rest))
}

/// What is in a sealed value.
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
    // None that names it means that it is sealed to others.
    Err(OpenError::NotForThisKey)
}

fn seal_part(plain: &[u8], recipients: &[HostKey]) -> Result<Vec<u8>, SealError> {
    let failed = |reason: &dyn ToString| SealError::Failed(reason.to_string());
    let recipients: Vec<Box<dyn Recipient>> = recipients.iter().map(recipient).collect::<Result<_, _>>()?;
    let to = recipients.iter().map(|recipient| &**recipient);
    let encryptor = Encryptor::with_recipients(to).map_err(|error| failed(&error))?;
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed).map_err(|error| failed(&error))?;
    writer.write_all(plain).and_then(|()| writer.finish().map(drop)).map_err(|error| failed(&error))?;
    Ok(sealed)
}

fn recipient(key: &HostKey) -> Result<Box<dyn Recipient>, SealError> {
    let text = key.to_string();
    let age = text.parse::<x25519::Recipient>().map(|key| Box::new(key) as Box<dyn Recipient>);
    let ssh = || text.parse::<ssh::Recipient>().map(|key| Box::new(key) as Box<dyn Recipient>);
    age.or_else(|_| ssh()).map_err(|_| SealError::Failed(format!("{key} is no key")))
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
    let inside: Inside<String, Zeroizing<String>> = serde_json::from_slice(&plain)
        // The library's own words may hold a part of the value.
        .map_err(|_| OpenError::Damaged("what is in it is not of the known form"))?;
    if inside.datacenter != datacenter.as_str() || inside.name != name.as_str() {
        return Err(OpenError::Swapped { datacenter: inside.datacenter, name: inside.name });
    }
    Ok(match inside.value {
        Value::Text(text) => SecretValue::Text(text),
        Value::Certificate { certificate, key } => SecretValue::Certificate { certificate, key },
    })
}
