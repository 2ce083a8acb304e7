//! Secrets at rest: sealed by a key of the host, each for the one place that it is kept at.
//!
//! A record that is copied to another place, or changed, does not open. The algorithm is AES-256-GCM-SIV (RFC 8452), which
//! stays safe should a random nonce ever come twice.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::digest::sha256;

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Digits of a key's identifier.
const ID_DIGITS: usize = 16;

/// A secret that cannot be sealed or opened, or a key that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// A text that is no key.
    #[error("a key of secrets has 64 hexadecimal digits; `openssl rand -hex 32` makes one")]
    Key,
    /// The key that sealed it is not there.
    #[error("it is sealed by the key {sealed_by}, and this host has {known}")]
    UnknownKey {
        /// The key's identifier.
        sealed_by: String,
        /// Those of the keys that are there.
        known: String,
    },
    /// It does not open.
    #[error("it was changed, or was sealed for another place")]
    Broken,
    /// The system failed.
    #[error("the system's cryptography failed")]
    System,
}

/// A key of secrets: 256 random bits. Printing it shows its identifier only.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey {
    id: String,
    bytes: [u8; KEY_BYTES],
}

impl SecretKey {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate() -> Result<Self, SecretError> {
        let mut bytes = [0; KEY_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SecretError::System)?;
        Ok(Self::of(bytes))
    }

    /// Reads one: 64 hexadecimal digits, with white space around them.
    ///
    /// # Errors
    /// When it is none. The error does not show the text.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let text = text.trim().as_bytes();
        if text.len() != 2 * KEY_BYTES {
            return Err(SecretError::Key);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(SecretError::Key);
        let mut bytes = [0; KEY_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let value = digit(pair[0])? << 4 | digit(pair[1])?;
            *byte = u8::try_from(value).map_err(|_| SecretError::Key)?;
        }
        Ok(Self::of(bytes))
    }

    fn of(bytes: [u8; KEY_BYTES]) -> Self {
        // The key is random, so its hash tells nothing of it.
        let mut id = sha256(&[b"flowcell key of secrets\n", &bytes[..]].concat());
        id.truncate(ID_DIGITS);
        Self { id, bytes }
    }

    /// Names the key, and tells nothing of it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key itself, as [`SecretKey::parse`] reads it.
    pub fn reveal(&self) -> String {
        self.bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn cipher(&self) -> Result<RandomizedNonceKey, SecretError> {
        RandomizedNonceKey::new(&AES_256_GCM_SIV, &self.bytes).map_err(|_| SecretError::System)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SecretKey({})", self.id)
    }
}

/// A sealed secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// The identifier of the key.
    key: String,
    nonce: String,
    data: String,
}

impl Sealed {
    /// The identifier of the key that sealed it.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Tells it from everything else that was ever sealed, and nothing of what is in it.
    pub(crate) fn mark(&self) -> String {
        format!("{}.{}.{}", self.key, self.nonce, self.data)
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Sealed(by {})", self.key)
    }
}

/// The keys of a host.
#[derive(Debug, Clone)]
pub struct Secrets {
    current: SecretKey,
    previous: Vec<SecretKey>,
}

impl Secrets {
    /// Seals by `current`, and opens what that or a key of `previous` has sealed.
    pub fn new(current: SecretKey, previous: Vec<SecretKey>) -> Self {
        Self { current, previous }
    }

    /// The key that seals.
    pub fn current(&self) -> &SecretKey {
        &self.current
    }

    /// The identifiers of all keys, for messages.
    pub(crate) fn known(&self) -> String {
        let previous: Vec<&str> = self.previous.iter().map(SecretKey::id).collect();
        match previous.as_slice() {
            [] => format!("the key {} only", self.current.id),
            previous => format!(
                "the key {} and the previous {}",
                self.current.id,
                previous.join(", ")
            ),
        }
    }

