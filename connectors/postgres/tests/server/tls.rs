//! TLS, by every `sslmode`, and SCRAM bound to its channel.
//!
//! The server makes its own keys and certificates, as itself, so that their owner is right.

use std::path::PathBuf;

use highwater_postgres::{ConnectConfig, Connection, Error, Secret, Session, client};

use crate::stack::{TIMEOUT, server, until, write};

/// An authority, two certificates of it, for the server as 127.0.0.1 alone and for the role `certified`, and one that is
/// self-signed, for localhost.
const CERTIFICATES: &str = "
umask 077
key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'
openssl req -x509 $key -keyout ca.key -out ca.crt -subj /CN=authority
openssl req $key -keyout leaf.key -out leaf.csr -subj /CN=leaf
echo subjectAltName=IP:127.0.0.1 > leaf.ext
openssl x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile leaf.ext -out leaf.crt
openssl req $key -keyout client.key -out client.csr -subj /CN=certified
openssl x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile leaf.ext -out client.crt
openssl req -x509 $key -keyout self.key -out self.crt -subj /CN=self -addext subjectAltName=DNS:localhost
";

struct Certificates {
    authority: PathBuf,
    own: PathBuf,
    client: PathBuf,
    client_key: PathBuf,
}

/// Serves the certificate that is named, and waits until new sessions get it.
fn serve(name: &str) {
    let files = [format!("ssl_cert_file = '{name}.crt'"), format!("ssl_key_file = '{name}.key'")];
    for setting in files.into_iter().chain(["ssl_ca_file = 'ca.crt'".to_owned(), "ssl = on".to_owned()]) {
        server().sql(&format!("ALTER SYSTEM SET {setting}"));
    }
    server().sql("SELECT pg_reload_conf()");
}

fn certificates() -> Certificates {
    let script = CERTIFICATES.trim().replace('\n', " && ").replace('\'', "''");
    server().sql(&format!("COPY (SELECT 1) TO PROGRAM '{{ {script} ; }} > certificates.log 2>&1'"));
    let fetch = |name: &str| {
        let path = server().folder().join(name);
        write(&path, server().sql(&format!("SELECT pg_read_file('{name}')")).single().unwrap());
        path
    };
    let (authority, own) = (fetch("ca.crt"), fetch("self.crt"));
    Certificates { authority, own, client: fetch("client.crt"), client_key: fetch("client.key") }
}

fn config(host: &str, settings: &str) -> ConnectConfig {
    let url = format!("postgresql://postgres@{host}:{}/shop?hostaddr=127.0.0.1&{settings}", server().port());
    let password = Secret::new(server().password());
    ConnectConfig::parse(&url).unwrap().with_password(password)
}

fn attempt(host: &str, settings: &str) -> Result<Connection, Error> {
    Connection::connect(&config(host, settings), Session::Ordinary)
}

fn refusal(host: &str, settings: &str) -> String {
    let error = attempt(host, settings).expect_err("a refusal");
    assert!(matches!(error, Error::Tls { .. }) && !error.is_transient(), "{error:?}");
    error.to_string()
}

/// One test of all, because they look at one server whose certificate changes.
#[test]
fn every_mode_trusts_whom_libpq_trusts() {
    let made = certificates();
    serve("leaf");
    until("TLS", || attempt("127.0.0.1", "sslmode=require").ok());
    modes_that_verify_nothing();
    modes_that_verify(&made);
    modes_of_a_client(&made);
    a_certificate_to_log_in_with(&made);
    serve("self");
    a_self_signed_certificate_as_its_own_root(&made);
}

fn modes_that_verify_nothing() {
    for settings in ["sslmode=prefer", "sslmode=require", "sslmode=require&channel_binding=require"] {
        let mut connection = attempt("127.0.0.1", settings).unwrap();
        let rows = connection.simple_query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", TIMEOUT);
        assert_eq!((connection.is_encrypted(), rows.unwrap().single().unwrap()), (true, "t"), "{settings}");
    }
    assert!(!attempt("127.0.0.1", "sslmode=disable").unwrap().is_encrypted());
    let unbound = attempt("127.0.0.1", "sslmode=disable&channel_binding=require").expect_err("no channel");
    assert!(unbound.to_string().contains("channel_binding"), "{unbound}");
}

/// The certificate is made out to 127.0.0.1, not to localhost.
fn modes_that_verify(made: &Certificates) {
    let root = format!("sslrootcert={}", made.authority.display());
    assert!(attempt("127.0.0.1", &format!("sslmode=verify-full&{root}")).unwrap().is_encrypted());
    assert!(attempt("localhost", &format!("sslmode=verify-ca&{root}")).unwrap().is_encrypted());
    let wrong_name = refusal("localhost", &format!("sslmode=verify-full&{root}"));
    assert!(wrong_name.contains("not valid for name"), "{wrong_name}");

    // Another authority; `require` verifies, too, once a root certificate is named.
    for mode in ["require", "verify-ca", "verify-full"] {
        let shown = refusal("127.0.0.1", &format!("sslmode={mode}&sslrootcert={}", made.own.display()));
        assert!(shown.contains("UnknownIssuer"), "{mode}: {shown}");
    }
    let nobody = attempt("127.0.0.1", "sslmode=verify-full").expect_err("nobody to trust");
    assert!(matches!(&nobody, Error::Config(_)) && nobody.to_string().contains("sslrootcert"), "{nobody}");
}

fn modes_of_a_client(made: &Certificates) {
    let root = format!("sslrootcert={}", made.authority.display());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let full = config("127.0.0.1", &format!("sslmode=verify-full&channel_binding=require&{root}"));
        let session = client::connect(&full).await.unwrap();
        let row = session.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]);
        assert!(row.await.unwrap().get::<_, bool>(0));
        let wrong_name = config("localhost", &format!("sslmode=verify-full&{root}"));
        let error = client::connect(&wrong_name).await.expect_err("a refusal");
        assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    });
}

fn a_certificate_to_log_in_with(made: &Certificates) {
    server().sql("CREATE ROLE certified LOGIN");
    server().allow("hostssl all certified 127.0.0.1/32 cert");
    let url = format!("postgresql://certified@127.0.0.1:{}/shop?sslmode=require", server().port());
    let (certificate, key) = (made.client.display(), made.client_key.display());
    let with = ConnectConfig::parse(&format!("{url}&sslcert={certificate}&sslkey={key}")).unwrap();
    until("the new rule", || Connection::connect(&with, Session::Ordinary).ok());
    let without = Connection::connect(&ConnectConfig::parse(&url).unwrap(), Session::Ordinary).expect_err("a refusal");
    assert!(matches!(without, Error::Refused { .. }), "{without:?}");
}

/// The certificate is made out to localhost, and calls itself an authority.
fn a_self_signed_certificate_as_its_own_root(made: &Certificates) {
    let root = format!("sslrootcert={}", made.own.display());
    until("the other certificate", || attempt("localhost", &format!("sslmode=verify-full&{root}")).ok());
    assert!(attempt("127.0.0.1", &format!("sslmode=verify-ca&{root}&channel_binding=require")).is_ok());
    let wrong_name = refusal("127.0.0.1", &format!("sslmode=verify-full&{root}"));
    assert!(wrong_name.contains("not valid for name"), "{wrong_name}");
}
