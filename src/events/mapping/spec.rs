//! A mapping entry as it stands in the configuration: one table feeding one event. Not yet checked against any table.

pub use crate::config::{Place, Placed};

/// The three families of state events, each with a topic of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// How much there is of a part.
    Stock,
    /// What it costs.
    Price,
    /// What is said and shown of it.
    Content,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 3] = [Self::Stock, Self::Price, Self::Content];

    /// Returns the name in the configuration and before the dot of an event's type.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Price => "price",
            Self::Content => "content",
        }
    }

    /// Returns the topic's name behind the source's prefix.
    #[must_use]
    pub fn topic_suffix(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Price => "prices",
            Self::Content => "content",
        }
    }
}

/// One `[[source.map]]` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntrySpec {
    /// Where the entry begins.
    pub place: Place,
    /// `table`, or `schema.table` outside `public`.
    pub table: Placed<String>,
    /// `event`.
    pub family: Family,
    /// `kind`, for content only: `image`, `spec`, …
    pub kind: Option<Placed<String>>,
    /// `part`.
    pub part: Placed<PartSpec>,
    /// `entity`, a template such as `image/{id}`.
    pub entity: Placed<String>,
    /// `groups`, templates such as `family:{parent_id|id}`.
    pub groups: Vec<Placed<String>>,
    /// `ignore`, column names.
    pub ignore: Vec<Placed<String>>,
    /// `attributes`, column names; `None` stands for every column that no entry of the table names.
    pub attributes: Option<Vec<Placed<String>>>,
    /// `[source.map.fields]`, in the order written.
    pub fields: Vec<(Placed<String>, FieldSpec)>,
}

/// How a row tells its part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartSpec {
    /// A column holds the part's id.
    Column(String),
    /// The row is of no part.
    None,
    /// One step away: the column `by` names a row of `through`, whose own entry tells the part.
    Through {
        /// The other table.
        through: String,
        /// The column of this table that holds the other's key.
        by: String,
    },
}

/// What feeds an event's field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldSpec {
    /// A column, with an optional replacement for NULL, given as JSON text.
    Column {
        /// The column's name.
        column: Placed<String>,
        /// JSON text of the replacement.
        null: Option<String>,
    },
    /// A constant, as JSON text.
    Constant(String),
    /// The first of these columns that is not NULL.
    FirstOf(Vec<Placed<String>>),
}
