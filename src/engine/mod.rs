//! engine: being built.

mod config;

pub use config::*;
pub mod fresh;
