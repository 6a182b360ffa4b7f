//! HMAC-SHA-256 tokens (RFC 2104, FIPS 180-4): they bind a purpose and ids to the installation's key.
//!
//! A token is one byte of key id and the first 16 bytes of `HMAC(key, purpose ‖ ids)`: short enough for every
//! dispatch, long enough that guessing is hopeless.

use crate::ids::{DispatchId, TaskId};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of a token on the wire.
pub const TOKEN_BYTES: usize = 17;
/// Bytes of a key, at least.
pub const KEY_BYTES_MIN: usize = 32;

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Too short to be a secret.
    #[error("a token key needs at least {KEY_BYTES_MIN} bytes, this one has {0}")]
    Short(usize),
    /// No key at all.
    #[error("at least one token key is needed")]
    None,
}

/// What a token is good for; a token for one purpose is worthless for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To report the outcome of a dispatch, or to claim it.
    Outcome,
}

impl Purpose {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Outcome => b"orchestr8.outcome.v1",
        }
    }
}

/// The installation's keys: the first one signs, all verify.
#[derive(Clone)]
pub struct TokenKeys {
    keys: Vec<(u8, Vec<u8>)>,
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenKeys({} keys)", self.keys.len())
    }
}

impl TokenKeys {
    /// Keys with their ids; the first signs.
    ///
    /// # Errors
    /// [`KeyError`] when there is none or one is short.
    pub fn new(keys: Vec<(u8, Vec<u8>)>) -> Result<Self, KeyError> {
        if keys.is_empty() {
            return Err(KeyError::None);
        }
        match keys.iter().find(|(_, key)| key.len() < KEY_BYTES_MIN) {
            Some((_, short)) => Err(KeyError::Short(short.len())),
            None => Ok(Self { keys }),
        }
    }

    /// The token that lets its bearer report and claim this dispatch of this task.
    #[must_use]
    pub fn sign(&self, purpose: Purpose, task: TaskId, dispatch: DispatchId) -> Bytes {
        let (id, key) = &self.keys[0];
        let mut token = Vec::with_capacity(TOKEN_BYTES);
        token.push(*id);
        token.extend_from_slice(&mac(key, purpose, task, dispatch).finalize().into_bytes()[..TOKEN_BYTES - 1]);
        token.into()
    }

    /// Whether `token` was signed for exactly this, by a key that is still known. Takes constant time.
    #[must_use]
    pub fn verify(&self, token: &[u8], purpose: Purpose, task: TaskId, dispatch: DispatchId) -> bool {
        let Some((id, tag)) = token.split_first() else { return false };
        let Some((_, key)) = self.keys.iter().find(|(known, _)| known == id) else { return false };
        tag.len() == TOKEN_BYTES - 1 && mac(key, purpose, task, dispatch).verify_truncated_left(tag).is_ok()
    }
}

fn mac(key: &[u8], purpose: Purpose, task: TaskId, dispatch: DispatchId) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(purpose.label());
    mac.update(task.0.as_bytes());
    mac.update(dispatch.0.as_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ExecutionId;

    fn task() -> TaskId {
        ExecutionId::generate(1, 2, &mut rand::rng()).task(3)
    }

    #[test]
    fn a_token_is_good_for_its_dispatch_only() {
        let keys = TokenKeys::new(vec![(1, vec![7; 32])]).expect("key");
        let (task_id, dispatch) = (task(), DispatchId::random());
        let token = keys.sign(Purpose::Outcome, task_id, dispatch);
        assert_eq!(token.len(), TOKEN_BYTES);
        assert!(keys.verify(&token, Purpose::Outcome, task_id, dispatch));
        assert!(!keys.verify(&token, Purpose::Outcome, task_id, DispatchId::random()));
        assert!(!keys.verify(&token, Purpose::Outcome, task(), dispatch));
        assert!(!keys.verify(&token[..5], Purpose::Outcome, task_id, dispatch));
        assert!(!keys.verify(&[], Purpose::Outcome, task_id, dispatch));
    }

    #[test]
    fn an_older_key_still_verifies_until_it_is_retired() {
        let old = TokenKeys::new(vec![(1, vec![7; 32])]).expect("key");
        let (task_id, dispatch) = (task(), DispatchId::random());
        let token = old.sign(Purpose::Outcome, task_id, dispatch);
        let rotated = TokenKeys::new(vec![(2, vec![8; 32]), (1, vec![7; 32])]).expect("keys");
        let retired = TokenKeys::new(vec![(2, vec![8; 32])]).expect("key");
        assert!(rotated.verify(&token, Purpose::Outcome, task_id, dispatch));
        assert!(!retired.verify(&token, Purpose::Outcome, task_id, dispatch));
    }

    #[test]
    fn short_and_missing_keys_are_refused() {
        assert_eq!(TokenKeys::new(vec![]).err(), Some(KeyError::None));
        assert_eq!(TokenKeys::new(vec![(1, vec![0; 8])]).err(), Some(KeyError::Short(8)));
    }
}
