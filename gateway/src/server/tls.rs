//! The certificate of the TLS listener: read, checked, and read again when its files change. A pair that does not fit
//! together never takes the place of one that works.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::listeners::TlsAccept;
use pingora_core::listeners::tls::TlsSettings;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use crate::settings::Https;

/// How often the files are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateFault {
    #[error("{file}: {reason}")]
    File { file: String, reason: String },
    #[error("the certificate and its key do not fit together: {0}")]
    Pair(rustls::Error),
}

/// One pair for every name: a gateway behind custom hosts carries them all in one certificate.
#[derive(Debug)]
pub(super) struct Certificate {
    current: ArcSwap<CertifiedKey>,
}

impl Certificate {
    pub(super) fn read(https: &Https) -> Result<Certificate, CertificateFault> {
        load(https).map(|key| Certificate { current: ArcSwap::from_pointee(key) })
    }

    /// Looks at the files until told to stop.
    pub(super) async fn keep_fresh(self: Arc<Self>, https: Https, mut stop: watch::Receiver<bool>) {
        let mut seen = stamps(&https);
        loop {
            tokio::select! {
                () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
            let now = stamps(&https);
            if now == seen {
                continue;
            }
            match load(&https) {
                Ok(key) => {
                    self.current.store(Arc::new(key));
                    seen = now;
                    tracing::info!("a new certificate is in use");
                }
                // One of two files may be written already: look again at the next round.
                Err(fault) => tracing::error!(%fault, "the changed certificate is not taken; the old one stays in use"),
            }
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// No callback has anything to do; the constructor without paths asks for one.
struct NoCallback;

#[async_trait]
impl TlsAccept for NoCallback {}

/// HTTP/2 and HTTP/1.1 over TLS 1.2 and 1.3.
pub(super) fn listener(certificate: Arc<Certificate>) -> anyhow::Result<TlsSettings> {
    let mut settings = TlsSettings::with_callbacks(Box::new(NoCallback))
        .map_err(|error| anyhow::anyhow!("the TLS listener cannot be set up: {error}"))?;
    settings.set_cert_resolver(certificate);
    settings.enable_h2();
    Ok(settings)
}

fn load(https: &Https) -> Result<CertifiedKey, CertificateFault> {
    let fault = |path: &Path, reason: String| CertificateFault::File { file: path.display().to_string(), reason };
    let chain_fault = |error: rustls::pki_types::pem::Error| fault(&https.certificate_file, error.to_string());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&https.certificate_file)
        .map_err(chain_fault)?
        .collect::<Result<_, _>>()
        .map_err(chain_fault)?;
    if chain.is_empty() {
        return Err(fault(&https.certificate_file, "holds no certificate".to_owned()));
    }
    let key =
        PrivateKeyDer::from_pem_file(&https.key_file).map_err(|error| fault(&https.key_file, error.to_string()))?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(CertificateFault::Pair)
}

fn stamps(https: &Https) -> [Option<SystemTime>; 2] {
    [&https.certificate_file, &https.key_file].map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok())
}
