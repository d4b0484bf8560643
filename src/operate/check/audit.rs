//! The audit log: its tables, and that its role can append to it and do no more.

use highwater_postgres::{Error, quote};
use tokio_postgres::Client;

use super::report::Report;
use super::source::compare_clock;
use super::unreachable::{connect, failed};
use crate::operate::database::within;
use crate::roles::Config;

/// What is there, and what the connected role may.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact")]
struct Facts {
    standby: bool,
    log: bool,
    progress: bool,
    make_day: bool,
    may_use_schema: bool,
    may_append: bool,
    may_rewrite: bool,
    may_keep_progress: bool,
    may_make_days: bool,
}

// By the catalogue: a schema that the role may not use hides its tables from to_regclass.
const FACTS: &str = "
    WITH ours AS (
        SELECT (SELECT c.oid FROM pg_class c WHERE c.relname = 'data_change_logs'
                AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'public')) AS log,
               (SELECT c.oid FROM pg_class c WHERE c.relname = 'audit_progress' AND c.relnamespace = n.oid) AS progress,
               (SELECT p.oid FROM pg_proc p WHERE p.proname = 'make_audit_day' AND p.pronamespace = n.oid) AS make_day,
               n.oid AS schema
        FROM (SELECT (SELECT oid FROM pg_namespace WHERE nspname = 'highwater') AS oid) n)
    SELECT pg_is_in_recovery(), log IS NOT NULL, progress IS NOT NULL, make_day IS NOT NULL,
           coalesce(has_schema_privilege(schema, 'USAGE'), false),
           coalesce(has_table_privilege(log, 'INSERT') AND (SELECT bool_and(has_column_privilege(log, attnum, 'SELECT'))
               FROM pg_attribute WHERE attrelid = log AND attname IN ('position', 'changed_at')), false),
           coalesce(has_table_privilege(log, 'UPDATE, DELETE, TRUNCATE'), false),
           coalesce(has_table_privilege(progress, 'SELECT') AND has_table_privilege(progress, 'INSERT')
               AND has_table_privilege(progress, 'UPDATE'), false),
           coalesce(has_function_privilege(make_day, 'EXECUTE'), false), current_user::text
    FROM ours";

pub(super) async fn check(config: &Config, report: &mut Report) {
    let database = &config.audit.database;
    let Some(client) = connect("audit.database", database, report).await else {
        return;
    };
    if !config.capture.history {
        let text = "nothing comes: the audit log is fed from the history, and that is off";
        report.fail("audit log", text, "set capture.history = true, or do not run the role audit");
    }
    if let Err(error) = within(look(&client, config, report)).await {
        failed("audit.database", database, &client, &error, report).await;
    }
}

async fn look(client: &Client, config: &Config, report: &mut Report) -> Result<(), Error> {
    compare_clock(client, &config.audit.database, report).await?;
    let row = client.query_one(FACTS, &[]).await?;
    let facts = Facts {
        standby: row.get(0),
        log: row.get(1),
        progress: row.get(2),
        make_day: row.get(3),
        may_use_schema: row.get(4),
        may_append: row.get(5),
        may_rewrite: row.get(6),
        may_keep_progress: row.get(7),
        may_make_days: row.get(8),
    };
    judge(facts, row.get(9), report);
    Ok(())
}

fn judge(found: Facts, role: &str, report: &mut Report) {
    if found.standby {
        report.fail("audit.database", "is a standby: nothing can be appended", "name the primary in audit.database");
    }
    let things = [
        (found.log, "table data_change_logs"),
        (found.progress, "table highwater.audit_progress"),
        (found.make_day, "function highwater.make_audit_day"),
    ];
    let missing: Vec<&str> = things.iter().filter(|(there, _)| !there).map(|(_, thing)| *thing).collect();
    if !missing.is_empty() {
        let remedy = "psql -f schemas/migrations/003_audit.sql, then -f schemas/migrations/004_privileges.sql";
        return report.fail("audit log", format!("has no {}", missing.join(", no ")), remedy);
    }
    let needed = [
        (found.may_use_schema, "use the schema highwater", "USAGE ON SCHEMA highwater"),
        (found.may_append, "append", "INSERT, SELECT (position, changed_at) ON data_change_logs"),
        (found.may_keep_progress, "keep its progress", "SELECT, INSERT, UPDATE ON highwater.audit_progress"),
        (found.may_make_days, "make the partition of a day", "EXECUTE ON FUNCTION highwater.make_audit_day(date)"),
    ];
    let quoted = quote::identifier(role);
    for (_, what, grant) in needed.iter().filter(|(may, ..)| !may) {
        report.fail("audit log", format!("{role} may not {what}"), format!("GRANT {grant} TO {quoted};"));
    }
    if found.may_rewrite {
        let remedy = format!("REVOKE UPDATE, DELETE, TRUNCATE ON data_change_logs FROM {quoted};");
        report.warn("audit log", format!("{role} may change what it has written"), remedy);
    } else if needed.iter().all(|(may, ..)| *may) {
        report.ok("audit log", format!("{role} may append, and no more"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::check::Grade;

    const RIGHT: Facts = Facts {
        standby: false,
        log: true,
        progress: true,
        make_day: true,
        may_use_schema: true,
        may_append: true,
        may_rewrite: false,
        may_keep_progress: true,
        may_make_days: true,
    };

    #[test]
    fn a_role_that_appends_and_does_no_more_is_right_and_each_fault_has_its_statement() {
        let cases = [
            (RIGHT, Grade::Ok, ""),
            (Facts { standby: true, ..RIGHT }, Grade::Fail, "name the primary in audit.database"),
            (
                Facts { log: false, ..RIGHT },
                Grade::Fail,
                "psql -f schemas/migrations/003_audit.sql, then -f schemas/migrations/004_privileges.sql",
            ),
            (Facts { may_use_schema: false, ..RIGHT }, Grade::Fail, "GRANT USAGE ON SCHEMA highwater TO \"auditor\";"),
            (
                Facts { may_append: false, ..RIGHT },
                Grade::Fail,
                "GRANT INSERT, SELECT (position, changed_at) ON data_change_logs TO \"auditor\";",
            ),
            (
                Facts { may_rewrite: true, ..RIGHT },
                Grade::Warn,
                "REVOKE UPDATE, DELETE, TRUNCATE ON data_change_logs FROM \"auditor\";",
            ),
            (
                Facts { may_keep_progress: false, ..RIGHT },
                Grade::Fail,
                "GRANT SELECT, INSERT, UPDATE ON highwater.audit_progress TO \"auditor\";",
            ),
            (
                Facts { may_make_days: false, ..RIGHT },
                Grade::Fail,
                "GRANT EXECUTE ON FUNCTION highwater.make_audit_day(date) TO \"auditor\";",
            ),
        ];
        for (facts, grade, remedy) in cases {
            let mut report = Report::default();
            judge(facts, "auditor", &mut report);
            let found = &report.findings()[0];
            assert_eq!((found.grade, found.remedy.as_deref().unwrap_or_default()), (grade, remedy), "{facts:?}");
        }
    }
}
