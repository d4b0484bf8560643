//! Templates such as `image/{id}` or `family:{parent_id|id}`: literal text and columns, the first that is not null.

use crate::events::json::ShortText;
use crate::events::row::{Row, Table, Value};

/// The placeholder that stands for whatever column holds the part's id.
pub(super) const PART_ID: &str = "part_id";

/// A template checked against a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    FirstOf(Vec<Slot>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Column(usize),
    Part,
}

/// Why a template is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TemplateError {
    /// A brace without its partner, or an empty placeholder.
    Malformed,
    /// A placeholder that names no column.
    NoColumn(String),
}

impl Template {
    /// Reads a template; `has_part` tells whether `{part_id}` has a meaning where no column has that name.
    ///
    /// # Errors
    /// A malformed template, or one that names a column that the table does not have.
    pub(super) fn compile(text: &str, table: &Table, has_part: bool) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (literal, placeholder) = rest.split_at(open);
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.as_bytes().to_vec()));
            }
            let close = placeholder.find('}').ok_or(TemplateError::Malformed)?;
            if close < 2 {
                return Err(TemplateError::Malformed);
            }
            let slots = placeholder[1..close].split('|').map(|name| match table.column(name) {
                _ if name == PART_ID && has_part => Ok(Slot::Part),
                Some(column) => Ok(Slot::Column(column)),
                None => Err(TemplateError::NoColumn(name.to_owned())),
            });
            pieces.push(Piece::FirstOf(slots.collect::<Result<_, _>>()?));
            rest = &placeholder[close + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.as_bytes().to_vec()));
        }
        Ok(Self { pieces })
    }

    /// Returns the columns that the text depends on; `part` is the column that stands for the part, if it is one.
    pub(super) fn columns(&self, part: Option<usize>) -> impl Iterator<Item = usize> {
        let slots = self.pieces.iter().flat_map(|piece| match piece {
            Piece::Literal(_) => &[][..],
            Piece::FirstOf(slots) => slots,
        });
        slots.filter_map(move |slot| match slot {
            Slot::Column(column) => Some(*column),
            Slot::Part => part,
        })
    }

    /// Whether the template is the part's id and nothing else.
    #[must_use]
    pub(super) fn is_bare_part(&self) -> bool {
        self.pieces == [Piece::FirstOf(vec![Slot::Part])]
    }

    /// Appends the text for a row, or returns `false`, with `out` as it was, where a placeholder has no value.
    pub(super) fn write(&self, out: &mut ShortText, row: Row<'_>, part: Option<&[u8]>) -> bool {
        let start = out.len();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text),
                Piece::FirstOf(slots) => {
                    let value = slots.iter().find_map(|slot| match slot {
                        Slot::Part => part,
                        Slot::Column(column) => match row[*column] {
                            Value::Text(text) => Some(text),
                            Value::Null | Value::Unknown => None,
                        },
                    });
                    let Some(value) = value else {
                        out.truncate(start);
                        return false;
                    };
                    out.extend_from_slice(value);
                }
            }
        }
        true
    }

    /// Whether some row's text is this one: its literal pieces stand in it, in order, with something between them.
    pub(super) fn may_give(&self, text: &[u8]) -> bool {
        may_give(&self.pieces, text)
    }
}

fn may_give(pieces: &[Piece], text: &[u8]) -> bool {
    match pieces {
        [] => text.is_empty(),
        [Piece::Literal(literal), rest @ ..] => {
            text.strip_prefix(&literal[..]).is_some_and(|behind| may_give(rest, behind))
        }
        [Piece::FirstOf(_)] => true,
        [Piece::FirstOf(_), rest @ ..] => (0..=text.len()).any(|length| may_give(rest, &text[length..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_templates_where_its_literals_stand_in_it() {
        let literal = |text: &str| Piece::Literal(text.as_bytes().to_vec());
        let placeholder = || Piece::FirstOf(vec![Slot::Part]);
        let legacy = Template { pieces: vec![literal("legacy-price/"), placeholder()] };
        assert!(legacy.may_give(b"legacy-price/12") && !legacy.may_give(b"price/12") && !legacy.may_give(b"12"));
        let between = Template { pieces: vec![placeholder(), literal("/of/"), placeholder(), literal("!")] };
        assert!(between.may_give(b"1/of/2!") && between.may_give(b"/of//of/!") && !between.may_give(b"1/of/2"));
        assert!(Template { pieces: vec![placeholder()] }.may_give(b"42"));
    }
}
