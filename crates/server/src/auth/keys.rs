//! API keys: `fc_<public part>_<secret>`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flowcell_session::{Key, State, UserName, sha256};
use jiff::Timestamp;
use subtle::ConstantTimeEq as _;

use super::Caller;
use crate::problem::{Kind, Problem};

/// How every key begins, so that it is known when it turns up where it should not be.
pub(super) const PREFIX: &str = "fc_";
/// Bytes of a secret.
const SECRET: usize = 48;

/// A key that was just made. This is the only time that anybody sees its text.
#[derive(Debug)]
pub(crate) struct NewKey {
    /// What is stored.
    pub record: Key,
    /// What the user gets.
    pub text: String,
}

impl NewKey {
    /// A new key for a user.
    pub(crate) fn make(
        user: &UserName,
        description: String,
        now: Timestamp,
        expires: Option<Timestamp>,
    ) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string()[..16].to_owned();
        let mut bytes = [0_u8; SECRET];
        for chunk in bytes.chunks_mut(16) {
            // Each has 122 random bits.
            chunk.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        }
        let secret = URL_SAFE_NO_PAD.encode(bytes);
        Self {
            record: Key {
                id: id.clone(),
                user: user.clone(),
                hash: sha256(secret.as_bytes()),
                description,
                created: now,
                expires,
            },
            text: format!("{PREFIX}{id}_{secret}"),
        }
    }
}

/// Whose key it is.
pub(super) fn check(state: &State, text: &str) -> Result<Caller, Problem> {
    // One message for all: what of it was wrong helps only whoever tries keys out.
    let refused = || {
        Problem::new(
            Kind::Unauthorized,
            "this API key is not valid (any more): it may be mistyped, revoked or expired",
        )
    };
    let (id, secret) = text
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('_'))
        .ok_or_else(refused)?;
    let key = state.keys.get(id).ok_or_else(refused)?;
    let is_right = bool::from(
        sha256(secret.as_bytes())
            .as_bytes()
            .ct_eq(key.hash.as_bytes()),
    );
    let has_expired = key
        .expires
        .is_some_and(|expires| expires <= Timestamp::now());
    let user = state.users.get(&key.user).ok_or_else(refused)?;
    if !is_right || has_expired {
        return Err(refused());
    }
    Ok(Caller {
        user: key.user.clone(),
        admin: user.admin,
        key: Some(key.id.clone()),
        expires: key.expires,
    })
}
