//! Room for the connections that capture opens to the primary: by the role's, the database's and the server's limit.

use highwater_postgres::quote;
use tokio_postgres::Client;

use super::report::Report;

/// How many are open without capture's own, and how many may be; none without a limit.
#[derive(Debug, Clone, Copy)]
struct Places {
    used: i64,
    most: Option<i64>,
}

#[derive(Debug, Clone)]
struct Connections {
    role: String,
    database: String,
    of_role: Places,
    of_database: Places,
    of_server: Places,
}

// A capture at work has its places already; this question's own goes with the check. Of others no more than their database is shown
// to everybody, which tells them from the server's own processes. Walsenders have places of their own among the server's, not among
// the role's and the database's. A superuser has no limits of its own, and the last places of the server.
const FACTS: &str = "
    WITH others AS (
        SELECT datname, usename, pid IN (SELECT pid FROM pg_stat_get_wal_senders()) AS sends FROM pg_stat_activity
        WHERE datid IS NOT NULL AND coalesce(backend_type, '') NOT IN ('autovacuum worker', 'parallel worker')
          AND NOT (usename IS NOT DISTINCT FROM current_user
               AND application_name IN ('highwater capture', 'highwater slot', 'highwater check'))),
    held AS (SELECT sum(setting::bigint) AS places FROM pg_settings
             WHERE name IN ('reserved_connections', 'superuser_reserved_connections') AND NOT $1)
    SELECT current_user::text, current_database()::text,
           (SELECT count(*) FROM others WHERE usename = current_user),
           (SELECT nullif(rolconnlimit, -1)::bigint FROM pg_roles WHERE rolname = current_user AND NOT $1),
           (SELECT count(*) FROM others WHERE datname = current_database()),
           (SELECT nullif(datconnlimit, -1)::bigint FROM pg_database WHERE datname = current_database() AND NOT $1),
           (SELECT count(*) FROM others WHERE NOT sends),
           current_setting('max_connections')::bigint - (SELECT coalesce(places, 0)::bigint FROM held)";

/// Looks whether so many ordinary connections can be opened, beside the one that the log comes by.
pub(super) async fn look(client: &Client, needed: i64, report: &mut Report) -> Result<(), tokio_postgres::Error> {
    const SUPERUSER: &str = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
    let superuser: bool = client.query_one(SUPERUSER, &[]).await?.get(0);
    let row = client.query_one(FACTS, &[&superuser]).await?;
    let found = Connections {
        role: row.get(0),
        database: row.get(1),
        of_role: Places { used: row.get(2), most: row.get(3) },
        of_database: Places { used: row.get(4), most: row.get(5) },
        of_server: Places { used: row.get(6), most: row.get(7) },
    };
    judge(&found, needed, report);
    Ok(())
}

fn judge(found: &Connections, needed: i64, report: &mut Report) {
    let Connections { role, database, of_role, of_database, of_server } = found;
    let (role_sql, database_sql) = (quote::identifier(role), quote::identifier(database));
    let server = of_server.most.map_or(0, |most| (most + needed).max(2 * needed));
    // The stream's own connection counts among the role's and the database's.
    let limits = [
        (of_role, needed + 1, format!("role {role}"), format!("ALTER ROLE {role_sql} CONNECTION LIMIT -1;")),
        (
            of_database,
            needed + 1,
            format!("database {database}"),
            format!("ALTER DATABASE {database_sql} CONNECTION LIMIT -1;"),
        ),
        (
            of_server,
            needed,
            "max_connections".to_owned(),
            format!("ALTER SYSTEM SET max_connections = {server}; then restart the server"),
        ),
    ];
    let mut good = true;
    for (places, needed, of, remedy) in limits {
        let Some(most) = places.most.filter(|most| places.used + needed > *most) else { continue };
        good = false;
        let text = format!("{of} has {most} places, {} are taken, and capture needs {needed}", places.used);
        report.fail("connections", text, remedy);
    }
    if good {
        report.ok("connections", format!("there is room for the {needed} that capture opens, beside its stream"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_that_leaves_no_room_is_named_with_the_statement_that_widens_it() {
        let places = |used, most| Places { used, most };
        let free = Connections {
            role: "reader".into(),
            database: "shop".into(),
            of_role: places(0, None),
            of_database: places(9, None),
            of_server: places(9, Some(97)),
        };
        let remedies = |found: &Connections| {
            let mut report = Report::default();
            judge(found, 4, &mut report);
            report.findings().iter().filter_map(|finding| finding.remedy.clone()).collect::<Vec<_>>()
        };
        assert_eq!(remedies(&free), Vec::<String>::new());
        assert_eq!(remedies(&Connections { of_role: places(0, Some(5)), ..free.clone() }), Vec::<String>::new());
        let cases = [
            (Connections { of_role: places(1, Some(5)), ..free.clone() }, "ALTER ROLE \"reader\" CONNECTION LIMIT -1;"),
            (
                Connections { of_database: places(9, Some(13)), ..free.clone() },
                "ALTER DATABASE \"shop\" CONNECTION LIMIT -1;",
            ),
            (
                Connections { of_server: places(94, Some(97)), ..free.clone() },
                "ALTER SYSTEM SET max_connections = 101; then restart the server",
            ),
        ];
        for (found, remedy) in cases {
            assert_eq!(remedies(&found), [remedy]);
        }
    }
}
