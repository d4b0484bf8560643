//! Whether the catalogue changed while a slot was made. `PostgreSQL` looks at what transactions do to it only once all have ended
//! that ran when it began to make the slot. What others created, altered, truncated or published until then stays unknown to
//! transactions that begin behind that and commit when the slot is there: their changes cannot be decoded, ever ("could not map
//! filenumber … to relation OID"), or are decoded as the table was before, or left out as not published. Seen on 15, 16 and 18.

use std::time::Duration;

use highwater_postgres::{Connection, quote};

use super::error::Error;

/// What the catalogue was before a slot was made.
pub(super) struct Catalogue {
    /// No transaction from this number on was over, as text.
    next_xid: String,
}

impl Catalogue {
    /// Notes where a server is now.
    pub(super) fn now(server: &mut Connection, timeout: Duration) -> Result<Self, Error> {
        let rows = server.simple_query("SELECT pg_snapshot_xmax(pg_current_snapshot())", timeout)?;
        Ok(Self { next_xid: rows.single()?.to_owned() })
    }

    /// Returns something that was created, altered, truncated or published since. What is temporary is not decoded, and an index
    /// matters as an identity only. What was taken out of a publication, or lost its primary key, leaves no row to be found.
    pub(super) fn altered_since(&self, server: &mut Connection, timeout: Duration) -> Result<Option<String>, Error> {
        let since =
            |xmin: &str| format!("age({xmin}) BETWEEN 0 AND age({}::xid8::xid)", quote::literal(&self.next_xid));
        let new = since("xmin");
        let schemas = if server.server_version() >= 150_000 {
            format!(" UNION ALL SELECT pnnspid::regnamespace::text FROM pg_publication_namespace WHERE {new}")
        } else {
            String::new()
        };
        let sql = format!(
            "SELECT c.oid::regclass::text AS altered FROM pg_class c WHERE c.relpersistence = 'p' AND c.relkind IN ('r', 'p', 'c') \
               AND ({} OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND {})) \
             UNION ALL SELECT indrelid::regclass::text FROM pg_index WHERE (indisprimary OR indisreplident) AND {new} \
               AND indrelid IN (SELECT oid FROM pg_class WHERE relpersistence = 'p') \
             UNION ALL SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND {new} \
             UNION ALL SELECT enumtypid::regtype::text FROM pg_enum WHERE {new} \
             UNION ALL SELECT pubname FROM pg_publication WHERE {new} \
             UNION ALL SELECT prrelid::regclass::text FROM pg_publication_rel WHERE {new}{schemas} LIMIT 1",
            since("c.xmin"),
            since("a.xmin"),
        );
        let rows = server.simple_query(&sql, timeout)?;
        Ok(rows.value(0, "altered").map(str::to_owned))
    }
}