    /// Seals a secret for a place.
    ///
    /// # Errors
    /// When the system's cryptography fails.
    pub fn seal(&self, place: &str, secret: &[u8]) -> Result<Sealed, SecretError> {
        let mut data = secret.to_vec();
        let nonce = self
            .current
            .cipher()?
            .seal_in_place_append_tag(Aad::from(place.as_bytes()), &mut data)
            .map_err(|_| SecretError::System)?;
        Ok(Sealed {
            key: self.current.id.clone(),
            nonce: STANDARD.encode(nonce.as_ref()),
            data: STANDARD.encode(data),
        })
    }

    /// Opens what was sealed for a place.
    ///
    /// # Errors
    /// When its key is not there, it was changed, or it was sealed for another place.
    pub fn open(&self, place: &str, sealed: &Sealed) -> Result<Vec<u8>, SecretError> {
        let mut keys = std::iter::once(&self.current).chain(&self.previous);
        let key = keys
            .find(|key| key.id == sealed.key)
            .ok_or_else(|| SecretError::UnknownKey {
                sealed_by: sealed.key.clone(),
                known: self.known(),
            })?;
        let decoded = |text: &str| STANDARD.decode(text).map_err(|_| SecretError::Broken);
        let nonce = Nonce::try_assume_unique_for_key(&decoded(&sealed.nonce)?);
        let nonce = nonce.map_err(|_| SecretError::Broken)?;
        let mut data = decoded(&sealed.data)?;
        let opened = key
            .cipher()?
            .open_in_place(nonce, Aad::from(place.as_bytes()), &mut data)
            .map_err(|_| SecretError::Broken)?
            .len();
        data.truncate(opened);
        Ok(data)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        Secrets::new(SecretKey::generate().unwrap(), Vec::new())
    }

    #[test]
    fn what_is_sealed_opens_at_its_place_only() {
        let secrets = secrets();
        let sealed = secrets.seal("here", b"hunter2").unwrap();
        assert_eq!(secrets.open("here", &sealed).unwrap(), b"hunter2");
        assert_eq!(secrets.open("there", &sealed), Err(SecretError::Broken));
        // The same again looks different.
        assert_ne!(secrets.seal("here", b"hunter2").unwrap(), sealed);
        assert!(!format!("{sealed:?} {secrets:?}").contains(&sealed.data));
    }

    #[test]
    fn what_was_changed_does_not_open() {
        let secrets = secrets();
        let sealed = secrets.seal("here", b"hunter2").unwrap();
        let mut bytes = STANDARD.decode(&sealed.data).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            let changed = Sealed {
                data: STANDARD.encode(&bytes),
                ..sealed.clone()
            };
            assert_eq!(secrets.open("here", &changed), Err(SecretError::Broken));
            bytes[at] ^= 1;
        }
        for changed in [
            Sealed {
                nonce: String::new(),
                ..sealed.clone()
            },
            Sealed {
                data: "%".to_owned(),
                ..sealed.clone()
            },
            Sealed {
                data: String::new(),
                ..sealed
            },
        ] {
            assert_eq!(secrets.open("here", &changed), Err(SecretError::Broken));
        }
    }

    #[test]
    fn a_key_is_known_by_its_identifier() {
        let old = SecretKey::generate().unwrap();
        let sealed = Secrets::new(old.clone(), Vec::new())
            .seal("here", b"hunter2")
            .unwrap();
        let new = SecretKey::generate().unwrap();
        let error = Secrets::new(new.clone(), Vec::new())
            .open("here", &sealed)
            .unwrap_err()
            .to_string();
        assert!(error.contains(old.id()) && error.contains(new.id()));
        let both = Secrets::new(new, vec![old.clone()]);
        assert_eq!(both.open("here", &sealed).unwrap(), b"hunter2");
        assert_eq!(SecretKey::parse(&format!("{}\n", old.reveal())), Ok(old));
    }

    #[test]
    fn a_text_that_is_no_key_is_not_shown() {
        for text in [
            "",
            "hunter2",
            &"g".repeat(64),
            &"0".repeat(63),
            &"é".repeat(32),
        ] {
            let error = SecretKey::parse(text).unwrap_err();
            assert_eq!(error, SecretError::Key, "{text}");
        }
    }
}
