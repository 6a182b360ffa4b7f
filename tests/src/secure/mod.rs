//! The configuration of `deploy/nats` in force: what it refuses, that everything works within it, and TLS on every connection.

mod jwt;
mod logins;
mod rights;
pub mod server;
mod whole;
