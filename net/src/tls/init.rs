//! Creates an authority, and certificates for nodes.
//!
//! Must always hold: existing files are never overwritten; a node's directory appears complete;
//! only their owner can read private keys.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::identity::NodeName;

/// Days for which a new authority is valid.
pub const AUTHORITY_DAYS: u32 = 3650;

/// Assumed maximum difference between the clocks of nodes.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// Why certificates were not created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// A file or directory cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// The node has a bundle already.
    #[error("{0} exists: move it away to make a new certificate for the node")]
    Exists(PathBuf),
    /// Only one of the two files of the authority exists.
    #[error(
        "{present} exists and {absent} does not: put both files of the authority there, or \
         neither"
    )]
    HalfAnAuthority {
        /// The existing file.
        present: PathBuf,
        /// The missing file.
        absent: PathBuf,
    },
    /// The authority's files cannot be used, or no certificate could be created.
    #[error("{path} cannot be used: {error}")]
    Certificate {
        /// The authority's certificate.
        path: PathBuf,
        /// The cause.
        #[source]
        error: rcgen::Error,
    },
}

/// Writes `ca.pem` and `ca-key.pem` into `directory`, unless they exist, and for each node a
/// directory with `ca.pem`, `cert.pem` and `key.pem`: all that the node needs. The certificates are
/// valid for `days`.
///
/// A later call with other nodes uses the existing authority. `ca-key.pem` is needed only here:
/// keep it away from the nodes.
///
/// # Errors
///
/// [`BundleError`]. No file of any node is written when one of them already has a bundle.
pub fn init_tls(directory: &Path, nodes: &[NodeName], days: u32) -> Result<(), BundleError> {
    for node in nodes {
        let path = directory.join(node.as_str());
        if path.exists() {
            return Err(BundleError::Exists(path));
        }
    }
    make_directory(directory)?;
    let certificate = directory.join("ca.pem");
    let unusable = |error| BundleError::Certificate { path: certificate.clone(), error };
    let (authority_pem, key_pem) = authority(directory, &certificate)?;
    let key = KeyPair::from_pem(&key_pem).map_err(unusable)?;
    let issuer = Issuer::from_ca_cert_pem(&authority_pem, key).map_err(unusable)?;
    for node in nodes {
        let key = KeyPair::generate().map_err(unusable)?;
        let mut params =
            CertificateParams::new(vec![node.as_str().to_owned()]).map_err(unusable)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node.as_str());
        set_validity(&mut params, days);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let signed = params.signed_by(&key, &issuer).map_err(unusable)?;
        write_bundle(directory, node, &authority_pem, &signed.pem(), &key.serialize_pem())?;
    }
    Ok(())
}

/// Reads the authority, or creates one.
fn authority(directory: &Path, certificate: &Path) -> Result<(String, String), BundleError> {
    let key = directory.join("ca-key.pem");
    let read = |path: &Path| fs::read_to_string(path).map_err(at(path));
    match (certificate.exists(), key.exists()) {
        (true, true) => return Ok((read(certificate)?, read(&key)?)),
        (false, false) => {}
        (true, false) => {
            let (present, absent) = (certificate.to_owned(), key);
            return Err(BundleError::HalfAnAuthority { present, absent });
        }
        // The certificate is written last: a key without it was never used.
        (false, true) => fs::remove_file(&key).map_err(at(&key))?,
    }
    let unusable = |error| BundleError::Certificate { path: certificate.to_owned(), error };
    let pair = KeyPair::generate().map_err(unusable)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(unusable)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "forebay cluster");
    set_validity(&mut params, AUTHORITY_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pem = params.self_signed(&pair).map_err(unusable)?.pem();
    let key_pem = pair.serialize_pem();
    write(&key, &key_pem, 0o600)?;
    write(certificate, &pem, 0o644)?;
    sync(directory)?;
    Ok((pem, key_pem))
}

fn set_validity(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + Duration::from_secs(u64::from(days) * 24 * 60 * 60)).into();
}

fn write_bundle(
    directory: &Path,
    node: &NodeName,
    authority: &str,
    certificate: &str,
    key: &str,
) -> Result<(), BundleError> {
    let (path, partial) =
        (directory.join(node.as_str()), directory.join(format!("{node}.partial")));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(at(&partial))?;
    }
    make_directory(&partial)?;
    write(&partial.join("ca.pem"), authority, 0o644)?;
    write(&partial.join("cert.pem"), certificate, 0o644)?;
    write(&partial.join("key.pem"), key, 0o600)?;
    sync(&partial)?;
    fs::rename(&partial, &path).map_err(at(&path))?;
    sync(directory)
}

fn make_directory(path: &Path) -> Result<(), BundleError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), BundleError> {
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(mode).open(path);
    let written = opened.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(at(path))
}

fn sync(directory: &Path) -> Result<(), BundleError> {
    fs::File::open(directory).and_then(|file| file.sync_all()).map_err(at(directory))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BundleError {
    let path = path.to_owned();
    |error| BundleError::File { path, error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(names: &[&str]) -> Vec<NodeName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn keys_are_private_and_nothing_is_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("tls");
        init_tls(&root, &names(&["a"]), 365).unwrap();
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode("ca-key.pem"), mode("a/key.pem"), mode("a")], [0o600, 0o600, 0o700]);
        let authority = fs::read(root.join("ca.pem")).unwrap();

        let again = init_tls(&root, &names(&["b", "a"]), 365).unwrap_err();
        assert!(matches!(again, BundleError::Exists(path) if path == root.join("a")));
        assert!(!root.join("b").exists(), "nothing is done when one of them is refused");

        init_tls(&root, &names(&["b"]), 365).unwrap();
        assert_eq!(fs::read(root.join("b/ca.pem")).unwrap(), authority, "the same authority");
    }

    #[test]
    fn half_an_authority_is_refused_and_an_interrupted_call_is_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("ca-key.pem"), "of a call that was interrupted").unwrap();
        fs::create_dir(root.join("a.partial")).unwrap();
        init_tls(root, &names(&["a"]), 365).unwrap();
        fs::remove_file(root.join("ca-key.pem")).unwrap();
        let half = init_tls(root, &names(&["b"]), 365).unwrap_err();
        assert!(matches!(half, BundleError::HalfAnAuthority { .. }), "{half}");
    }
}
