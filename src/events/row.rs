//! A row as the log gives it: the table as of that place in the log, and one value per column.

use super::json::Encoding;

/// A table as the log describes it, with what only the catalogue knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Schema-less where the schema is `public`, else `schema.table`.
    pub name: String,
    /// In the order in which rows carry them.
    pub columns: Vec<Column>,
    /// Indexes into `columns` of the primary key, in key order; empty where there is none.
    pub primary_key: Vec<usize>,
    /// Unique keys besides the primary one whose columns cannot be null, each as indexes into `columns`.
    pub unique_keys: Vec<Vec<usize>>,
    /// Which columns the replica identity gives on a delete.
    pub identity: Identity,
}

/// What an update or a delete says of the old row (PostgreSQL manual, ALTER TABLE … REPLICA IDENTITY).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The whole old row.
    Full,
    /// The columns of the primary key or of an index.
    Columns(Vec<usize>),
    /// Nothing: updates and deletes are refused by the server once the table is published.
    Nothing,
}

/// A column of a [`Table`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// As in the database, unquoted.
    pub name: String,
    /// How its text becomes JSON; a domain's is its base type's.
    pub encoding: Encoding,
    /// Whether it is a timestamp with time zone, which has an RFC 3339 form.
    pub instant: bool,
}

/// One value of a row, in PostgreSQL's text form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// SQL's NULL.
    Null,
    /// Not sent: an unchanged TOASTed value, or a column outside the replica identity.
    Unknown,
    /// The text.
    Text(&'a [u8]),
}

/// One row: a value for each column of its table.
pub type Row<'a> = &'a [Value<'a>];

/// Returns a row without the values whose text is longer than so many bytes: as if they had not been sent.
#[must_use]
pub fn without_long<'a>(row: Row<'a>, longest: usize) -> Vec<Value<'a>> {
    let short = |value: &Value<'a>| match value {
        Value::Text(text) if text.len() > longest => Value::Unknown,
        value => *value,
    };
    row.iter().map(short).collect()
}

/// A change of one row.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// A new row.
    Insert {
        /// The row.
        new: Row<'a>,
    },
    /// A changed row.
    Update {
        /// The old row, as far as the replica identity gives it; `None` where it gives nothing or its key is unchanged.
        old: Option<Row<'a>>,
        /// The new row, with values that were not sent filled from the old one where that has them.
        new: Row<'a>,
    },
    /// A removed row.
    Delete {
        /// The old row, as far as the replica identity gives it.
        old: Row<'a>,
    },
    /// A row that a snapshot read.
    Snapshot {
        /// The row.
        new: Row<'a>,
    },
}

impl Table {
    /// Returns the place of a column.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Whether a delete gives this column.
    #[must_use]
    pub fn in_identity(&self, column: usize) -> bool {
        match &self.identity {
            Identity::Full => true,
            Identity::Columns(columns) => columns.contains(&column),
            Identity::Nothing => false,
        }
    }

    /// Whether these columns together contain a key, so that no two rows agree in all of them.
    #[must_use]
    pub fn identifies(&self, columns: &[usize]) -> bool {
        let within = |key: &Vec<usize>| !key.is_empty() && key.iter().all(|column| columns.contains(column));
        within(&self.primary_key) || self.unique_keys.iter().any(within)
    }
}
