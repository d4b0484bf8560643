//! The captured tables: whether they are published, can be read, and show what their events need of the old row.

use highwater_postgres::quote;
use tokio_postgres::Client;

use super::publication::Publication;
use super::report::Report;
use crate::config::{Source, instead};
use crate::events::mapping::compile::reads_column;
use crate::events::mapping::spec::EntrySpec;

/// What the server says of one table.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact of the catalogue")]
pub(super) struct TableFacts {
    /// As the mapping calls it.
    pub(super) name: String,
    /// Quoted where needed, with its schema outside `public`.
    pub(super) sql_name: String,
    pub(super) schema: String,
    /// `pg_class.relkind`: r table, p partitioned, f foreign, v and m views.
    pub(super) kind: char,
    pub(super) unlogged: bool,
    /// It is a partition of another.
    pub(super) partition: bool,
    pub(super) published: bool,
    /// The table above it that is published, by which its changes come where the publication has them by roots.
    pub(super) published_root: Option<String>,
    pub(super) schema_usable: bool,
    pub(super) readable: bool,
    /// Row security hides rows from this role.
    pub(super) rows_hidden: bool,
    /// `pg_class.relreplident`: f full, d primary key, i index, n nothing.
    pub(super) identity: char,
    /// The columns of the identity; all where it is full.
    pub(super) identity_columns: Vec<String>,
    /// Columns that the publication's list leaves out.
    pub(super) cut_off: Vec<String>,
    /// Columns that the publication's row filter reads.
    pub(super) filter_columns: Vec<String>,
    /// Columns whose values may be stored apart, so that an update that leaves them alone does not send them.
    pub(super) toastable: Vec<String>,
    /// Partitions whose identity is another than its own: each one's own decides.
    pub(super) odd_partitions: Vec<String>,
}

impl TableFacts {
    pub(super) fn is_partitioned(&self) -> bool {
        self.kind == 'p'
    }

    /// Whether the log can have its changes.
    pub(super) fn can_be_captured(&self) -> bool {
        matches!(self.kind, 'r' | 'p')
    }

    /// Whether the publication has it, under its own name.
    pub(super) fn is_captured(&self) -> bool {
        self.published
    }
}

/// `{lists}` is what PostgreSQL 15 and newer have more: column lists and row filters.
const FACTS: &str = "
    SELECT CASE n.nspname WHEN 'public' THEN c.relname::text ELSE n.nspname || '.' || c.relname END,
           CASE n.nspname WHEN 'public' THEN format('%I', c.relname) ELSE format('%I.%I', n.nspname, c.relname) END,
           n.nspname::text, c.relkind::text, c.relpersistence = 'u', c.relispartition,
           p.tablename IS NOT NULL, has_schema_privilege(n.oid, 'USAGE'),
           NOT EXISTS (SELECT FROM columns WHERE attrelid = c.oid AND attname <> ALL (coalesce(l.cut_off, '{}'))
                       AND NOT has_column_privilege(c.oid, attnum, 'SELECT')),
           row_security_active(c.oid), c.relreplident::text,
           ARRAY(SELECT attname::text FROM columns WHERE attrelid = c.oid AND (c.relreplident = 'f' OR attnum = ANY (
               SELECT unnest(i.indkey[0:i.indnkeyatts - 1]) FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid
               AND CASE c.relreplident WHEN 'd' THEN i.indisprimary AND i.indimmediate WHEN 'i' THEN i.indisreplident
                   ELSE false END))),
           coalesce(l.cut_off, '{}')::text[], coalesce(l.filtered, '{}')::text[],
           ARRAY(SELECT attname::text FROM columns WHERE attrelid = c.oid AND attstorage <> 'p'
                 AND EXISTS (SELECT FROM pg_class part WHERE part.reltoastrelid <> 0 AND
                     (part.oid = c.oid OR part.oid IN (SELECT relid FROM pg_partition_tree(c.oid))))
                 ORDER BY attnum),
           ARRAY(SELECT t.relid::regclass::text FROM pg_partition_tree(c.oid) t JOIN pg_class part ON part.oid = t.relid
                 WHERE c.relkind = 'p' AND t.isleaf AND part.relreplident <> c.relreplident),
           CASE WHEN c.relispartition THEN (SELECT CASE q.schemaname WHEN 'public' THEN q.tablename::text ELSE q.schemaname || '.' || q.tablename END
            FROM pg_partition_ancestors(c.oid) a JOIN pg_class up ON up.oid = a.relid AND up.oid <> c.oid
            JOIN pg_publication_tables q ON q.pubname = $1 AND q.tablename = up.relname
                 AND q.schemaname = (SELECT nspname FROM pg_namespace WHERE oid = up.relnamespace) LIMIT 1) END
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_publication_tables p ON p.pubname = $1 AND p.schemaname = n.nspname AND p.tablename = c.relname
    LEFT JOIN LATERAL ({lists}) l ON true
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm')
      AND (p.tablename IS NOT NULL
           OR CASE n.nspname WHEN 'public' THEN c.relname::text ELSE n.nspname || '.' || c.relname END = ANY ($2))
    ORDER BY 1";

