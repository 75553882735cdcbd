//! The library's cryptography, from the crates that the rest of the program uses: ring for hashes and authenticated
//! encryption, `aes` for the counter mode that ring does not offer, rcgen for the certificate. DTLS itself is `dimpl`'s.
//!
//! The library's own bundles bring a second TLS library each, which is why this one exists; see decision 0007.

use std::sync::Arc;
use std::time::Instant;

use aes::cipher::{BlockEncrypt, KeyInit, KeyIvInit, StreamCipher};
use aes::{Aes128, Aes256};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use str0m::RtcError;
use str0m::crypto::dtls::{
    DtlsCert, DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, DtlsVersion, ProtocolVersion,
};
use str0m::crypto::{
    AeadAes128GcmCipher, AeadAes256GcmCipher, Aes128CmSha1_80Cipher, CryptoError, CryptoProvider, Sha1HmacProvider,
    Sha256Provider, SrtpProvider, SupportedAeadAes128Gcm, SupportedAeadAes256Gcm, SupportedAes128CmSha1_80,
};

/// What the library is given at start.
pub fn provider() -> CryptoProvider {
    CryptoProvider { srtp_provider: &Srtp, sha1_hmac_provider: &Hashes, sha256_provider: &Hashes, dtls_provider: &Dtls }
}

/// HMAC-SHA1 of `payloads` one after the other: what STUN and the passwords of TURN servers are made with.
pub(super) fn hmac_sha1(key: &[u8], payloads: &[&[u8]]) -> [u8; 20] {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    let mut context = ring::hmac::Context::with_key(&key);
    payloads.iter().for_each(|payload| context.update(payload));
    let mut code = [0; 20];
    code.copy_from_slice(context.sign().as_ref());
    code
}

/// Why a connection came to its end, for people.
pub(super) fn told(error: &RtcError) -> String {
    let (found, none) = (error.to_string(), dimpl::CertificateError::NoClientCertificateReceived.to_string());
    // The library hands on the text of this error and nothing else.
    let hint = match found.contains(&none) {
        true => "; only certificates with an ECDSA key are taken, and GStreamer makes one with an RSA key",
        false => "",
    };
    format!("the connection failed: {found}{hint}")
}

#[derive(Debug)]
struct Hashes;

impl Sha1HmacProvider for Hashes {
    fn sha1_hmac(&self, key: &[u8], payloads: &[&[u8]]) -> [u8; 20] {
        hmac_sha1(key, payloads)
    }
}

impl Sha256Provider for Hashes {
    fn sha256(&self, data: &[u8]) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, data).as_ref());
        hash
    }
}

fn failed(what: &str) -> CryptoError {
    CryptoError::Other(what.to_owned())
}

#[derive(Debug)]
struct Srtp;

impl SrtpProvider for Srtp {
    fn aes_128_cm_sha1_80(&self) -> &'static dyn SupportedAes128CmSha1_80 {
        &Srtp
    }

    fn aead_aes_128_gcm(&self) -> &'static dyn SupportedAeadAes128Gcm {
        &Srtp
    }

    fn aead_aes_256_gcm(&self) -> &'static dyn SupportedAeadAes256Gcm {
        &Srtp
    }

    // Called with keys of the length that the name says; of the two blocks only the first is used.
    fn srtp_aes_128_ecb_round(&self, key: &[u8], input: &[u8], output: &mut [u8]) {
        if let Ok(cipher) = Aes128::new_from_slice(key) {
            rounds(&cipher, input, output);
        }
    }

    fn srtp_aes_256_ecb_round(&self, key: &[u8], input: &[u8], output: &mut [u8]) {
        if let Ok(cipher) = Aes256::new_from_slice(key) {
            rounds(&cipher, input, output);
        }
    }
}

/// Encrypts `input` and, behind it, the padding block that other libraries append.
fn rounds<C: BlockEncrypt>(cipher: &C, input: &[u8], output: &mut [u8]) {
    let padding = [16u8; 16];
    for (block, from) in output.chunks_exact_mut(16).zip([input, &padding]) {
        block.copy_from_slice(&from[..16]);
        cipher.encrypt_block(block.into());
    }
}

