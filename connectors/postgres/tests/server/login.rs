//! Logging in, and being refused.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use highwater_postgres::{ConnectConfig, Connection, Error, Secret, Session, TransactionStatus};

use crate::stack::{TIMEOUT, fresh, server, until};

fn refusal(config: &ConnectConfig) -> Error {
    Connection::connect(config, Session::Ordinary).expect_err("a refusal")
}

#[test]
fn a_role_logs_in_by_scram_over_tcp() {
    let mut connection = Connection::connect(&server().tcp("postgres", "shop"), Session::Ordinary).unwrap();
    let rows = connection.simple_query("SELECT current_user, inet_client_addr() IS NOT NULL AS tcp", TIMEOUT).unwrap();
    assert_eq!((rows.value(0, "current_user"), rows.value(0, "tcp")), (Some("postgres"), Some("t")));
    assert!(connection.server_version() >= 150_000 && connection.backend_pid() > 0);
    assert_eq!(connection.transaction_status(), TransactionStatus::Idle);
}

#[test]
fn a_wrong_password_is_refused_by_user_and_address_without_showing_it() {
    let config = server().tcp("postgres", "shop").with_password(Secret::new("hunter2-wrong"));
    let error = refusal(&config);
    let shown = error.to_string();
    assert!(matches!(error, Error::Refused { .. }) && !error.is_transient(), "{error:?}");
    assert_eq!(error.code(), Some("28P01"));
    assert!(shown.contains("postgres") && shown.contains(&format!("127.0.0.1:{}", server().port())), "{shown}");
    assert!(!format!("{shown} {error:?} {config:?}").contains("hunter2"), "{shown}");
}

#[test]
fn a_missing_password_is_said_to_be_missing() {
    let config = ConnectConfig::parse(&format!("postgresql://postgres@127.0.0.1:{}/shop", server().port())).unwrap();
    let shown = refusal(&config).to_string();
    assert!(shown.contains("none is configured"), "{shown}");
}

#[test]
fn a_database_that_is_not_there_is_a_refusal() {
    let error = refusal(&server().socket("no_such_database"));
    assert_eq!(error.code(), Some("3D000"));
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
}

#[test]
fn a_role_logs_in_through_a_unix_socket() {
    let mut connection = server().session();
    assert!(connection.address().contains("/.s.PGSQL."), "{}", connection.address());
    assert!(!connection.is_encrypted());
    assert!(
        connection.simple_query("SELECT inet_client_addr()", TIMEOUT).unwrap().value(0, "inet_client_addr").is_none()
    );
}

#[test]
fn old_ways_to_log_in_work_and_a_password_never_travels_in_clear() {
    let (md5, clear) = (fresh("md5_role"), fresh("clear_role"));
    server().sql(&format!(
        "SET password_encryption = 'md5'; CREATE ROLE {md5} LOGIN PASSWORD '{0}'; \
         RESET password_encryption; CREATE ROLE {clear} LOGIN PASSWORD '{0}'",
        server().password()
    ));
    server().allow(&format!("host all {md5} 127.0.0.1/32 md5\nhost all {clear} 127.0.0.1/32 password"));

    let refused = until("the new rules", || {
        let error = Connection::connect(&server().tcp(&clear, "shop?sslmode=disable"), Session::Ordinary).err()?;
        Some(error.to_string()).filter(|text| text.contains("in clear"))
    });
    assert!(refused.contains("sslmode=require"), "{refused}");
    let mut connection = Connection::connect(&server().tcp(&md5, "shop"), Session::Ordinary).unwrap();
    assert_eq!(connection.simple_query("SELECT current_user", TIMEOUT).unwrap().single().unwrap(), md5);
    let wrong = server().tcp(&md5, "shop").with_password(Secret::new("wrong"));
    assert_eq!(refusal(&wrong).code(), Some("28P01"));
}

