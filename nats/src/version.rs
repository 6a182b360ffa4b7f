//! Whether a server is new enough for what we ask of it.

/// The oldest nats-server that is tested: major and minor number.
const OLDEST: (u32, u32) = (2, 12);

/// A server that is too old. Whoever runs it must bring it up to date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nats-server {found} at {address} is too old: version 2.12 or newer is needed")]
pub struct TooOld {
    /// Without secrets.
    pub address: String,
    /// What the server is.
    pub found: String,
}

/// Whether the server at `address`, of version `found`, has all that we ask of it.
///
/// # Errors
/// [`TooOld`], also where the version is no version.
pub fn check_version(address: &str, found: &str) -> Result<(), TooOld> {
    if is_new_enough(found) { Ok(()) } else { Err(TooOld { address: address.to_owned(), found: found.to_owned() }) }
}

/// What stands behind the two numbers does not matter.
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST,
        (Some(_) | None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_server_that_will_do() {
        for old in ["2.9.25", "2.11.11", "1.99.0", "2.11.99-RC.1", "", "next", "2"] {
            let refused = check_version("nats://h", old).expect_err(old).to_string();
            assert_eq!(refused, format!("nats-server {old} at nats://h is too old: version {}.{} or newer is needed", OLDEST.0, OLDEST.1));
        }
        for new in ["2.12.0", "2.15.1", "v2.12.0", "2.12.0-RC.2", "3.0.0"] {
            assert_eq!(check_version("nats://h", new), Ok(()), "{new}");
        }
    }
}
