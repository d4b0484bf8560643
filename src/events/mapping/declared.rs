//! The fields that the event types declare; what the mapping may fill and what it must be.

use super::spec::Family;

/// A field that an event type declares.
pub(super) struct Declared {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// What a declared field must be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    Time,
    Any,
}

const fn declared(name: &'static str, kind: Kind) -> Declared {
    Declared { name, kind }
}

/// The fields of a stock event that come from columns; the derived ones are made of them.
const STOCK_FIELDS: &[Declared] = &[
    declared("current_stock", Kind::Integer),
    declared("reserved_quantity", Kind::Integer),
    declared("min_stock_level", Kind::Integer),
    declared("version", Kind::Integer),
    declared("updated_at", Kind::Time),
];

/// The fields of a price event.
const PRICE_FIELDS: &[Declared] = &[
    declared("id", Kind::Any),
    declared("price_type", Kind::Any),
    declared("price", Kind::Any),
    declared("currency", Kind::Any),
    declared("min_quantity", Kind::Integer),
    declared("valid_from", Kind::Time),
    declared("valid_to", Kind::Time),
    declared("is_active", Kind::Any),
    declared("version", Kind::Integer),
    declared("created_at", Kind::Time),
    declared("updated_at", Kind::Time),
];

/// The fields of content that have a declared kind; any other name is free.
const CONTENT_FIELDS: &[Declared] = &[declared("created_at", Kind::Time), declared("updated_at", Kind::Time)];

/// Returns the fields that an event of this family declares.
pub(super) fn declared_fields(family: Family) -> &'static [Declared] {
    match family {
        Family::Stock => STOCK_FIELDS,
        Family::Price => PRICE_FIELDS,
        Family::Content => CONTENT_FIELDS,
    }
}