#[test]
fn a_server_that_is_down_is_named_and_may_come_back() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = refusal(&ConnectConfig::parse(&format!("postgresql://u@{nobody}/d")).unwrap());
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains(&nobody.to_string()), "{error}");
    let gone = refusal(&ConnectConfig::parse("host=/nowhere port=7 user=u").unwrap());
    assert!(gone.to_string().contains("/nowhere/.s.PGSQL.7"), "{gone}");
}

#[test]
fn the_second_host_serves_when_the_first_is_down() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgresql://postgres@127.0.0.1:{nobody},127.0.0.1:{}/shop", server().port());
    let config = ConnectConfig::parse(&url).unwrap().with_password(Secret::new(server().password()));
    let connection = Connection::connect(&config, Session::Ordinary).unwrap();
    assert!(connection.address().ends_with(server().port()), "{}", connection.address());
    let standby = ConnectConfig::parse(&format!("{url}?target_session_attrs=standby")).unwrap();
    let shown = refusal(&standby.with_password(Secret::new(server().password())));
    assert!(matches!(shown, Error::Unreachable { .. }), "{shown:?}");
}

#[test]
fn a_server_that_never_answers_is_given_up_at_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgresql://u@{}/d?sslmode=disable", silent.local_addr().unwrap());
    let config = ConnectConfig::parse(&url).unwrap().with_connect_timeout(Duration::from_millis(200));
    let start = Instant::now();
    let error = refusal(&config);
    assert!(matches!(error, Error::Timeout { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains(&silent.local_addr().unwrap().to_string()), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_silent_host_leaves_time_for_the_next() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgresql://postgres@{},127.0.0.1:{}/shop", silent.local_addr().unwrap(), server().port());
    let config = ConnectConfig::parse(&url).unwrap().with_password(Secret::new(server().password()));
    let config = config.with_connect_timeout(Duration::from_secs(6));
    assert!(Connection::connect(&config, Session::Ordinary).unwrap().address().ends_with(server().port()));
}

#[test]
fn a_failed_statement_leaves_the_session_usable_and_a_late_one_does_not() {
    let mut connection = server().session();
    let error = connection.simple_query("SELECT 1/0", TIMEOUT).unwrap_err();
    assert_eq!(error.code(), Some("22012"));
    assert_eq!(connection.simple_query("SELECT 1; SELECT 2", TIMEOUT).unwrap().single().unwrap(), "2");
    let late = connection.simple_query("SELECT pg_sleep(20)", Duration::from_millis(50)).unwrap_err();
    assert!(matches!(late, Error::Timeout { .. }), "{late:?}");
    assert!(connection.is_broken());
    assert!(matches!(connection.simple_query("SELECT 1", TIMEOUT), Err(Error::Lost { .. })));
}

#[test]
fn rows_pass_one_by_one_and_a_caller_that_fails_keeps_its_session() {
    let mut connection = server().session();
    let (mut seen, sql) = (0_u64, "SELECT g, repeat('x', 100), NULL FROM generate_series(1, 50000) g");
    let count = connection.for_each_row(sql, TIMEOUT, |row| {
        seen += 1;
        let values: Vec<_> = row.values().collect();
        assert_eq!((values[0], values[2]), (Some(seen.to_string().as_bytes()), None));
        Ok::<_, Error>(())
    });
    assert_eq!((count.unwrap(), seen), (50_000, 50_000));

    let failure = connection.for_each_row(sql, TIMEOUT, |_| Err(Error::Protocol("enough".into())));
    assert_eq!(failure.unwrap_err().to_string(), "unexpected from PostgreSQL: enough");
    assert_eq!(connection.simple_query("SELECT 7", TIMEOUT).unwrap().single().unwrap(), "7");
}

#[test]
fn a_killed_session_is_lost_and_says_where() {
    let mut connection = server().session();
    server().sql(&format!("SELECT pg_terminate_backend({}, 20000)", connection.backend_pid()));
    let error = connection.simple_query("SELECT 1", TIMEOUT).unwrap_err();
    assert!(error.is_transient() && connection.is_broken(), "{error:?}");
    assert!(error.code() == Some("57P01") || matches!(error, Error::Lost { .. }), "{error:?}");
}
