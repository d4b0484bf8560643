//! TLS as libpq's `sslmode` has it, on rustls (libpq manual: SSL Support).
//!
//! One difference to libpq: a certificate's name must stand among its alternative names; the old common name alone does
//! not count.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::db::rfc5912;

use crate::config::{ConfigError, ConnectConfig, SslMode};

/// Builds rustls' settings for a connection.
///
/// # Errors
///
/// The root certificates cannot be read, or a mode that verifies has none.
pub(crate) fn client_config(config: &ConnectConfig) -> Result<ClientConfig, ConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = match (config.sslmode, &config.root_certificate) {
        (SslMode::VerifyFull, Some(roots)) => Trust::chain(roots, true, &provider)?,
        // libpq: with a root certificate at hand, `require` verifies as `verify-ca` does.
        (SslMode::VerifyCa | SslMode::Require, Some(roots)) => Trust::chain(roots, false, &provider)?,
        (SslMode::VerifyFull | SslMode::VerifyCa, None) => {
            return Err(ConfigError(
                "sslmode verifies the server's certificate, but sslrootcert names no authority to trust: \
                 set it to a file of PEM certificates, or to `system`"
                    .to_owned(),
            ));
        }
        (SslMode::Require | SslMode::Prefer | SslMode::Disable, _) => Trust::Anyone,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError(format!("TLS cannot be set up: {error}")))?;
    let verifier = Arc::new(Verifier { trust, provider });
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let (Some(certificate), Some(key)) = (&config.own_certificate, &config.own_key) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate, "sslcert")?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| ConfigError(format!("sslkey {}: no PEM key can be read: {error}", key.display())))?;
    let own = builder.with_client_auth_cert(chain, secret);
    own.map_err(|error| {
        ConfigError(format!("sslcert {} with sslkey {}: {error}", certificate.display(), key.display()))
    })
}

fn certificates(path: &Path, setting: &str) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| ConfigError(format!("{setting} {}: no PEM certificates can be read: {error}", path.display())))
}

/// Whose certificates count.
#[derive(Debug)]
enum Trust {
    Anyone,
    Chain { webpki: Arc<WebPkiServerVerifier>, pinned: Vec<CertificateDer<'static>>, check_name: bool },
}

impl Trust {
    fn chain(roots: &Path, check_name: bool, provider: &Arc<CryptoProvider>) -> Result<Self, ConfigError> {
        let wrong = |why: String| ConfigError(format!("sslrootcert {}: {why}", roots.display()));
        let pinned = if roots == Path::new("system") {
            rustls_native_certs::load_native_certs().certs
        } else {
            certificates(roots, "sslrootcert")?
        };
        let mut store = RootCertStore::empty();
        if store.add_parsable_certificates(pinned.iter().cloned()).0 == 0 {
            return Err(wrong("it holds no usable certificate".to_owned()));
        }
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self::Chain { webpki, pinned, check_name })
    }
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Trust::Chain { webpki, pinned, check_name } = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        // A server's own self-signed certificate can be the root. Made by `openssl req -x509` it says that it is an
        // authority, which rustls does not take from a server, and OpenSSL does.
        if pinned.iter().any(|root| root == end_entity) {
            check_dates(end_entity, now)?;
            if *check_name {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is what rustls looks at last: the chain was good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !check_name => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let parsed = Certificate::from_der(certificate)
        .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let validity = &parsed.tbs_certificate.validity;
    let now = Duration::from_secs(now.as_secs());
    if now < validity.not_before.to_unix_duration() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.to_unix_duration() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Returns what SCRAM binds a channel to: the hash of the server's certificate (RFC 5929, `tls-server-end-point`).
///
/// None for certificates whose signature names no hash, such as Ed25519: the RFC leaves them undefined.
pub(crate) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let algorithm = match parsed.signature_algorithm.oid {
        // The RFC replaces MD5 and SHA-1 by SHA-256.
        rfc5912::SHA_1_WITH_RSA_ENCRYPTION | rfc5912::SHA_256_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_256 => {
            &digest::SHA256
        }
        rfc5912::SHA_384_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_384 => &digest::SHA384,
        rfc5912::SHA_512_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_512 => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}
