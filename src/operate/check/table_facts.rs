//! What the server says of the tables that are published or mapped.

use tokio_postgres::Client;

use crate::config::Source;

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
    /// The publication has a column list for it.
    pub(super) listed: bool,
    /// Columns that the publication's list leaves out.
    pub(super) cut_off: Vec<String>,
    /// The publication's row filter, SQL.
    pub(super) row_filter: Option<String>,
    /// Columns that the publication's row filter reads.
    pub(super) filter_columns: Vec<String>,
    /// Generated columns that the publication leaves out, where the server counts them to the identity: from 18 on.
    pub(super) unsent: Vec<String>,
    /// Those of them that no publication can have, since they are not stored.
    pub(super) not_stored: Vec<String>,
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
                       AND NOT has_column_privilege(c.oid, attnum, 'SELECT'))
           AND NOT EXISTS (SELECT FROM generated WHERE attrelid = c.oid AND attname <> ALL (l.unsent)
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
                 AND q.schemaname = (SELECT nspname FROM pg_namespace WHERE oid = up.relnamespace) LIMIT 1) END,
           coalesce(l.unsent, '{}')::text[],
           ARRAY(SELECT attname::text FROM generated WHERE attrelid = c.oid AND attgenerated = 'v' ORDER BY attnum),
           coalesce(l.listed, false), l.row_filter
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_publication_tables p ON p.pubname = $1 AND p.schemaname = n.nspname AND p.tablename = c.relname
    LEFT JOIN LATERAL ({lists}) l ON true
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm')
      AND (p.tablename IS NOT NULL
           OR CASE n.nspname WHEN 'public' THEN c.relname::text ELSE n.nspname || '.' || c.relname END = ANY ($2))
    ORDER BY 1";

const COLUMNS: &str = "
    WITH columns AS (SELECT attrelid, attname, attnum, attstorage FROM pg_attribute
                     WHERE attnum > 0 AND NOT attisdropped AND attgenerated = ''),
         generated AS (SELECT attrelid, attname, attnum, attgenerated FROM pg_attribute
                       WHERE attnum > 0 AND NOT attisdropped AND attgenerated <> ''
                             AND current_setting('server_version_num')::int >= 180000)";

// The filter is an expression tree, whose text names the columns that it reads by their numbers.
const LISTS: &str = "
    SELECT ARRAY(SELECT attname FROM columns WHERE attrelid = c.oid AND attname <> ALL (p.attnames)) AS cut_off,
           ARRAY(SELECT DISTINCT attname FROM columns, pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid,
                 regexp_matches(r.prqual::text, ':varattno (\\d+)', 'g') AS read
                 WHERE b.pubname = $1 AND r.prrelid = c.oid AND attrelid = c.oid AND attnum = read[1]::int) AS filtered,
           ARRAY(SELECT attname FROM generated WHERE attrelid = c.oid AND attname <> ALL (p.attnames) ORDER BY attnum) AS unsent,
           EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid
                   WHERE b.pubname = $1 AND r.prrelid = c.oid AND r.prattrs IS NOT NULL) AS listed,
           p.rowfilter AS row_filter
    WHERE p.tablename IS NOT NULL";

/// Asks for every table that is published or mapped.
pub(super) async fn facts(
    client: &Client,
    source: &Source,
    version: i32,
) -> Result<Vec<TableFacts>, tokio_postgres::Error> {
    let none = "SELECT NULL::name[] AS cut_off, NULL::name[] AS filtered, NULL::name[] AS unsent, false AS listed, NULL AS row_filter";
    let lists = if version >= 150_000 { LISTS } else { none };
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
        unsent: row.get(17),
        not_stored: row.get(18),
        listed: row.get(19),
        row_filter: row.get(20),
    });
    Ok(facts.collect())
}
