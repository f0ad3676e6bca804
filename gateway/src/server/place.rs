//! The place where the gateway runs: its data directory and its addresses, looked at before anything starts, so that what is
//! wrong is said in one line and not by a panic in a service half a minute later.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Nobody else may read digests of keys, or take the listeners over.
const MODE: u32 = 0o700;
/// A socket's path has 107 bytes at most; the rest is a reserve.
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// Makes the data directory where it is missing and answers with its full path.
pub(super) fn prepare_data_dir(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let shown = data_dir.display();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(MODE)
        .create(data_dir)
        .with_context(|| format!("node.data_dir: {shown} cannot be made"))?;
    let mode = std::fs::metadata(data_dir).with_context(|| format!("node.data_dir: {shown}"))?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(data_dir, std::fs::Permissions::from_mode(MODE))
            .with_context(|| format!("node.data_dir: {shown} is open to others and cannot be closed"))?;
    }
    data_dir.canonicalize().with_context(|| format!("node.data_dir: {shown}"))
}

/// Where the listeners are handed over in an upgrade.
pub(super) fn upgrade_socket(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join("upgrade.sock").display().to_string();
    if path.len() > SOCKET_PATH_BYTES_MAX {
        bail!("node.data_dir: the path is too long for a socket in it ({} bytes)", path.len());
    }
    Ok(path)
}

/// Says which address is taken. There is a moment between this and the real thing; it is for mistakes, not for races.
pub(super) fn check_addresses(addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let bind = |address| TcpListener::bind(address).with_context(|| format!("{address} cannot be listened on"));
    // All held at once: two of them may not be had together.
    let _held = addresses.iter().map(bind).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(())
}

/// Says it if the file of authorities cannot be used; the framework would panic.
pub(super) fn check_authorities(file: &Path) -> anyhow::Result<()> {
    let shown = || format!("upstream.ca_file: {}", file.display());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).with_context(shown)? {
        roots.add(certificate.with_context(shown)?).with_context(shown)?;
    }
    if roots.is_empty() {
        bail!("{} holds no certificate", shown());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_directory_is_made_and_closed_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let open = directory.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
        for path in [open, directory.path().join("a/b")] {
            let made = prepare_data_dir(&path).unwrap();
            assert_eq!(std::fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn an_address_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = check_addresses(&[address]).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        assert!(upgrade_socket(Path::new("/data")).is_ok());
        assert!(upgrade_socket(&Path::new("/data").join("x".repeat(100))).is_err());
    }
}
