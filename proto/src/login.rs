//! The name under which a process logs in to NATS, and what its rights bind to it: an inbox, and the subjects of its incarnations.

use crate::ids::Incarnation;
use rand::{Rng, RngExt};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Longest name of a login, in bytes.
pub const LOGIN_BYTES_MAX: usize = 64;
/// Where answers come to who has no login: the client's own default.
const INBOX_OF_NOBODY: &str = "_INBOX";
/// Nothing else hashes the same text.
const SEAT_PURPOSE: &[u8] = b"orchestr8 seat of login ";

/// One login, shared by the processes that trust each other: such as the executors of one pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Login(String);

/// Why a text is not the name of a login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a login's name: use 1 to {LOGIN_BYTES_MAX} of a-z, A-Z, 0-9, `-` and `_`, starting with a letter")]
pub struct LoginError(pub String);

impl Login {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix of every subject on which this login is answered.
    #[must_use]
    pub fn inbox_prefix(&self) -> String {
        format!("{INBOX_OF_NOBODY}_{}", self.0)
    }

    /// The first half of all incarnations of this login: rights can bind a token of a subject, but no random number.
    #[must_use]
    pub fn seat(&self) -> u64 {
        let hash = Sha256::new().chain_update(SEAT_PURPOSE).chain_update(&self.0).finalize();
        hash.iter().take(size_of::<u64>()).fold(0, |seat, byte| seat << 8 | u64::from(*byte))
    }

    /// Draws a new incarnation of this login: 64 bits are its seat, 64 are random.
    #[must_use]
    pub fn incarnation(&self, random: &mut impl Rng) -> Incarnation {
        Incarnation(Uuid::from_u64_pair(self.seat(), random.random()))
    }
}

impl FromStr for Login {
    type Err = LoginError;

    fn from_str(text: &str) -> Result<Self, LoginError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let starts_well = text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
        if starts_well && text.len() <= LOGIN_BYTES_MAX && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(LoginError(text.to_owned()))
        }
    }
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;

    #[test]
    fn a_login_is_one_token_of_a_subject() {
        for good in ["coordinator", "gpu-pool_2", "UABC", "a"] {
            assert_eq!(good.parse::<Login>().map(|login| login.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "a.b", "*", ">", "a b", "7", "-a", "ä", &"a".repeat(65)] {
            assert!(bad.parse::<Login>().is_err(), "{bad}");
        }
    }

    #[test]
    fn incarnations_of_a_login_share_a_seat_and_nothing_else() {
        let (one, other): (Login, Login) = ("a".parse().expect("a name"), "b".parse().expect("a name"));
        let (first, second) = (one.incarnation(&mut rand::rng()), one.incarnation(&mut rand::rng()));
        assert_ne!(first, second);
        let seat = |incarnation| names::beat_subject(incarnation).rsplit_once('.').expect("two tokens").0.to_owned();
        assert_eq!(seat(first), seat(second));
        assert_ne!(seat(first), seat(other.incarnation(&mut rand::rng())));
        // It stands in the configuration of servers: another hash would lock everybody out.
        assert_eq!(format!("{:016x}", one.seat()), "b758736883efeffc");
    }
}
