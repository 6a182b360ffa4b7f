//! How coordinators and executors log in to NATS. What they say there is theirs.
//!
//! - [`settings`]: addresses, credentials, certificates, and what is wrong with them
//! - [`mod@options`]: these as options of the client; which failures waiting cannot mend
//! - [`violations`]: what the server says it forbids, once each
//! - [`version`]: whether a server is new enough
//! - [`stranded`]: when a server without its peers is to be left for another one
//! - [`rights`]: the look at the start whether a login has every right that it needs

pub mod options;
pub mod rights;
pub mod settings;
pub mod stranded;
pub mod version;
pub mod violations;

pub use options::{Failure, options};
pub use rights::{RightsError, check_rights};
pub use settings::{Credentials, NatsSettings, SettingsError, TlsFiles};
pub use stranded::{Stranded, change_server};
pub use version::{TooOld, check_version};
pub use violations::{Violation, Violations};
