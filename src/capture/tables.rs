//! What only the catalogue knows of a table: keys, replica identity, and the base types behind domains.

use std::collections::HashMap;
use std::time::Duration;

use highwater_kafka::murmur2;
use highwater_postgres::{Connection, Error, quote};

use crate::events::json::Encoding;
use crate::events::row::{Column, Identity, Table};

/// `timestamptz`, the one type whose text has an RFC 3339 form.
const TIMESTAMPTZ: u32 = 1184;

/// A table as the catalogue describes it now.
#[derive(Debug, Clone)]
pub(super) struct Described {
    pub(super) schema: String,
    pub(super) name: String,
    /// Published columns in row order: name, type, base type, whether it cannot be null.
    columns: Vec<DescribedColumn>,
    primary_key: Vec<String>,
    unique_keys: Vec<Vec<String>>,
    identity: DescribedIdentity,
    /// Partitions without full replica identity, as SQL names them, of a table that has it: a partition does not inherit it.
    pub(super) narrow_partitions: Vec<String>,
    /// Condition of the publication's row filter, SQL.
    pub(super) row_filter: Option<String>,
}

#[derive(Debug, Clone)]
struct DescribedColumn {
    name: String,
    type_oid: u32,
    base_oid: u32,
}

#[derive(Debug, Clone)]
enum DescribedIdentity {
    Full,
    Columns(Vec<String>),
    Nothing,
}

/// A column as a relation message names it: name and type OID.
pub(super) type StreamColumn<'a> = (&'a str, u32);

impl Described {
    /// Returns the name by which mapping and events call the table.
    pub(super) fn plain_name(&self) -> String {
        plain_name(&self.schema, &self.name)
    }

    /// Returns the table with the columns that it has now.
    pub(super) fn table(&self) -> Table {
        let columns: Vec<_> = self.columns.iter().map(|column| (column.name.as_str(), column.type_oid)).collect();
        self.table_as_of(&columns)
    }

