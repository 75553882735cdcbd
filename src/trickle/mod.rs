//! The trickle protocol: a client that reads and writes segments over HTTP/1.1, and a server.
mod config;

pub use config::{Config, TlsPolicy};
