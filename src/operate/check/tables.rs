//! The captured tables: whether they are published, can be read, and show what their events need of the old row.

use highwater_postgres::quote;

use super::publication::Publication;
use super::report::Report;
use super::table_facts::TableFacts;
use crate::config::{Source, instead};
use crate::events::mapping::compile::reads_column;
use crate::events::mapping::spec::EntrySpec;

/// Highwater's own tables: publishing them would capture what a worker writes.
fn is_own(table: &TableFacts) -> bool {
    table.schema == "highwater" || table.sql_name.starts_with("data_change_logs")
}

/// What all tables are judged by.
pub(super) struct Judge<'a> {
    pub(super) source: &'a Source,
    /// Whether every change of every published table is wanted.
    pub(super) history: bool,
    pub(super) role: &'a str,
    pub(super) publication: Option<Publication>,
}

impl Judge<'_> {
    /// Judges every table that is mapped or published.
    pub(super) fn judge(&self, tables: &[TableFacts], report: &mut Report) {
        let mut mapped: Vec<&EntrySpec> = self.source.map.iter().collect();
        mapped.sort_by_key(|entry| &entry.table.value);
        mapped.dedup_by_key(|entry| &entry.table.value);
        for entry in &mapped {
            let name = &entry.table.value;
            if let Some(table) = tables.iter().find(|table| table.name == *name) {
                self.mapped(table, report);
            } else {
                let near = instead(name, tables.iter().map(|table| table.name.as_str()));
                let text = format!("does not exist, though {} names it; {near}", entry.table.place);
                report.fail(format!("table {name}"), text, "correct the entry, or create the table");
            }
        }
        let is_mapped = |table: &&TableFacts| mapped.iter().any(|entry| entry.table.value == table.name);
        for table in tables.iter().filter(|table| table.published && !is_mapped(table)) {
            self.unmapped(table, report);
        }
    }

    fn mapped(&self, table: &TableFacts, report: &mut Report) {
        let (subject, name) = (format!("table {}", table.name), &table.sql_name);
        let mut findings = Findings { subject: &subject, report, good: true };
        let role = quote::identifier(self.role);
        match table.kind {
            'f' => findings
                .fail("is a foreign table: its changes are in another server's log", "map the table on its own server"),
            'v' | 'm' => findings.fail("is a view: only tables stand in the log", "map the tables behind it"),
            _ => {}
        }
        if table.unlogged {
            findings.fail("is unlogged: its changes never reach the log", format!("ALTER TABLE {name} SET LOGGED;"));
        }
        self.is_published(table, &mut findings);
        if !table.schema_usable {
            let schema = quote::identifier(&table.schema);
            findings.fail(
                format!("is in a schema that {} may not use", self.role),
                format!("GRANT USAGE ON SCHEMA {schema} TO {role};"),
            );
        }
        if !table.readable {
            findings.fail(format!("cannot be read by {}", self.role), format!("GRANT SELECT ON {name} TO {role};"));
        }
        if table.rows_hidden {
            let text = format!("hides rows from {} by row security: the snapshot would leave them out", self.role);
            findings.fail(text, format!("ALTER ROLE {role} BYPASSRLS;"));
        }
        self.writes(table, &mut findings);
        self.old_rows(table, &mut findings);
        if findings.good {
            report.ok(subject, "is published, readable, and shows its old rows");
        }
    }

    /// A table that no entry maps: the history has its changes, if there is one.
    fn unmapped(&self, table: &TableFacts, report: &mut Report) {
        let subject = format!("table {}", table.name);
        let drop = format!("ALTER PUBLICATION {} DROP TABLE {};", self.name(), table.sql_name);
        let all_tables = self.publication.is_some_and(|publication| publication.all_tables);
        let mut findings = Findings { subject: &subject, report, good: true };
        if is_own(table) {
            // For all tables, nothing can be left out.
            if !all_tables {
                findings.warn("is Highwater's own and published for nothing: it is never captured", drop);
            }
        } else if self.history {
            self.writes(table, &mut findings);
            self.old_rows(table, &mut findings);
        } else {
            self.writes(table, &mut findings);
            if !table.partition && !all_tables {
                findings.warn("is published for nothing: no entry maps it, and history is off", drop);
            }
        }
    }

    fn name(&self) -> String {
        quote::identifier(&self.source.publication)
    }

    fn is_published(&self, table: &TableFacts, findings: &mut Findings<'_>) {
        let Some(publication) = self.publication else { return };
        if table.published {
            return;
        }
        if let Some(root) = table.published_root.as_ref().filter(|_| publication.via_root) {
            let name = self.name();
            let text =
                format!("is a partition, and its changes come under the name of {root} (publish_via_partition_root)");
            let remedy =
                format!("map {root} instead; or ALTER PUBLICATION {name} SET (publish_via_partition_root = false);");
            findings.fail(text, remedy);
        } else if table.is_partitioned() && !publication.via_root {
            let remedy = format!("ALTER PUBLICATION {} SET (publish_via_partition_root = true);", self.name());
            findings.fail("is partitioned, and its changes come under the names of its partitions", remedy);
        } else if !publication.all_tables {
            let remedy = format!("ALTER PUBLICATION {} ADD TABLE {};", self.name(), table.sql_name);
            findings.fail("is not in the publication", remedy);
        }
    }

    /// What makes the server refuse the shop's own updates and deletes of a published table (manual, "Replica Identity",
    /// "Column Lists", "Row Filters"). It says so at the first of them, not when the publication is made.
    fn writes(&self, table: &TableFacts, findings: &mut Findings<'_>) {
        let refuses = self.publication.is_some_and(|publication| publication.update || publication.delete);
        if !table.published || !refuses {
            return;
        }
        if table.identity_columns.is_empty() {
            let text =
                "is published without a replica identity: the server refuses the shop's updates and deletes of it";
            findings.fail(text, self.full(table));
            return;
        }
        if table.identity == 'f' && !table.unsent.is_empty() {
            let text = format!(
                "has generated columns, {}, which its full replica identity holds and the publication does not: the server refuses \
                 the shop's updates and deletes",
                table.unsent.join(", ")
            );
            let remedy = match &table.not_stored[..] {
                [] => self.with_generated(table),
                not_stored => format!(
                    "no publication can have {}: make them STORED, or ALTER TABLE {} REPLICA IDENTITY DEFAULT;",
                    not_stored.join(", "),
                    table.sql_name
                ),
            };
            findings.fail(text, remedy);
        }
        if table.identity == 'f' && table.listed {
            // Whatever it lists. Where generated columns are left out besides, the remedy above drops the list.
            if table.unsent.is_empty() {
                let text = "has a column list beside a full replica identity: the server refuses the shop's updates and deletes; \
                            with its key as the identity, the list could stay";
                findings.fail(text, self.without_list(table));
            }
        } else if table.identity_columns.iter().any(|column| table.cut_off.contains(column)) {
            let text = format!(
                "has a column list without {}, which its replica identity needs: the server refuses the shop's updates and deletes",
                table.cut_off.join(", ")
            );
            findings.fail(text, self.without_list(table));
        }
        let outside = |column: &&String| !table.identity_columns.contains(column);
        let outside: Vec<&str> = table.filter_columns.iter().filter(outside).map(String::as_str).collect();
        if !outside.is_empty() {
            let text = format!(
                "has a row filter over {}, outside its replica identity: the server refuses the shop's updates and deletes",
                outside.join(", ")
            );
            findings.fail(text, self.full(table));
        }
    }

    /// What is missing where old rows are not sent whole.
    fn old_rows(&self, table: &TableFacts, findings: &mut Findings<'_>) {
        let odd =
            table.odd_partitions.iter().map(|partition| format!("ALTER TABLE {partition} REPLICA IDENTITY FULL;"));
        let odd: Vec<String> = odd.collect();
        if table.identity == 'f' {
            if !odd.is_empty() {
                let text = format!(
                    "has partitions without full replica identity, {}, and each one's own decides",
                    table.odd_partitions.join(", ")
                );
                findings.warn(text, odd.join(" "));
            }
            return;
        }
        let entries: Vec<&EntrySpec> = self.source.map.iter().filter(|entry| entry.table.value == table.name).collect();
        let read: Vec<&str> =
            table.toastable.iter().map(String::as_str).filter(|column| reads_column(&entries, column)).collect();
        let mut lacks = Vec::new();
        if self.history {
            lacks.push("old values are missing from history and audit log".to_owned());
        }
        if !entries.is_empty() {
            lacks.push("changed fields are not known".to_owned());
        }
        if !read.is_empty() {
            lacks.push(format!(
                "long values of {} are missing from the events of updates that leave them alone",
                read.join(", ")
            ));
        }
        if !lacks.is_empty() {
            let all: Vec<String> = std::iter::once(self.full(table)).chain(odd).collect();
            findings.warn(format!("has no full replica identity: {}", lacks.join("; ")), all.join(" "));
        }
    }

    /// Returns what gives a table a full replica identity. With a column list, or with generated columns that the publication does not
    /// have, the server would refuse the shop's writes behind it.
    fn full(&self, table: &TableFacts) -> String {
        let full = format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.sql_name);
        match (&table.unsent[..], &table.not_stored[..]) {
            ([], _) if table.listed => format!("{} {full}", self.without_list(table)),
            ([], _) => full,
            (_, []) => format!("{} {full}", self.with_generated(table)),
            (_, not_stored) => {
                format!("make {} STORED first, then {} {full}", not_stored.join(", "), self.with_generated(table))
            }
        }
    }

    /// Returns the statements that publish a table's stored generated columns. Where it has a column list, that alone counts
    /// (manual, "Generated Columns: Logical Replication").
    fn with_generated(&self, table: &TableFacts) -> String {
        let all = format!("ALTER PUBLICATION {} SET (publish_generated_columns = stored);", self.name());
        if table.listed { format!("{} {all}", self.without_list(table)) } else { all }
    }

    /// Returns the statements that publish all columns of a table, of the rows that are published now. In one transaction: what the
    /// shop writes while the table is not published is in no log that capture reads.
    pub(super) fn without_list(&self, table: &TableFacts) -> String {
        let (publication, name) = (self.name(), &table.sql_name);
        let filter = table.row_filter.as_ref().map(|filter| format!(" WHERE ({filter})")).unwrap_or_default();
        let told = match &table.cut_off[..] {
            [] => String::new(),
            cut_off => format!("/* publishes {}, too */ ", cut_off.join(", ").replace("*/", "* /")),
        };
        format!(
            "{told}BEGIN; ALTER PUBLICATION {publication} DROP TABLE {name}; \
             ALTER PUBLICATION {publication} ADD TABLE {name}{filter}; COMMIT;"
        )
    }
}

/// What is said of one table.
struct Findings<'a> {
    subject: &'a str,
    report: &'a mut Report,
    good: bool,
}

impl Findings<'_> {
    fn fail(&mut self, text: impl Into<String>, remedy: impl Into<String>) {
        self.good = false;
        self.report.fail(self.subject, text, remedy);
    }

    fn warn(&mut self, text: impl Into<String>, remedy: impl Into<String>) {
        self.good = false;
        self.report.warn(self.subject, text, remedy);
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
pub(super) mod tests;
