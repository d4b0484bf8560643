//! The audit log: its tables, and that its role can append to it and do no more.

use highwater_postgres::Error;
use tokio_postgres::Client;

use super::report::Report;
use super::source::connect;
use crate::roles::Config;

/// Privileges of the connected role on the log and its bookkeeping.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent privilege")]
struct Privileges {
    append: bool,
    rewrite: bool,
    progress: bool,
    make_days: bool,
}

const TABLES: &str = "
    SELECT to_regclass('public.data_change_logs') IS NOT NULL AND to_regclass('highwater.audit_progress') IS NOT NULL
           AND to_regprocedure('highwater.make_audit_day(date)') IS NOT NULL";

const PRIVILEGES: &str = "
    SELECT has_table_privilege('public.data_change_logs', 'INSERT'),
           has_table_privilege('public.data_change_logs', 'UPDATE, DELETE, TRUNCATE'),
           has_table_privilege('highwater.audit_progress', 'SELECT')
           AND has_table_privilege('highwater.audit_progress', 'INSERT')
           AND has_table_privilege('highwater.audit_progress', 'UPDATE'),
           has_function_privilege('highwater.make_audit_day(date)', 'EXECUTE'), current_user::text";

pub(super) async fn check(config: &Config, report: &mut Report) {
    let database = &config.audit.database;
    let Some(client) = connect("audit.database", database, report).await else {
        return;
    };
    if let Err(error) = look(&client, report).await {
        report.fail("audit.database", format!("{database} answered with an error: {error}"), "see the server's log");
    }
}

async fn look(client: &Client, report: &mut Report) -> Result<(), Error> {
    // A schema that the role may not use hides its tables from the question.
    let there: bool = client.query_one(TABLES, &[]).await?.get(0);
    if !there {
        let remedy = "apply schemas/migrations, and GRANT USAGE ON SCHEMA highwater to the audit role";
        report.fail("audit log", "its tables are missing, or hidden from this role", remedy);
        return Ok(());
    }
    let row = client.query_one(PRIVILEGES, &[]).await?;
    let found = Privileges { append: row.get(0), rewrite: row.get(1), progress: row.get(2), make_days: row.get(3) };
    judge(found, row.get(4), report);
    Ok(())
}

fn judge(found: Privileges, role: &str, report: &mut Report) {
    let needed = [
        (found.append, "append", "INSERT ON data_change_logs"),
        (found.progress, "keep its progress", "SELECT, INSERT, UPDATE ON highwater.audit_progress"),
        (found.make_days, "make the partition of a day", "EXECUTE ON FUNCTION highwater.make_audit_day(date)"),
    ];
    for (_, what, grant) in needed.iter().filter(|(may, ..)| !may) {
        report.fail("audit log", format!("{role} may not {what}"), format!("GRANT {grant} TO \"{role}\";"));
    }
    if found.rewrite {
        let remedy = format!("REVOKE UPDATE, DELETE, TRUNCATE ON data_change_logs FROM \"{role}\";");
        report.warn("audit log", format!("{role} may change what it has written"), remedy);
    } else if needed.iter().all(|(may, ..)| *may) {
        report.ok("audit log", format!("{role} may append, and no more"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::check::Grade;

    const RIGHT: Privileges = Privileges { append: true, rewrite: false, progress: true, make_days: true };

    fn grades(found: Privileges) -> Vec<Grade> {
        let mut report = Report::default();
        judge(found, "auditor", &mut report);
        report.findings().iter().map(|finding| finding.grade).collect()
    }

    #[test]
    fn a_role_that_appends_and_does_no_more_is_right() {
        assert_eq!(grades(RIGHT), [Grade::Ok]);
        assert_eq!(grades(Privileges { rewrite: true, ..RIGHT }), [Grade::Warn]);
        assert_eq!(grades(Privileges { append: false, progress: false, make_days: false, ..RIGHT }), [Grade::Fail; 3]);
    }
}
