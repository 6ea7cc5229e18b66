//! Mutual TLS: the certificate of a node carries its name, and both sides verify it.
//!
//! Must always hold: unusable files change nothing; no session is resumed, so that a change of the
//! authority applies to every new connection; only TLS 1.3 is spoken.

mod init;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};

pub use init::{AUTHORITY_DAYS, BundleError, init_tls};

use x509_parser::extensions::GeneralName;

use crate::identity::NodeName;

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// The files of a node's certificate, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the trusted authorities. While an authority is being replaced, this file
    /// contains the old and the new one.
    pub authority: PathBuf,
    /// The node's certificate, followed by intermediate ones.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// The files that [`init_tls`] writes into a node's directory.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            authority: directory.join("ca.pem"),
            certificate: directory.join("cert.pem"),
            key: directory.join("key.pem"),
        }
    }

    /// The first name in the certificate that a node can have.
    ///
    /// # Errors
    ///
    /// [`TlsError`] when the file cannot be read, or there is none.
    pub fn name(&self) -> Result<NodeName, TlsError> {
        let path = &self.certificate;
        let bytes = std::fs::read(path)
            .map_err(|error| TlsError::File { path: path.clone(), error: error.to_string() })?;
        let chain = certificates(path, &bytes)?;
        let names = chain.first().map(|own| names(own)).unwrap_or_default();
        names.into_iter().next().ok_or_else(|| unusable(path, &"it contains no name of a node"))
    }
}

/// Why certificate files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: String,
    },
    /// The certificate is for another name.
    #[error("{path} is not a certificate for the node {name}: give the node its own certificate")]
    OtherName {
        /// The file.
        path: PathBuf,
        /// The node's name.
        name: NodeName,
    },
    /// It is of no authority in the file of authorities.
    #[error("{path} was not issued by an authority in {authority}: use files of one bundle")]
    OtherAuthority {
        /// The certificate.
        path: PathBuf,
        /// The authorities.
        authority: PathBuf,
    },
    /// It has expired, or is not valid yet.
    #[error("{path} is not valid at this time: renew it, or correct the clock ({error})")]
    Time {
        /// The certificate.
        path: PathBuf,
        /// The exact reason.
        error: String,
    },
    /// Anything else.
    #[error("{path} cannot be used: {error}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: String,
    },
}

/// How long a node's certificate is still valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateStatus {
    /// Seconds since 1970 at which the certificate, or its authority, ends: the earlier.
    pub ends_at: i64,
    /// Whole days until then; negative afterwards.
    pub days_left: i64,
    /// Why the current files are not used; the ones read before stay in use.
    pub reload_error: Option<String>,
}

pub(crate) struct Configs {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    ends_at: i64,
    fingerprint: u64,
}

/// The certificates in use, and their files.
pub(crate) struct Certificates {
    files: TlsFiles,
    name: NodeName,
    current: RwLock<Arc<Configs>>,
    reload_error: Mutex<Option<String>>,
}

impl Certificates {
    pub(crate) fn load(files: TlsFiles, name: NodeName) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(load(&files, &name)?));
        Ok(Self { files, name, current, reload_error: Mutex::default() })
    }

    pub(crate) fn current(&self) -> Arc<Configs> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again. Returns whether they changed.
    pub(crate) fn reload(&self) -> Result<bool, TlsError> {
        let loaded = load(&self.files, &self.name);
        let mut error = self.reload_error.lock().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Ok(configs) => {
                *error = None;
                let is_new = configs.fingerprint != self.current().fingerprint;
                if is_new {
                    let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                    *current = Arc::new(configs);
                    tracing::info!(node = %self.name, "the certificates were reloaded");
                }
                Ok(is_new)
            }
            Err(reason) => {
                let text = reason.to_string();
                if error.as_ref() != Some(&text) {
                    tracing::warn!(node = %self.name, "cannot reload the certificates: {text}");
                }
                *error = Some(text);
                Err(reason)
            }
        }
    }

    pub(crate) fn status(&self) -> CertificateStatus {
        let ends_at = self.current().ends_at;
        let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        let reload_error = self.reload_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let days_left = ends_at.saturating_sub(now).div_euclid(DAY_SECONDS);
        CertificateStatus { ends_at, days_left, reload_error }
    }
}

/// The name of a node as certificates carry it.
pub(crate) fn server_name(name: &NodeName) -> ServerName<'static> {
    ServerName::try_from(name.as_str().to_owned()).expect("a node name is a DNS label")
}

/// Whether a certificate carries a node's name.
pub(crate) fn is_for(certificate: &CertificateDer<'_>, name: &NodeName) -> bool {
    ParsedCertificate::try_from(certificate)
        .and_then(|certificate| verify_server_name(&certificate, &server_name(name)))
        .is_ok()
}

