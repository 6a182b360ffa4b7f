//! The users of the machine: whom the servers run as, whose folder it is, who may enter where.

use nix::unistd::{Uid, User};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The users that the servers run as when `dev` is root, in order of preference: Postgres refuses to run as root.
const SERVER_USERS: [&str; 2] = ["postgres", "nobody"];

/// A user and its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The user's number.
    pub uid: u32,
    /// The number of the user's group.
    pub gid: u32,
}

/// Why no user could be chosen.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The machine has none of the users; the caller must create one or stop being root.
    #[error("root cannot run Postgres, and the machine has no user `postgres` or `nobody`: run this as an ordinary user")]
    NoServerUser,
    /// The user database could not be read.
    #[error("the user `{name}` could not be looked up: {source}")]
    Lookup {
        /// The user's name.
        name: &'static str,
        /// What the system said.
        source: nix::Error,
    },
}

/// Whom the servers run as: `None` is the caller itself, who is not root.
///
/// # Errors
/// [`AccountError`] when the caller is root and there is no unprivileged user.
pub fn server_account() -> Result<Option<Account>, AccountError> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in SERVER_USERS {
        let found = User::from_name(name).map_err(|source| AccountError::Lookup { name, source })?;
        if let Some(user) = found.filter(|user| !user.uid.is_root()) {
            return Ok(Some(Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() }));
        }
    }
    Err(AccountError::NoServerUser)
}

/// Whose folder this is, if the caller is root and can therefore become that user; `None` also when it cannot be read.
#[must_use]
pub fn owner_of(folder: &Path) -> Option<Account> {
    if !Uid::effective().is_root() {
        return None;
    }
    folder.metadata().ok().map(|found| Account { uid: found.uid(), gid: found.gid() })
}

/// Whether `account` can reach what lies in `folder`: every folder on the way must let it pass.
#[must_use]
pub fn can_enter(account: Account, folder: &Path) -> bool {
    folder.ancestors().all(|step| step.metadata().is_ok_and(|found| lets_pass(account, found.mode(), found.uid(), found.gid())))
}

/// The execute bit that counts for `account`: the owner's, else the group's, else everybody's.
fn lets_pass(account: Account, mode: u32, owner: u32, group: u32) -> bool {
    let bit = if owner == account.uid {
        0o100
    } else if group == account.gid {
        0o010
    } else {
        0o001
    };
    mode & bit != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Account = Account { uid: 101, gid: 104 };

    #[test]
    fn the_closest_class_decides_who_may_pass() {
        assert!(lets_pass(GUEST, 0o711, 0, 0));
        assert!(!lets_pass(GUEST, 0o700, 0, 0));
        assert!(lets_pass(GUEST, 0o700, 101, 0));
        assert!(lets_pass(GUEST, 0o710, 0, 104));
        assert!(!lets_pass(GUEST, 0o701, 0, 104), "the group's bit counts, not everybody's");
        assert!(!lets_pass(GUEST, 0o077, 101, 104), "the owner's bit counts, not the group's");
    }

    #[test]
    fn one_closed_folder_on_the_way_is_enough() {
        use std::os::unix::fs::PermissionsExt;
        let outer = tempfile::tempdir().expect("a temporary folder");
        let inner = outer.path().join("inner");
        std::fs::create_dir(&inner).expect("an inner folder");
        let stranger = Account { uid: 4_000_001, gid: 4_000_001 };
        let set = |mode| std::fs::set_permissions(outer.path(), std::fs::Permissions::from_mode(mode)).expect("own folder");
        set(0o700);
        assert!(!can_enter(stranger, &inner));
        set(0o711);
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o711)).expect("own folder");
        assert_eq!(can_enter(stranger, &inner), can_enter(stranger, &std::env::temp_dir()));
    }
}
