//! Certificates.

use super::*;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use weir::trickle::{Begin, Publisher, Start, Subscriber, TlsPolicy};

/// A trickle server behind a self-signed certificate that offers HTTP/2 as well, as orchestrators do.
struct Secure {
    url: String,
    fingerprint: String,
    task: JoinHandle<()>,
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn secure() -> Secure {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let fingerprint = Sha256::digest(made.cert.der()).iter().map(|byte| format!("{byte:02x}")).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/secure", listener.local_addr().unwrap().port());
    let server = Server::new(ServerConfig::default());
    server.create("secure", "video/MP2T");
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            connections.spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
                    server.serve_connection(stream).await;
                }
            });
        }
    });
    Secure { url, fingerprint, task }
}

fn with(tls: TlsPolicy) -> Client {
    Client::new(&Config { tls, ..quick() }).unwrap()
}

#[tokio::test]
async fn self_signed_certificates_are_taken_when_skipped_or_pinned() {
    let secure = secure().await;
    for (seq, tls) in [TlsPolicy::Skip, TlsPolicy::Pin(secure.fingerprint.clone())].into_iter().enumerate() {
        let client = with(tls);
        let begin = if seq == 0 { Begin::Zero } else { Begin::Resume };
        let mut publisher = Publisher::open(&client, &secure.url, "video/mp2t", begin).await.unwrap();
        let mut subscriber = Subscriber::new(&client, &secure.url, Start::Seq(seq as u64)).unwrap();
        assert_eq!(soon(publisher.send_document(bytes("hidden"))).await.unwrap(), seq as u64);
        let segment = soon(subscriber.next()).await.unwrap().unwrap();
        assert_eq!(whole(segment).await.unwrap(), "hidden");
        soon(publisher.close(false)).await.unwrap();
    }
}

#[tokio::test]
async fn other_certificates_are_refused_at_once() {
    let secure = secure().await;
    let mut policies = vec![TlsPolicy::Pin("00".repeat(32))];
    // Needs root certificates on the machine.
    policies.extend(Client::new(&Config { tls: TlsPolicy::Verify, ..quick() }).is_ok().then_some(TlsPolicy::Verify));
    for policy in policies {
        let client = with(policy);
        let refused = |error: TrickleError| {
            let text = error.to_string();
            assert!(matches!(error, TrickleError::Certificate { .. }), "{error:?}");
            assert!(text.contains("certificate of localhost") && !text.contains("secure"), "{text}");
        };
        let mut subscriber = Subscriber::new(&client, &secure.url, Start::Next).unwrap();
        refused(soon(subscriber.next()).await.err().unwrap());
        assert!(soon(subscriber.next()).await.unwrap().is_none(), "and the channel has ended");
        let mut publisher = Publisher::open(&client, &secure.url, "video/mp2t", Begin::Zero).await.unwrap();
        refused(soon(publisher.send_document(bytes("hidden"))).await.unwrap_err());
        assert_eq!((subscriber.stats().retries, publisher.stats().retries), (0, 0));
        refused(client.next(&secure.url).await.unwrap_err());
    }
}