const COLUMNS: &str = "
    WITH columns AS (SELECT attrelid, attname, attnum, attstorage FROM pg_attribute
                     WHERE attnum > 0 AND NOT attisdropped AND attgenerated = '')";

// The filter is an expression tree, whose text names the columns that it reads by their numbers.
const LISTS: &str = "
    SELECT ARRAY(SELECT attname FROM columns WHERE attrelid = c.oid AND attname <> ALL (p.attnames)) AS cut_off,
           ARRAY(SELECT DISTINCT attname FROM columns, pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid,
                 regexp_matches(r.prqual::text, ':varattno (\\d+)', 'g') AS read
                 WHERE b.pubname = $1 AND r.prrelid = c.oid AND attrelid = c.oid AND attnum = read[1]::int) AS filtered
    WHERE p.tablename IS NOT NULL";

/// Highwater's own tables: publishing them would capture what a worker writes.
fn is_own(table: &TableFacts) -> bool {
    table.schema == "highwater" || table.sql_name.starts_with("data_change_logs")
}

/// Asks for every table that is published or mapped.
pub(super) async fn facts(
    client: &Client,
    source: &Source,
    version: i32,
) -> Result<Vec<TableFacts>, tokio_postgres::Error> {
    let lists = if version >= 150_000 { LISTS } else { "SELECT NULL::name[] AS cut_off, NULL::name[] AS filtered" };
    let sql = format!("{COLUMNS} {}", FACTS.replace("{lists}", lists));
    let names: Vec<&str> = source.map.iter().map(|entry| entry.table.value.as_str()).collect();
    let rows = client.query(&sql, &[&source.publication, &names]).await?;
    let letter = |text: String| text.chars().next().unwrap_or(' ');
    let facts = rows.into_iter().map(|row| TableFacts {
        name: row.get(0),
        sql_name: row.get(1),
        schema: row.get(2),
        kind: letter(row.get(3)),
        unlogged: row.get(4),
        partition: row.get(5),
        published: row.get(6),
        schema_usable: row.get(7),
        readable: row.get(8),
        rows_hidden: row.get(9),
        identity: letter(row.get(10)),
        identity_columns: row.get(11),
        cut_off: row.get(12),
        filter_columns: row.get(13),
        toastable: row.get(14),
        odd_partitions: row.get(15),
        published_root: row.get(16),
    });
    Ok(facts.collect())
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
        let name = &table.sql_name;
        let full = format!("ALTER TABLE {name} REPLICA IDENTITY FULL;");
        if table.identity_columns.is_empty() {
            let text =
                "is published without a replica identity: the server refuses the shop's updates and deletes of it";
            findings.fail(text, full);
            return;
        }
        if table.identity_columns.iter().any(|column| table.cut_off.contains(column)) {
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
            findings.fail(text, full);
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
            let full = format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.sql_name);
            let all: Vec<String> = std::iter::once(full).chain(odd).collect();
            findings.warn(format!("has no full replica identity: {}", lacks.join("; ")), all.join(" "));
        }
    }

    /// Returns the statements that publish all columns of a table.
    pub(super) fn without_list(&self, table: &TableFacts) -> String {
        let (publication, name) = (self.name(), &table.sql_name);
        format!("ALTER PUBLICATION {publication} DROP TABLE {name}; ALTER PUBLICATION {publication} ADD TABLE {name};")
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
