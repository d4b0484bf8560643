//! The publication: that it exists, and publishes every kind of change.

use highwater_postgres::quote;
use tokio_postgres::Client;

use super::report::Report;
use super::table_facts::TableFacts;
use crate::config::Source;

/// What the server says of the publication.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "the catalogue's own columns")]
pub(super) struct Publication {
    pub(super) all_tables: bool,
    pub(super) insert: bool,
    pub(super) update: bool,
    pub(super) delete: bool,
    pub(super) truncate: bool,
    pub(super) via_root: bool,
}

const FACTS: &str = "
    SELECT puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication WHERE pubname = $1";

pub(super) async fn facts(client: &Client, name: &str) -> Result<Option<Publication>, tokio_postgres::Error> {
    let row = client.query_opt(FACTS, &[&name]).await?;
    Ok(row.map(|row| Publication {
        all_tables: row.get(0),
        insert: row.get(1),
        update: row.get(2),
        delete: row.get(3),
        truncate: row.get(4),
        via_root: row.get(5),
    }))
}

pub(super) fn judge(source: &Source, found: Option<Publication>, mapped: &[&TableFacts], report: &mut Report) {
    let name = quote::identifier(&source.publication);
    let subject = format!("publication {}", source.publication);
    let Some(found) = found else {
        let tables: Vec<&str> = mapped.iter().map(|table| table.sql_name.as_str()).collect();
        let root = if mapped.iter().any(|table| table.is_partitioned()) {
            " WITH (publish_via_partition_root = true)"
        } else {
            ""
        };
        let remedy = format!("CREATE PUBLICATION {name} FOR TABLE {}{root};", tables.join(", "));
        return report.fail(subject, "is missing", remedy);
    };
    let kinds = [
        (found.insert, "inserts"),
        (found.update, "updates"),
        (found.delete, "deletes"),
        (found.truncate, "truncations"),
    ];
    let missing: Vec<&str> = kinds.iter().filter(|(published, _)| !published).map(|(_, kind)| *kind).collect();
    if missing.is_empty() {
        report.ok(subject, "publishes every kind of change");
    } else {
        let remedy = format!("ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate');");
        report.fail(subject, format!("leaves out {}: copies would keep what they replace", missing.join(", ")), remedy);
    }
}

#[cfg(test)]
impl Publication {
    pub(super) const WHOLE: Self =
        Self { all_tables: false, insert: true, update: true, delete: true, truncate: true, via_root: false };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::check::tables::tests::{good, source};

    fn remedy(found: Option<Publication>, mapped: &[&TableFacts]) -> Option<String> {
        let mut report = Report::default();
        judge(&source(), found, mapped, &mut report);
        report.findings()[0].remedy.clone()
    }

    #[test]
    fn a_missing_publication_is_made_with_every_mapped_table_and_by_roots() {
        let (plain, other) = (good(), TableFacts { sql_name: "b".into(), ..good() });
        let expected = "CREATE PUBLICATION \"highwater\" FOR TABLE parts, b;";
        assert_eq!(remedy(None, &[&plain, &other]).as_deref(), Some(expected));
        let root = TableFacts { kind: 'p', ..good() };
        let expected = "CREATE PUBLICATION \"highwater\" FOR TABLE parts WITH (publish_via_partition_root = true);";
        assert_eq!(remedy(None, &[&root]).as_deref(), Some(expected));
    }

    #[test]
    fn every_kind_of_change_that_is_left_out_is_named_with_the_command() {
        assert_eq!(remedy(Some(Publication::WHOLE), &[]), None);
        let partial = Publication { delete: false, truncate: false, ..Publication::WHOLE };
        let mut report = Report::default();
        judge(&source(), Some(partial), &[], &mut report);
        assert!(report.findings()[0].text.contains("deletes, truncations"), "{report}");
        let expected = "ALTER PUBLICATION \"highwater\" SET (publish = 'insert, update, delete, truncate');";
        assert_eq!(report.findings()[0].remedy.as_deref(), Some(expected));
    }
}