    /// Returns the table with the columns that it had at a place in the log.
    pub(super) fn table_as_of(&self, columns: &[StreamColumn<'_>]) -> Table {
        let bases: HashMap<u32, u32> = self.columns.iter().map(|column| (column.type_oid, column.base_oid)).collect();
        let place = |name: &String| columns.iter().position(|(column, _)| column == name);
        let key = |names: &Vec<String>| names.iter().map(place).collect::<Option<Vec<usize>>>();
        Table {
            name: self.plain_name(),
            primary_key: key(&self.primary_key).unwrap_or_default(),
            unique_keys: self.unique_keys.iter().filter_map(key).collect(),
            identity: match &self.identity {
                DescribedIdentity::Full => Identity::Full,
                DescribedIdentity::Columns(names) => Identity::Columns(names.iter().filter_map(place).collect()),
                DescribedIdentity::Nothing => Identity::Nothing,
            },
            columns: columns.iter().map(|(name, oid)| column(name, *bases.get(oid).unwrap_or(oid))).collect(),
        }
    }

    /// Returns the table with the least that any of its partitions says of a deleted row: its primary key.
    pub(super) fn narrowest(&self) -> Table {
        let table = self.table();
        Table { identity: Identity::Columns(table.primary_key.clone()), ..table }
    }

    /// Whether these are the columns that it has now.
    pub(super) fn has(&self, columns: &[StreamColumn<'_>]) -> bool {
        self.columns.iter().map(|column| (column.name.as_str(), column.type_oid)).eq(columns.iter().copied())
    }

    /// Returns a number for the columns that it has now.
    pub(super) fn shape(&self) -> u32 {
        shape(self.columns.iter().map(|column| (column.name.as_str(), column.type_oid)))
    }

    /// Returns the statement that gives it a primary key: of `id` if there is one, else of a unique key that it has.
    pub(super) fn add_primary_key(&self) -> String {
        let id = self.columns.iter().find(|column| column.name == "id").map(|column| vec![column.name.clone()]);
        let key = id.or_else(|| self.unique_keys.first().cloned());
        let key = key.map(|names| names.iter().map(|name| quote::identifier(name)).collect::<Vec<_>>().join(", "));
        let table = quote::qualified(&self.schema, &self.name);
        format!("ALTER TABLE {table} ADD PRIMARY KEY ({});", key.as_deref().unwrap_or("…"))
    }

    /// Returns the columns as a SELECT list, in row order.
    pub(super) fn select_list(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(|column| quote::identifier(&column.name)).collect();
        names.join(", ")
    }
}

/// Returns a number for columns, by names and types: another one means other columns.
pub(super) fn shape<'a>(columns: impl Iterator<Item = StreamColumn<'a>>) -> u32 {
    let names = columns.map(|(name, oid)| format!("{name}\0{oid}\0"));
    murmur2(names.collect::<String>().as_bytes())
}

/// Returns a table of which the catalogue knows nothing any more: what the log itself says of it.
pub(super) fn table_of_the_log(
    schema: &str,
    name: &str,
    columns: &[StreamColumn<'_>],
    key: Vec<usize>,
    full: bool,
) -> Table {
    let identity = if full { Identity::Full } else { Identity::Columns(key.clone()) };
    Table {
        name: plain_name(schema, name),
        columns: columns.iter().map(|(name, oid)| column(name, *oid)).collect(),
        primary_key: if full { Vec::new() } else { key },
        unique_keys: Vec::new(),
        identity,
    }
}

fn column(name: &str, base_oid: u32) -> Column {
    Column { name: name.to_owned(), encoding: Encoding::of_type(base_oid), instant: base_oid == TIMESTAMPTZ }
}

/// Returns the name by which mapping and events call a table: without the schema where that is `public`.
pub(super) fn plain_name(schema: &str, name: &str) -> String {
    if schema == "public" { name.to_owned() } else { format!("{schema}.{name}") }
}

/// What SQL calls a table by the name that the mapping has for it.
const PLAIN_NAME: &str = "CASE n.nspname WHEN 'public' THEN c.relname::text ELSE n.nspname || '.' || c.relname END";

/// Describes the tables of a publication, Highwater's own left out. By OID.
pub(super) fn describe_published(
    connection: &mut Connection,
    publication: &str,
    timeout: Duration,
) -> Result<HashMap<u32, Described>, Error> {
    let tables = published(connection, publication);
    describe(connection, &tables, "true", timeout)
}

/// Describes the tables of these names and the one with this OID, as far as a publication has them. By OID.
pub(super) fn describe_some(
    connection: &mut Connection,
    publication: &str,
    names: &[String],
    oid: Option<u32>,
    timeout: Duration,
) -> Result<HashMap<u32, Described>, Error> {
    let tables = published(connection, publication);
    let with_oid = oid.map(|oid| format!(" OR c.oid = {oid}")).unwrap_or_default();
    describe(connection, &tables, &format!("{PLAIN_NAME} = ANY ({}){with_oid}", array(names)), timeout)
}

/// Describes tables by the names that the mapping has for them, with all their columns and whether or not they are
/// published. By OID; what does not exist is left out.
pub(super) fn describe_named(
    connection: &mut Connection,
    names: &[&str],
    timeout: Duration,
) -> Result<HashMap<u32, Described>, Error> {
    let tables = format!(
        "SELECT n.nspname AS schemaname, c.relname AS tablename, NULL::name[] AS attnames, NULL::text AS rowfilter
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND {PLAIN_NAME} = ANY ({})",
        array(names)
    );
    describe(connection, &tables, "true", timeout)
}

/// Returns the query for the tables of a publication.
fn published(connection: &Connection, publication: &str) -> String {
    // Column lists and row filters came with PostgreSQL 15.
    let (attnames, filter) = match connection.server_version() {
        150_000.. => ("attnames", "rowfilter"),
        _ => ("NULL::name[]", "NULL::text"),
    };
    format!(
        "SELECT schemaname, tablename, {attnames} AS attnames, {filter} AS rowfilter FROM pg_publication_tables
         WHERE pubname = {}",
        quote::literal(publication)
    )
}

fn array(names: &[impl AsRef<str>]) -> String {
    let names: Vec<String> = names.iter().map(|name| quote::literal(name.as_ref())).collect();
    format!("ARRAY[{}]::text[]", names.join(", "))
}

/// Describes the tables that a query names: `schemaname`, `tablename`, `attnames` (all columns that are not generated where null;
/// from 18 on a publication may have stored generated ones), `rowfilter`. Of them those that meet the condition on `c` and `n`.
fn describe(
    connection: &mut Connection,
    tables: &str,
    condition: &str,
    timeout: Duration,
) -> Result<HashMap<u32, Described>, Error> {
    let sql = format!(
        "SELECT c.oid, n.nspname, c.relname, c.relreplident, p.rowfilter, a.attname, a.atttypid,
                (WITH RECURSIVE up AS (
                     SELECT t.oid, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
                     UNION ALL SELECT t.oid, t.typtype, t.typbasetype FROM up JOIN pg_type t ON t.oid = up.typbasetype)
                 SELECT up.oid FROM up WHERE up.typtype <> 'd'),
                a.attnum, a.attnotnull,
                CASE WHEN c.relkind = 'p' AND c.relreplident = 'f' THEN (
                    WITH RECURSIVE below AS (
                        SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = c.oid
                        UNION ALL SELECT i.inhrelid FROM below JOIN pg_inherits i ON i.inhparent = below.inhrelid)
                    SELECT string_agg(leaf.oid::regclass::text, E'\n' ORDER BY leaf.oid)
                    FROM below JOIN pg_class leaf ON leaf.oid = below.inhrelid
                    WHERE leaf.relkind = 'r' AND leaf.relreplident <> 'f') END
         FROM ({tables}) p
         JOIN pg_namespace n ON n.nspname = p.schemaname
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE CASE WHEN p.attnames IS NULL THEN a.attgenerated = '' ELSE a.attname = ANY (p.attnames) END
               AND ({condition})
         ORDER BY c.oid, a.attnum"
    );
    let rows = connection.simple_query(&sql, timeout)?.rows;
    let mut tables: HashMap<u32, Described> = HashMap::new();
    let mut attributes: HashMap<(u32, i32), (String, bool)> = HashMap::new();
    for row in rows {
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let (schema, name) = (text(1), text(2));
        if is_own(&schema, &name) {
            continue;
        }
        let oid = number(&text(0))?;
        let described = tables.entry(oid).or_insert_with(|| Described {
            schema,
            name,
            columns: Vec::new(),
            primary_key: Vec::new(),
            unique_keys: Vec::new(),
            identity: if text(3) == "f" { DescribedIdentity::Full } else { DescribedIdentity::Nothing },
            narrow_partitions: text(10).lines().map(str::to_owned).collect(),
            row_filter: row.get(4).cloned().flatten(),
        });
        described.columns.push(DescribedColumn {
            name: text(5),
            type_oid: number(&text(6))?,
            base_oid: number(&text(7))?,
        });
        attributes.insert((oid, number(&text(8))?), (text(5), text(9) == "t"));
    }
    describe_keys(connection, &mut tables, &attributes, timeout)?;
    Ok(tables)
}

fn describe_keys(
    connection: &mut Connection,
    tables: &mut HashMap<u32, Described>,
    attributes: &HashMap<(u32, i32), (String, bool)>,
    timeout: Duration,
) -> Result<(), Error> {
    if tables.is_empty() {
        return Ok(());
    }
    let oids: Vec<String> = tables.keys().map(u32::to_string).collect();
    let sql = format!(
        "SELECT i.indrelid, i.indisprimary, i.indisreplident, i.indnkeyatts, i.indkey, c.relreplident
         FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
         WHERE i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
           AND i.indrelid IN ({}) ORDER BY i.indexrelid",
        oids.join(", ")
    );
    for row in connection.simple_query(&sql, timeout)?.rows {
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let oid: u32 = number(&text(0))?;
        let Some(table) = tables.get_mut(&oid) else { continue };
        let width: usize = number(&text(3))?;
        let mut names = Vec::with_capacity(width);
        let mut never_null = true;
        for attribute in text(4).split(' ').take(width) {
            let Some((name, not_null)) = attributes.get(&(oid, number(attribute)?)) else { break };
            names.push(name.clone());
            never_null &= *not_null;
        }
        // A key with a column that is not published identifies nothing for us.
        if names.len() < width {
            continue;
        }
        let (primary, chosen, default) = (text(1) == "t", text(2) == "t", text(5) == "d");
        if (primary && default) || (chosen && text(5) == "i") {
            table.identity = DescribedIdentity::Columns(names.clone());
        }
        if primary {
            table.primary_key = names;
        } else if never_null {
            table.unique_keys.push(names);
        }
    }
    Ok(())
}

/// Highwater's own tables are never captured, also where the publication is for all tables.
pub(super) fn is_own(schema: &str, name: &str) -> bool {
    schema == "highwater" || (schema == "public" && name == "data_change_logs")
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Protocol(format!("the catalogue gave `{text}` where a number was expected")))
}
