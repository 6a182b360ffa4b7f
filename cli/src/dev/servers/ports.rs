//! Free ports on the loopback address.

use rand::RngExt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// Below the range from which systems draw the ports of outgoing connections (32768 on Linux): nobody takes such a port
/// while a server is being restarted.
const PORTS: Range<u16> = 20_000..32_000;
/// A machine on which this many ports of the range are taken in a row has none to spare.
const TRIES_MAX: u32 = 200;

/// Why there is no port.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PortError {
    /// The port that was asked for is in use.
    #[error(
        "{option} {port}: something else listens on 127.0.0.1:{port}: stop it, name another port, or leave the option out for a free one"
    )]
    Taken {
        /// The option that named it.
        option: &'static str,
        /// The port.
        port: u16,
    },
    /// The system reserves it.
    #[error("{option} {port}: only root may listen there: name a port from 1024")]
    Reserved {
        /// The option that named it.
        option: &'static str,
        /// The port.
        port: u16,
    },
    /// None of the range is free.
    #[error("no free port was found on 127.0.0.1 between {} and {}", PORTS.start, PORTS.end)]
    None,
}

/// The wanted port if it is free, else, when none is wanted, any that is.
///
/// # Errors
/// [`PortError`] when the wanted one is taken.
pub fn choose(option: &'static str, wanted: Option<u16>) -> Result<u16, PortError> {
    check(option, wanted)?;
    match wanted {
        Some(port) => Ok(port),
        None => (0..TRIES_MAX).map(|_| rand::rng().random_range(PORTS)).find(|port| is_free(*port)).ok_or(PortError::None),
    }
}

/// Whether the wanted port, if there is one, can be had.
///
/// # Errors
/// [`PortError::Taken`] and [`PortError::Reserved`].
pub fn check(option: &'static str, wanted: Option<u16>) -> Result<(), PortError> {
    let Some(port) = wanted else { return Ok(()) };
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(PortError::Reserved { option, port }),
        Err(_) => Err(PortError::Taken { option, port }),
    }
}

/// A port, and the one that would have been taken if it were free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// The port.
    pub port: u16,
    /// The default, where something else has it.
    pub passed_over: Option<u16>,
}

/// The wanted port, else the default, else any that is free.
///
/// # Errors
/// [`PortError`] when the wanted one is taken.
pub fn choose_or(default: u16, option: &'static str, wanted: Option<u16>) -> Result<Chosen, PortError> {
    let is_passed_over = wanted.is_none() && !is_free(default);
    let port = choose(option, if is_passed_over { None } else { wanted.or(Some(default)) })?;
    Ok(Chosen { port, passed_over: is_passed_over.then_some(default) })
}

/// Whether nothing listens there now.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wanted_port_is_used_or_refused_with_its_option() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = taken.local_addr().expect("it is bound").port();
        let refused = choose("--postgres-port", Some(port)).expect_err("it is taken").to_string();
        assert!(refused.contains("--postgres-port") && refused.contains(&port.to_string()), "{refused}");
        let free = choose("--postgres-port", None).expect("some port is free");
        assert!(PORTS.contains(&free));
        assert_eq!(choose("--postgres-port", Some(free)), Ok(free));
        assert_eq!(choose_or(free, "--port", None), Ok(Chosen { port: free, passed_over: None }));
        let instead = choose_or(port, "--port", None).expect("some port is free");
        assert!(instead.port != port && instead.passed_over == Some(port), "{instead:?}");
        assert_eq!(choose_or(free, "--port", Some(port)), Err(PortError::Taken { option: "--port", port }));
    }
}