fn load(files: &TlsFiles, name: &NodeName) -> Result<Configs, TlsError> {
    let mut hasher = DefaultHasher::new();
    let mut read = |path: &PathBuf| {
        let bytes = std::fs::read(path)
            .map_err(|error| TlsError::File { path: path.clone(), error: error.to_string() })?;
        bytes.hash(&mut hasher);
        Ok(bytes)
    };
    let authorities = certificates(&files.authority, &read(&files.authority)?)?;
    let chain = certificates(&files.certificate, &read(&files.certificate)?)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|error| unusable(&files.key, &error))?;
    let fingerprint = hasher.finish();

    let ends = chain.first().into_iter().chain(&authorities).map(|one| ends_at(one));
    let ends_at = ends.min().flatten();
    let ends_at = ends_at.ok_or_else(|| unusable(&files.certificate, &"not a certificate"))?;

    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| unusable(&files.authority, &error))?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(ring::default_provider());
    check_own(files, name, &chain, &roots, &provider)?;

    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(&files.authority, &error))?;
    let versions = &[&rustls::version::TLS13];
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| unusable(&files.certificate, &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(|error| unusable(&files.key, &error))?;
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| unusable(&files.certificate, &error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| unusable(&files.key, &error))?;
    client.resumption = Resumption::disabled();
    Ok(Configs { client: Arc::new(client), server: Arc::new(server), ends_at, fingerprint })
}

/// A mistake in a node's own files is an error at that node, not at its peers.
fn check_own(
    files: &TlsFiles,
    name: &NodeName,
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<(), TlsError> {
    let path = files.certificate.clone();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
            .build()
            .map_err(|error| unusable(&files.authority, &error))?;
    let Some((own, intermediates)) = chain.split_first() else {
        return Err(unusable(&path, &"it contains no certificate"));
    };
    let verified =
        verifier.verify_server_cert(own, intermediates, &server_name(name), &[], UnixTime::now());
    let Err(error) = verified else { return Ok(()) };
    Err(match &error {
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsError::OtherName { path, name: name.clone() }
            }
            // Also the error for a certificate of another authority of the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                TlsError::OtherAuthority { path, authority: files.authority.clone() }
            }
            _ if is_about_time(reason) => TlsError::Time { path, error: error.to_string() },
            _ => unusable(&path, &error),
        },
        _ => unusable(&path, &error),
    })
}

pub(crate) fn is_about_time(reason: &CertificateError) -> bool {
    matches!(
        reason,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::Unusable { path: path.to_owned(), error: error.to_string() }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|error| unusable(path, &error))?;
    if read.is_empty() { Err(unusable(path, &"it contains no certificate")) } else { Ok(read) }
}

fn names(certificate: &CertificateDer<'_>) -> Vec<NodeName> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let Ok(Some(alternatives)) = parsed.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => name.parse().ok(),
        _ => None,
    };
    alternatives.value.general_names.iter().filter_map(name).collect()
}

fn ends_at(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn bundles(nodes: &[&str], days: u32) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let nodes: Vec<_> = nodes.iter().map(|node| name(node)).collect();
        init_tls(directory.path(), &nodes, days).unwrap();
        directory
    }

    fn files(directory: &tempfile::TempDir, node: &str) -> TlsFiles {
        TlsFiles::in_directory(&directory.path().join(node))
    }

    #[test]
    fn a_bundle_is_valid_for_its_node_and_its_days() {
        let directory = bundles(&["n1", "n2"], 100);
        let certificates = Certificates::load(files(&directory, "n1"), name("n1")).unwrap();
        let status = certificates.status();
        assert!((99..=100).contains(&status.days_left), "{status:?}");
        assert_eq!(status.reload_error, None);
        assert_eq!(files(&directory, "n2").name().unwrap(), name("n2"));
        assert!(!certificates.reload().unwrap());
    }

    #[test]
    fn mistakes_in_a_nodes_own_files_have_errors_of_their_own() {
        let (directory, other) = (bundles(&["n1", "n2"], 100), bundles(&["n1"], 100));
        let load = |files, node| Certificates::load(files, name(node)).map(drop).unwrap_err();
        let (n1, foreign) = (files(&directory, "n1"), files(&other, "n1"));
        assert!(matches!(load(n1.clone(), "n2"), TlsError::OtherName { .. }));
        let mixed = TlsFiles { authority: foreign.authority.clone(), ..n1.clone() };
        assert!(matches!(load(mixed, "n1"), TlsError::OtherAuthority { .. }));
        let mixed = TlsFiles { key: foreign.key.clone(), ..n1.clone() };
        assert!(matches!(load(mixed, "n1"), TlsError::Unusable { .. }));
        let absent = TlsFiles { key: "/nowhere/key.pem".into(), ..n1.clone() };
        assert!(matches!(load(absent, "n1"), TlsError::File { .. }));
        std::fs::write(&n1.certificate, "no pem").unwrap();
        assert!(matches!(load(n1, "n1"), TlsError::Unusable { .. }));
        let expired = bundles(&["n1"], 0);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(matches!(load(files(&expired, "n1"), "n1"), TlsError::Time { .. }));
    }

    #[test]
    fn files_are_read_again_and_bad_ones_change_nothing() {
        let (directory, later) = (bundles(&["n1"], 10), bundles(&["n1"], 300));
        let (used, new) = (files(&directory, "n1"), files(&later, "n1"));
        let certificates = Certificates::load(used.clone(), name("n1")).unwrap();
        std::fs::copy(&new.certificate, &used.certificate).unwrap();
        certificates.reload().unwrap_err();
        let status = certificates.status();
        assert!(status.reload_error.is_some(), "half of the files are new");
        assert!(status.days_left <= 10);
        std::fs::copy(&new.authority, &used.authority).unwrap();
        std::fs::copy(&new.key, &used.key).unwrap();
        assert!(certificates.reload().unwrap());
        let status = certificates.status();
        assert_eq!(status.reload_error, None);
        assert!(status.days_left > 290);
    }
}