impl SupportedAes128CmSha1_80 for Srtp {
    fn create_cipher(&self, key: [u8; 16], _encrypt: bool) -> Box<dyn Aes128CmSha1_80Cipher> {
        Box::new(Counter(key))
    }
}

impl SupportedAeadAes128Gcm for Srtp {
    fn create_cipher(&self, key: [u8; 16], _encrypt: bool) -> Box<dyn AeadAes128GcmCipher> {
        Box::new(Gcm(UnboundKey::new(&AES_128_GCM, &key).ok().map(LessSafeKey::new)))
    }
}

impl SupportedAeadAes256Gcm for Srtp {
    fn create_cipher(&self, key: [u8; 32], _encrypt: bool) -> Box<dyn AeadAes256GcmCipher> {
        Box::new(Gcm(UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)))
    }
}

/// AES-128 in counter mode.
struct Counter([u8; 16]);

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counter")
    }
}

impl Aes128CmSha1_80Cipher for Counter {
    fn encrypt(&mut self, iv: &[u8; 16], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        let output = output.get_mut(..input.len()).ok_or_else(|| failed("the output is too short"))?;
        ctr::Ctr128BE::<Aes128>::new(&self.0.into(), iv.into())
            .apply_keystream_b2b(input, output)
            .map_err(|_| failed("the counter mode has come to its end"))
    }

    fn decrypt(&mut self, iv: &[u8; 16], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        self.encrypt(iv, input, output)
    }
}

/// AES in Galois counter mode. A key is always there: the lengths are right by type.
struct Gcm(Option<LessSafeKey>);

impl std::fmt::Debug for Gcm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gcm")
    }
}

/// Bytes of the tag behind a text.
const TAG: usize = 16;

impl Gcm {
    fn key(&self) -> Result<&LessSafeKey, CryptoError> {
        self.0.as_ref().ok_or_else(|| failed("the key has the wrong length"))
    }

    fn seal(&self, iv: &[u8; 12], aad: &[u8], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        let (text, rest) = output.split_at_mut_checked(input.len()).ok_or_else(|| failed("the output is too short"))?;
        text.copy_from_slice(input);
        let tag = self
            .key()?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(*iv), Aad::from(aad), text)
            .map_err(|_| failed("a packet could not be encrypted"))?;
        rest.get_mut(..TAG).ok_or_else(|| failed("the output is too short"))?.copy_from_slice(tag.as_ref());
        Ok(())
    }

    fn open(&self, iv: &[u8; 12], aads: &[&[u8]], input: &[u8], output: &mut [u8]) -> Result<usize, CryptoError> {
        let joined;
        let aad = match aads {
            [one] => one,
            many => {
                joined = many.concat();
                &joined[..]
            }
        };
        // In place needs room for the tag as well.
        let mut text = input.to_vec();
        let plain = self
            .key()?
            .open_in_place(Nonce::assume_unique_for_key(*iv), Aad::from(aad), &mut text)
            .map_err(|_| failed("a packet is not genuine"))?;
        let output = output.get_mut(..plain.len()).ok_or_else(|| failed("the output is too short"))?;
        output.copy_from_slice(plain);
        Ok(output.len())
    }
}

impl AeadAes128GcmCipher for Gcm {
    fn encrypt(&mut self, iv: &[u8; 12], aad: &[u8], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        self.seal(iv, aad, input, output)
    }

    fn decrypt(&mut self, iv: &[u8; 12], aads: &[&[u8]], input: &[u8], out: &mut [u8]) -> Result<usize, CryptoError> {
        self.open(iv, aads, input, out)
    }
}

impl AeadAes256GcmCipher for Gcm {
    fn encrypt(&mut self, iv: &[u8; 12], aad: &[u8], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        self.seal(iv, aad, input, output)
    }

    fn decrypt(&mut self, iv: &[u8; 12], aads: &[&[u8]], input: &[u8], out: &mut [u8]) -> Result<usize, CryptoError> {
        self.open(iv, aads, input, out)
    }
}

#[derive(Debug)]
struct Dtls;

