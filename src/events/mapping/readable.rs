//! Whether the rows of a table can be read for a snapshot, beside live changes.

use super::compile::{MappingError, table_in_sql};
use super::spec::EntrySpec;
use crate::events::row::Table;

/// Refuses a table whose rows cannot be read beside live changes, as it is now: without a primary key, or with one that a delete
/// would not give.
#[must_use]
pub fn refuse_unreadable(spec: &EntrySpec, table: &Table) -> Option<MappingError> {
    let name = &table.name;
    let (message, remedy) = if table.primary_key.is_empty() {
        let message = format!(
            "table `{name}` has no primary key among its published columns, or a deferrable one: its rows could not be read in \
             chunks; run `ALTER TABLE {name} ADD PRIMARY KEY (…)`"
        );
        (message, None)
    } else {
        let outside = table.primary_key.iter().find(|column| !table.in_identity(**column))?;
        let message = format!(
            "column `{}` of the primary key is outside the replica identity of table `{name}`, so a row that a snapshot read \
             could not be told from one that was deleted meanwhile: run `ALTER TABLE {name} REPLICA IDENTITY FULL`",
            table.columns[*outside].name
        );
        (message, Some(format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table_in_sql(name))))
    };
    Some(MappingError { remedy, ..MappingError::new(&spec.table.place, name, message) })
}
