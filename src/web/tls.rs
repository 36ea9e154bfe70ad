//! PEM files -> native-tls acceptor, with the checks that native-tls leaves out.

use std::path::Path;

use anyhow::{Context, bail};
use native_tls::{Identity, Protocol, TlsAcceptor};
use openssl::asn1::Asn1Time;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;

use crate::config::settings::TlsFiles;
use crate::handoff::TlsPem;

/// Makes an acceptor of the files, or of what was read from them before: for TLS 1.2 and newer, with HTTP/2 by ALPN.
/// Errs when a file cannot be read or used, or when key and certificate do not belong together. A certificate that has
/// expired, or is not valid yet, is a warning: clients that do not check it are still served.
pub fn acceptor(files: &TlsFiles, pem: Option<&TlsPem>) -> anyhow::Result<tokio_native_tls::TlsAcceptor> {
    let chain = pem.map_or_else(|| read(&files.certificate, "certfile"), |pem| Ok(pem.certificate.clone()))?;
    let key = pem.map_or_else(|| read(&files.key, "keyfile"), |pem| Ok(pem.key.clone()))?;
    let certificates = X509::stack_from_pem(&chain)
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .with_context(|| format!("[SSL] certfile {} holds no PEM certificate", files.certificate.display()))?;
    let key = private_key(&key, &files.key)?;
    let leaf = &certificates[0];
    let is_pair = leaf.public_key().is_ok_and(|public| public.public_eq(&key));
    if !is_pair {
        bail!(
            "[SSL] keyfile {} is not the key of the certificate in {}",
            files.key.display(),
            files.certificate.display()
        );
    }
    if let Some(doubt) = doubtful_dates(leaf, &files.certificate) {
        log::warn!("{doubt}");
    }
    let key = key.private_key_to_pem_pkcs8().context("the key cannot be converted to PKCS#8")?;
    let identity = Identity::from_pkcs8(&chain, &key)
        .with_context(|| format!("[SSL] certfile {} cannot be used", files.certificate.display()))?;
    let acceptor = TlsAcceptor::builder(identity)
        .min_protocol_version(Some(Protocol::Tlsv12))
        .accept_alpn(&["h2", "http/1.1"])
        .build()
        .context("TLS cannot be set up")?;
    Ok(acceptor.into())
}

fn read(path: &Path, key: &str) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("[SSL] {key} {} cannot be read", path.display()))
}

/// PKCS#8, PKCS#1 and SEC1, RSA and EC. An encrypted key is refused: nobody is there to type its password.
fn private_key(pem: &[u8], path: &Path) -> anyhow::Result<PKey<Private>> {
    let shown = path.display();
    if String::from_utf8_lossy(pem).contains("ENCRYPTED") {
        bail!("[SSL] keyfile {shown} is encrypted; take the password off with `openssl pkey -in {shown} -out FILE`");
    }
    PKey::private_key_from_pem(pem).ok().with_context(|| format!("[SSL] keyfile {shown} holds no PEM private key"))
}

/// What is doubtful about a certificate that can be used: clients that check it may refuse it.
pub fn warnings(files: &TlsFiles) -> Vec<String> {
    let chain = read(&files.certificate, "certfile").ok().and_then(|chain| X509::stack_from_pem(&chain).ok());
    chain.iter().flatten().take(1).filter_map(|leaf| doubtful_dates(leaf, &files.certificate)).collect()
}

fn doubtful_dates(certificate: &X509, path: &Path) -> Option<String> {
    let now = Asn1Time::days_from_now(0).ok()?;
    let path = path.display();
    if certificate.not_after() < now {
        return Some(format!("[SSL] the certificate in {path} has expired on {}", certificate.not_after()));
    }
    let is_early = certificate.not_before() > now;
    is_early.then(|| format!("[SSL] the certificate in {path} is valid only from {}", certificate.not_before()))
}
