//! Transactions that stay open: the slot is made, and a snapshot begins, only when those that wrote before have ended.

use highwater_postgres::quote;
use tokio_postgres::Client;

use super::report::Report;

const SUBJECT: &str = "transactions";

/// One that has been open for more than a minute.
#[derive(Debug, Clone)]
struct Open {
    /// The server process; none for a prepared one.
    pid: Option<i32>,
    /// The role of a process, or the name of a prepared transaction.
    name: String,
    database: String,
    age_s: i64,
}

// Only those that wrote have a transaction id, and are waited for: in every database of the server.
const FACTS: &str = "
    SELECT pid, coalesce(usename::text, 'unknown'), coalesce(datname::text, ''),
           extract(epoch FROM clock_timestamp() - xact_start)::bigint AS age
    FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND xact_start < clock_timestamp() - interval '1 minute'
    UNION ALL
    SELECT NULL, gid, database::text, extract(epoch FROM clock_timestamp() - prepared)::bigint
    FROM pg_prepared_xacts WHERE prepared < clock_timestamp() - interval '1 minute'
    ORDER BY age DESC LIMIT 10";

const SEES_ALL: &str =
    "SELECT current_user::text, pg_has_role('pg_read_all_stats', 'USAGE') FROM pg_roles WHERE rolname = current_user";

pub(super) async fn look(client: &Client, report: &mut Report) -> Result<(), tokio_postgres::Error> {
    let open =
        |row: &tokio_postgres::Row| Open { pid: row.get(0), name: row.get(1), database: row.get(2), age_s: row.get(3) };
    let found: Vec<Open> = client.query(FACTS, &[]).await?.iter().map(open).collect();
    let row = client.query_one(SEES_ALL, &[]).await?;
    judge(&found, row.get(0), row.get(1), report);
    Ok(())
}

fn judge(found: &[Open], role: &str, sees_all: bool, report: &mut Report) {
    const HOLDS: &str = "a new slot and a snapshot wait for its end";
    for Open { pid, name, database, age_s } in found {
        if let Some(pid) = pid {
            let text = format!("server process {pid} of {name} in {database} has one open for {age_s} s: {HOLDS}");
            report.warn(SUBJECT, text, format!("end it: SELECT pg_terminate_backend({pid});"));
        } else {
            let text = format!("{name} in {database} has been prepared for {age_s} s: {HOLDS}");
            let gid = quote::literal(name);
            let remedy = format!("in {database}: COMMIT PREPARED {gid}; or ROLLBACK PREPARED {gid};");
            report.warn(SUBJECT, text, remedy);
        }
    }
    if found.is_empty() {
        let role = quote::identifier(role);
        let hidden = format!(" (those of other roles are shown only after GRANT pg_read_all_stats TO {role})");
        let hidden = if sees_all { "" } else { hidden.as_str() };
        report.ok(SUBJECT, format!("none that wrote is seen to be open for a minute{hidden}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::check::Grade;

    #[test]
    fn a_transaction_that_stays_open_is_named_with_its_age_and_what_ends_it() {
        let process = Open { pid: Some(7), name: "shop_app".into(), database: "shop".into(), age_s: 90 };
        let prepared = Open { pid: None, name: "o'two".into(), database: "shop".into(), age_s: 3600 };
        let mut report = Report::default();
        judge(&[prepared, process], "reader", false, &mut report);
        let [prepared, process] = report.findings() else { panic!("{report}") };
        assert_eq!((prepared.grade, process.grade), (Grade::Warn, Grade::Warn));
        assert!(prepared.text.contains("o'two in shop has been prepared for 3600 s"), "{}", prepared.text);
        assert!(prepared.remedy.as_ref().unwrap().contains("ROLLBACK PREPARED 'o''two';"));
        assert!(process.text.contains("process 7 of shop_app in shop has one open for 90 s"), "{}", process.text);
        assert_eq!(process.remedy.as_deref(), Some("end it: SELECT pg_terminate_backend(7);"));
    }

    #[test]
    fn what_is_not_shown_is_not_called_fine() {
        let text = |sees_all| {
            let mut report = Report::default();
            judge(&[], "reader", sees_all, &mut report);
            report.findings()[0].text.clone()
        };
        assert!(text(false).contains("GRANT pg_read_all_stats TO \"reader\""));
        assert!(!text(true).contains("GRANT"));
    }
}
