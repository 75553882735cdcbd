//! How the certificate of a server is judged, as a rustls configuration.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

mod config;

pub use config::TlsPolicy;

/// The settings cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// The rustls configuration for a policy; offers HTTP/1.1 alone.
///
/// # Errors
/// The pin is no fingerprint, or the system has no root certificates.
pub fn client_config(policy: &TlsPolicy) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(error.to_string()))?;
    let mut config = match policy {
        TlsPolicy::Verify => builder.with_root_certificates(system_roots()?).with_no_client_auth(),
        TlsPolicy::Skip | TlsPolicy::Pin(_) => {
            let pin = match policy {
                TlsPolicy::Pin(hex) => Some(fingerprint(hex)?),
                _ => None,
            };
            let verifier = Arc::new(Fingerprint { pin, provider });
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates that the operating system trusts.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reason = "the tls setting is verify, but the system has no root certificates; install ca-certificates";
        return Err(TlsError(reason.into()));
    }
    Ok(roots)
}

/// Reads 64 hex digits, with or without colons between the bytes.
fn fingerprint(hex: &str) -> Result<[u8; 32], TlsError> {
    let bad = || TlsError("a tls pin must be the certificate's SHA-256 as 64 hex digits".into());
    let digits: Vec<u32> =
        hex.chars().filter(|c| *c != ':').map(|c| c.to_digit(16)).collect::<Option<_>>().ok_or_else(bad)?;
    if digits.len() != 64 {
        return Err(bad());
    }
    let mut pin = [0; 32];
    for (byte, pair) in pin.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (pair[0] << 4 | pair[1]) as u8;
    }
    Ok(pin)
}

/// Accepts one certificate, or any when there is no pin. Proof of the private key is asked for in both cases.
#[derive(Debug)]
struct Fingerprint {
    pin: Option<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Fingerprint {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.pin {
            Some(pin) if Sha256::digest(leaf).as_slice() != pin => {
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_http_1_is_offered() {
        for policy in [TlsPolicy::Skip, TlsPolicy::Pin("ab".repeat(32))] {
            let config = client_config(&policy).unwrap();
            assert_eq!(config.alpn_protocols, [b"http/1.1".to_vec()]);
        }
    }

    #[test]
    fn fingerprints_are_hex_with_or_without_colons() {
        let plain = "00ff".repeat(16);
        let colons = ["00:FF"; 16].join(":");
        assert_eq!(fingerprint(&plain).unwrap()[..2], [0, 255]);
        assert_eq!(fingerprint(&colons).unwrap(), fingerprint(&plain).unwrap());
        for bad in ["", "00", &"0g".repeat(32), &"00".repeat(33)] {
            assert!(fingerprint(bad).is_err(), "{bad:?}");
        }
    }
}