impl DtlsProvider for Dtls {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        let key = rcgen::KeyPair::generate().ok()?;
        let mut params = rcgen::CertificateParams::new(Vec::new()).ok()?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "weir");
        let certificate = params.self_signed(&key).ok()?;
        Some(DtlsCert { certificate: certificate.der().to_vec(), private_key: key.serialize_der() })
    }

    fn new_dtls(
        &self,
        cert: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        // ICE has shown already that the peer is where it says, so no cookie is needed.
        let mut config = dimpl::Config::builder().use_server_cookie(false);
        if let Some(mtu) = mtu {
            config = config.mtu(mtu);
        }
        let config = Arc::new(config.build().map_err(|error| CryptoError::Other(error.to_string()))?);
        let cert = cert.clone();
        let dtls = match version {
            DtlsVersion::Dtls12 => dimpl::Dtls::new_12(config, cert, now),
            DtlsVersion::Dtls13 => dimpl::Dtls::new_13(config, cert, now),
            _ => dimpl::Dtls::new_auto(config, cert, now),
        };
        Ok(Box::new(Instance(dtls)))
    }
}

struct Instance(dimpl::Dtls);

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dtls")
    }
}

impl DtlsInstance for Instance {
    fn set_active(&mut self, active: bool) {
        self.0.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.0.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        self.0.poll_output(buf)
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.0.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<(), DtlsImplError> {
        self.0.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.0.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.0.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.0.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.0.close()
    }
}

#[cfg(test)]
mod tests {
    use str0m::error::DtlsError;

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |c: u8| (c as char).to_digit(16).expect("hex") as u8;
        hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    /// RFC 2202, case 2; RFC 3711, appendix B.3 (the first block of the key stream of key derivation).
    #[test]
    fn published_values() {
        assert_eq!(
            hmac_sha1(b"Jefe", &[b"what do ya want ", b"for nothing?"])[..],
            bytes("effcdf6ae5eb2fa2d27416d5f184df9c259a7c79")
        );
        let (key, input) = (bytes("E1F97A0D3E018BE0D64FA32C06DE4139"), bytes("0EC675AD498AFEEBB6960B3AABE60000"));
        let mut output = [0; 32];
        Srtp.srtp_aes_128_ecb_round(&key, &input, &mut output);
        assert_eq!(output[..16], bytes("C61E7A93744F39EE10734AFE3FF7A087"));
        // The same by counter mode over zeros.
        let mut counter = Counter(key.try_into().expect("16 bytes"));
        let mut stream = [0; 16];
        counter.encrypt(&input.try_into().expect("16 bytes"), &[0; 16], &mut stream).expect("encrypts");
        assert_eq!(stream[..], output[..16]);
    }

    #[test]
    fn what_is_sealed_opens_and_nothing_else_does() {
        let mut cipher = SupportedAeadAes128Gcm::create_cipher(&Srtp, [7; 16], true);
        let mut sealed = [0; 5 + TAG];
        cipher.encrypt(&[1; 12], b"header-header", b"media", &mut sealed).expect("seals");
        let mut plain = [0; 5];
        assert_eq!(cipher.decrypt(&[1; 12], &[b"header-", b"header"], &sealed, &mut plain).expect("opens"), 5);
        assert_eq!(&plain, b"media");
        sealed[0] ^= 1;
        assert!(cipher.decrypt(&[1; 12], &[b"header-header"], &sealed, &mut plain).is_err());
    }

    #[test]
    fn a_peer_without_a_certificate_that_we_take_is_told_of_by_its_kind() {
        let failed = |error: dimpl::Error| {
            told(&RtcError::Dtls(DtlsError::CryptoError(CryptoError::Other(format!("DTLS error: {error}")))))
        };
        let none = dimpl::Error::CertificateError(dimpl::CertificateError::NoClientCertificateReceived);
        assert!(failed(none).contains("ECDSA"));
        let other = failed(dimpl::Error::CertificateError(dimpl::CertificateError::ParseFailed));
        assert!(other.starts_with("the connection failed: ") && !other.contains("ECDSA"), "{other}");
    }

    #[test]
    fn every_process_has_its_own_certificate() {
        let (one, other) = (Dtls.generate_certificate().expect("one"), Dtls.generate_certificate().expect("other"));
        assert_ne!(one.certificate, other.certificate);
    }
}
