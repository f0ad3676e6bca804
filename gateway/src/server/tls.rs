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
            self.look_again(&https, &mut seen);
        }
    }

    /// Takes a changed pair into use, if it is good.
    fn look_again(&self, https: &Https, seen: &mut Stamps) {
        let now = stamps(https);
        if now == *seen {
            return;
        }
        match load(https) {
            Ok(key) => {
                self.current.store(Arc::new(key));
                *seen = now;
                tracing::info!("a new certificate is in use");
            }
            // One of the two files may be new already and the other not yet: the next round looks again.
            Err(fault) => tracing::error!(%fault, "the changed certificate is not taken; the old one stays in use"),
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

/// When the two files were last written.
type Stamps = [Option<SystemTime>; 2];

fn stamps(https: &Https) -> Stamps {
    [&https.certificate_file, &https.key_file].map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a new pair; the files' times are told apart even where the disk's clock is coarse.
    fn write_pair(https: &Https, age_s: u64) {
        let pair = rcgen::generate_simple_self_signed(vec!["gw.test".to_owned()]).unwrap();
        for (path, text) in
            [(&https.certificate_file, pair.cert.pem()), (&https.key_file, pair.signing_key.serialize_pem())]
        {
            std::fs::write(path, text).unwrap();
            let time = SystemTime::now() - Duration::from_secs(age_s);
            std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }
    }

    fn https(directory: &Path) -> Https {
        Https {
            address: "127.0.0.1:0".parse().unwrap(),
            certificate_file: directory.join("cert.pem"),
            key_file: directory.join("key.pem"),
        }
    }

    fn leaf(certificate: &Certificate) -> CertificateDer<'static> {
        certificate.current.load().cert[0].clone()
    }

    #[test]
    fn a_changed_pair_is_taken_and_one_that_does_not_fit_together_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let https = https(directory.path());
        write_pair(&https, 100);
        let certificate = Certificate::read(&https).unwrap();
        let (first, mut seen) = (leaf(&certificate), stamps(&https));

        let old_key = std::fs::read(&https.key_file).unwrap();
        write_pair(&https, 50);
        let new_key = std::fs::read(&https.key_file).unwrap();
        std::fs::write(&https.key_file, old_key).unwrap();
        certificate.look_again(&https, &mut seen);
        assert_eq!(leaf(&certificate), first, "a half-written change must wait");

        std::fs::write(&https.key_file, new_key).unwrap();
        certificate.look_again(&https, &mut seen);
        assert_ne!(leaf(&certificate), first);
    }

    #[test]
    fn what_is_no_pair_is_refused_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let https = https(directory.path());
        assert!(Certificate::read(&https).unwrap_err().to_string().contains("cert.pem"));
        write_pair(&https, 0);
        std::fs::write(&https.key_file, "no key").unwrap();
        assert!(Certificate::read(&https).unwrap_err().to_string().contains("key.pem"));
    }
}
