//! Settings of certificates.

use serde::{Deserialize, Serialize};

/// How the certificate of a server is judged. Orchestrators make a self-signed one at every start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsPolicy {
    /// Any certificate will do: what a runner managed by an orchestrator needs.
    #[default]
    Skip,
    /// Only the certificate with this SHA-256 fingerprint (64 hex digits, of the DER form).
    Pin(String),
    /// A valid chain to a public root for the right name.
    Verify,
}
