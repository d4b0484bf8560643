//! A database that does not take the connection: what to do about it, by what it says.

use highwater_postgres::{ConnectConfig, Error, quote};
use tokio_postgres::Client;

use super::report::Report;
use crate::config::Server;
use crate::operate::database;

/// Connects to the server that `setting` names, such as `source.database`, and says so; without a connection nothing more can be
/// said of the server.
pub(super) async fn connect(setting: &str, server: &Server, report: &mut Report) -> Option<Client> {
    match database::connect(server, "highwater check").await {
        Ok(client) => {
            report.ok(setting, format!("{server} answers"));
            Some(client)
        }
        Err(error) => {
            let remedy = remedy(setting, server, &error);
            report.fail(setting, format!("{server}: {}", crate::running::told(&error)), remedy);
            None
        }
    }
}

/// Reports a question that failed: what the server waited for, where that was a lock, and what mends it.
pub(super) async fn failed(setting: &str, server: &Server, client: &Client, error: &Error, report: &mut Report) {
    let told = crate::running::told(error);
    if let Some(holders) = database::holders(client, error).await {
        let text = format!("{server} did not answer: {told}{}", database::waited_for(&holders));
        return report.fail(setting, text, database::end_of(&holders));
    }
    let text = format!("{server} answered with an error: {told}");
    report.fail(setting, text, remedy(setting, server, error));
}

/// Returns what mends a connection or a question that failed.
pub(super) fn remedy(setting: &str, server: &Server, error: &Error) -> String {
    let variable = || format!("HIGHWATER_{}_PASSWORD", setting.split('.').next().unwrap_or_default().to_uppercase());
    let config = server.postgres("highwater check");
    let (user, database) = config.as_ref().map_or(("", ""), |config| (config.user(), config.database()));
    let message = error.server().map_or("", |server| server.message.as_str());
    match by_code(error.code().unwrap_or_default(), message, user, database) {
        Some(Mends::Statement(sql)) => format!("as a superuser: {sql}"),
        Some(Mends::Password) => {
            format!("set {}, or change {setting}", variable())
        }
        Some(Mends::Hba) => format!(
            "add to pg_hba.conf: `host \"{database}\" \"{user}\" <address of this machine>/32 scram-sha-256`; then SELECT pg_reload_conf();"
        ),
        Some(Mends::Room(setting)) => {
            format!("end what is idle, or ALTER SYSTEM SET {setting} to more and restart the server")
        }
        None if error.is_transient() => {
            format!("start PostgreSQL, or change {setting}{}", endpoints(config.ok().as_ref()))
        }
        None => format!("change {setting}, or set {}", variable()),
    }
}

fn endpoints(config: Option<&ConnectConfig>) -> String {
    let several = config.filter(|config| config.endpoints().len() > 1);
    several.map_or_else(String::new, |config| {
        let list: Vec<String> = config.endpoints().iter().map(ToString::to_string).collect();
        format!(" ({} were tried)", list.join(", "))
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Mends {
    Statement(String),
    Password,
    Hba,
    /// All places are taken, of which this setting says how many there are.
    Room(&'static str),
}

/// Tells what mends a refusal by its SQLSTATE and words (manual, appendix A: class 28 has one code for several refusals).
fn by_code(code: &str, message: &str, user: &str, database: &str) -> Option<Mends> {
    let (role, base) = (quote::identifier(user), quote::identifier(database));
    let statement = |sql: String| Some(Mends::Statement(sql));
    match code {
        "28000" if message.contains("is not permitted to log in") => statement(format!("ALTER ROLE {role} LOGIN;")),
        "28000" if message.contains("pg_hba.conf") => Some(Mends::Hba),
        "28000" if message.contains("does not exist") => statement(format!("CREATE ROLE {role} LOGIN REPLICATION;")),
        "28P01" | "28000" => Some(Mends::Password),
        "3D000" => statement(format!("CREATE DATABASE {base};")),
        "42501" if message.contains("for database") => {
            statement(format!("GRANT CONNECT ON DATABASE {base} TO {role};"))
        }
        "42501" if message.contains("replication") || message.contains("WAL sender") => {
            statement(format!("ALTER ROLE {role} REPLICATION;"))
        }
        "53300" if message.contains("max_wal_senders") => Some(Mends::Room("max_wal_senders")),
        "53300" if message.contains("too many clients") || message.contains("slots are reserved") => {
            Some(Mends::Room("max_connections"))
        }
        "53300" if message.contains("for role") => statement(format!("ALTER ROLE {role} CONNECTION LIMIT -1;")),
        "53300" if message.contains("for database") => statement(format!("ALTER DATABASE {base} CONNECTION LIMIT -1;")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_comes_with_the_statement_that_mends_it() {
        let statement = |sql: &str| Some(Mends::Statement(sql.to_owned()));
        let cases = [
            ("28000", "role \"reader\" is not permitted to log in", statement("ALTER ROLE \"reader\" LOGIN;")),
            ("28000", "no pg_hba.conf entry for host \"192.0.2.1\"", Some(Mends::Hba)),
            ("28000", "role \"reader\" does not exist", statement("CREATE ROLE \"reader\" LOGIN REPLICATION;")),
            ("28P01", "password authentication failed for user \"reader\"", Some(Mends::Password)),
            ("3D000", "database \"shop\" does not exist", statement("CREATE DATABASE \"shop\";")),
            (
                "42501",
                "permission denied for database \"shop\"",
                statement("GRANT CONNECT ON DATABASE \"shop\" TO \"reader\";"),
            ),
            (
                "53300",
                "too many connections for role \"reader\"",
                statement("ALTER ROLE \"reader\" CONNECTION LIMIT -1;"),
            ),
            ("53300", "sorry, too many clients already", Some(Mends::Room("max_connections"))),
            (
                "53300",
                "number of requested standby connections exceeds max_wal_senders (currently 10)",
                Some(Mends::Room("max_wal_senders")),
            ),
            // PostgreSQL 15, then 16 and newer.
            (
                "42501",
                "must be superuser or replication role to start walsender",
                statement("ALTER ROLE \"reader\" REPLICATION;"),
            ),
            ("42501", "permission denied to start WAL sender", statement("ALTER ROLE \"reader\" REPLICATION;")),
            ("57P03", "the database system is starting up", None),
        ];
        for (code, message, expected) in cases {
            assert_eq!(by_code(code, message, "reader", "shop"), expected, "{code} {message}");
        }
    }
}
