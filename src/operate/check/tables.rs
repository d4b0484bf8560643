//! The publication and the captured tables.

use std::collections::BTreeSet;

use highwater_postgres::quote;
use tokio_postgres::Client;

use super::report::Report;
use crate::config::Source;

/// What the server says of the publication.
#[derive(Debug, Clone, Copy)]
struct Publication {
    all_changes: bool,
    via_root: bool,
}

/// What the server says of one table.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact of the catalogue")]
struct TableFacts {
    /// Quoted where needed, with its schema.
    sql_name: String,
    published: bool,
    partitioned: bool,
    readable: bool,
    full_identity: bool,
}

const PUBLICATION: &str = "
    SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot FROM pg_publication WHERE pubname = $1";

const TABLE: &str = "
    SELECT c.oid::regclass::text, c.relkind = 'p', has_table_privilege(c.oid, 'SELECT'), c.relreplident = 'f',
           EXISTS (SELECT FROM pg_publication_tables p
                   WHERE p.pubname = $3 AND p.schemaname = n.nspname AND p.tablename = c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";

/// Highwater's own tables: publishing them would capture what a worker writes.
const OWN: &str = "
    SELECT format('%I.%I', schemaname, tablename) FROM pg_publication_tables
    WHERE pubname = $1 AND (schemaname = 'highwater' OR tablename LIKE 'data\\_change\\_logs%')";

pub(super) async fn check(
    client: &Client,
    source: &Source,
    role: &str,
    report: &mut Report,
) -> Result<(), tokio_postgres::Error> {
    let publication = client.query_opt(PUBLICATION, &[&source.publication]).await?;
    let publication = publication.map(|row| Publication { all_changes: row.get(0), via_root: row.get(1) });
    let names: BTreeSet<&str> = source.map.iter().map(|entry| entry.table.value.as_str()).collect();
    judge_publication(source, publication, &names, report);
    for name in names {
        let (schema, table) = name.split_once('.').unwrap_or(("public", name));
        let row = client.query_opt(TABLE, &[&schema, &table, &source.publication]).await?;
        let facts = row.map(|row| TableFacts {
            sql_name: row.get(0),
            partitioned: row.get(1),
            readable: row.get(2),
            full_identity: row.get(3),
            published: row.get(4),
        });
        judge_table(source, role, publication, name, facts.as_ref(), report);
    }
    for row in client.query(OWN, &[&source.publication]).await? {
        let table: String = row.get(0);
        let remedy = format!("ALTER PUBLICATION {} DROP TABLE {table};", quote::identifier(&source.publication));
        report.warn(
            format!("table {table}"),
            "is Highwater's own and published for nothing: it is never captured",
            remedy,
        );
    }
    Ok(())
}

fn judge_publication(source: &Source, found: Option<Publication>, names: &BTreeSet<&str>, report: &mut Report) {
    let name = quote::identifier(&source.publication);
    let subject = format!("publication {}", source.publication);
    match found {
        None => {
            let tables: Vec<&str> = names.iter().copied().collect();
            let remedy = format!("CREATE PUBLICATION {name} FOR TABLE {};", tables.join(", "));
            report.fail(subject, "is missing", remedy);
        }
        Some(Publication { all_changes: false, .. }) => {
            let remedy = format!("ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate');");
            report.fail(subject, "leaves out some kinds of changes", remedy);
        }
        Some(_) => report.ok(subject, "publishes every kind of change"),
    }
}

fn judge_table(
    source: &Source,
    role: &str,
    publication: Option<Publication>,
    name: &str,
    facts: Option<&TableFacts>,
    report: &mut Report,
) {
    let subject = format!("table {name}");
    let Some(facts) = facts else {
        let place =
            source.map.iter().find(|entry| entry.table.value == name).map(|entry| entry.table.place.to_string());
        let text = format!("does not exist; {} names it", place.unwrap_or_default());
        return report.fail(subject, text, "correct the entry, or create the table");
    };
    let table = &facts.sql_name;
    let publication_name = quote::identifier(&source.publication);
    let mut good = true;
    if !facts.published && publication.is_some() {
        good = false;
        if facts.partitioned && publication.is_some_and(|publication| !publication.via_root) {
            let remedy = format!("ALTER PUBLICATION {publication_name} SET (publish_via_partition_root = true);");
            report.fail(&subject, "is partitioned, and its changes come under the names of its partitions", remedy);
        } else {
            let remedy = format!("ALTER PUBLICATION {publication_name} ADD TABLE {table};");
            report.fail(&subject, "is not in the publication", remedy);
        }
    }
    if !facts.readable {
        good = false;
        let remedy = format!("GRANT SELECT ON {table} TO {};", quote::identifier(role));
        report.fail(&subject, format!("cannot be read by {role}"), remedy);
    }
    if !facts.full_identity {
        good = false;
        let text = "has no full replica identity: old values are missing from history and audit, and changed fields are not known";
        report.warn(&subject, text, format!("ALTER TABLE {table} REPLICA IDENTITY FULL;"));
    }
    if good {
        report.ok(subject, "is published, readable, and shows its old rows");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::check::Grade;

    const PUBLISHES: Publication = Publication { all_changes: true, via_root: false };

    fn source() -> Source {
        let document = crate::config::Document::parse("test.toml", "", std::collections::BTreeMap::new());
        Source::read(&mut document.section("source"))
    }

    fn judge(facts: Option<&TableFacts>) -> Vec<(Grade, Option<String>)> {
        let mut report = Report::default();
        judge_table(&source(), "reader", Some(PUBLISHES), "parts", facts, &mut report);
        report.findings().iter().map(|finding| (finding.grade, finding.remedy.clone())).collect()
    }

    fn good() -> TableFacts {
        TableFacts {
            sql_name: "parts".into(),
            published: true,
            partitioned: false,
            readable: true,
            full_identity: true,
        }
    }

    #[test]
    fn a_table_as_it_should_be_is_ok() {
        assert_eq!(judge(Some(&good())), [(Grade::Ok, None)]);
    }

    #[test]
    fn every_fault_of_a_table_comes_with_the_command_that_mends_it() {
        let bad = TableFacts { published: false, readable: false, full_identity: false, ..good() };
        let expected = [
            (Grade::Fail, Some("ALTER PUBLICATION \"highwater\" ADD TABLE parts;".to_owned())),
            (Grade::Fail, Some("GRANT SELECT ON parts TO \"reader\";".to_owned())),
            (Grade::Warn, Some("ALTER TABLE parts REPLICA IDENTITY FULL;".to_owned())),
        ];
        assert_eq!(judge(Some(&bad)), expected);
        let partitioned = TableFacts { published: false, partitioned: true, ..good() };
        let remedy = "ALTER PUBLICATION \"highwater\" SET (publish_via_partition_root = true);".to_owned();
        assert_eq!(judge(Some(&partitioned)), [(Grade::Fail, Some(remedy))]);
    }

    #[test]
    fn a_missing_table_names_the_line_that_asks_for_it() {
        let mut report = Report::default();
        judge_table(&source(), "reader", Some(PUBLISHES), "parts", None, &mut report);
        let text = &report.findings()[0].text;
        assert!(text.starts_with("does not exist; built-in config.toml:"), "{text}");
    }

    #[test]
    fn a_missing_publication_is_made_with_every_mapped_table() {
        let mut report = Report::default();
        judge_publication(&source(), None, &BTreeSet::from(["a", "b"]), &mut report);
        assert_eq!(report.findings()[0].remedy.as_deref(), Some("CREATE PUBLICATION \"highwater\" FOR TABLE a, b;"));
    }
}
