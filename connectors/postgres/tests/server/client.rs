//! Asynchronous sessions.

use std::net::TcpListener;
use std::time::Duration;

use highwater_postgres::{ConnectConfig, Error, Secret, client};

use crate::stack::{fresh, server};

#[tokio::test]
async fn a_client_logs_in_over_tcp_and_through_a_socket() {
    for config in [server().tcp("postgres", "shop"), server().socket("shop")] {
        let client = client::connect(&config.with_application_name("a client")).await.unwrap();
        let row =
            client.query_one("SELECT current_database(), current_setting('application_name')", &[]).await.unwrap();
        assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("shop", "a client"));
    }
}

#[tokio::test]
async fn a_client_writes_values_as_every_session_does() {
    let role = fresh("client_role");
    let password = server().password();
    server().sql(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD '{password}'; ALTER ROLE {role} SET DateStyle = 'SQL, DMY'; \
         ALTER ROLE {role} SET TimeZone = 'Asia/Kolkata'"
    ));
    let client = client::connect(&server().tcp(&role, "shop").with_parameter("work_mem", "1234kB")).await.unwrap();
    let row = client.query_one("SELECT '2026-11-21 10:00+00'::timestamptz::text, current_setting('work_mem')", &[]);
    let row = row.await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("2026-11-21 10:00:00+00", "1234kB"));
}

#[tokio::test]
async fn a_client_says_who_was_refused_where() {
    let error = client::connect(&server().tcp("postgres", "shop").with_password(Secret::new("hunter2"))).await;
    let error = error.expect_err("a refusal");
    let shown = error.to_string();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert!(shown.contains("\"postgres\"") && shown.contains(server().port()) && !shown.contains("hunter2"), "{shown}");

    let none = ConnectConfig::parse(&format!("postgresql://postgres@127.0.0.1:{}/shop", server().port())).unwrap();
    let error = client::connect(&none).await.expect_err("a refusal");
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn a_client_gives_up_on_servers_that_are_down_or_silent() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = ConnectConfig::parse(&format!("postgresql://u@{nobody}/d")).unwrap();
    let error = client::connect(&down).await.expect_err("nobody there");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&nobody.to_string()), "{error}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgresql://u@{}/d?sslmode=disable", silent.local_addr().unwrap());
    let config = ConnectConfig::parse(&url).unwrap().with_connect_timeout(Duration::from_millis(200));
    let error = client::connect(&config).await.expect_err("no answer");
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
}
