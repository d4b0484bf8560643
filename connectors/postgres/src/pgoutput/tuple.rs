//! Columns of rows and of relations: the parts of a message that repeat.
//!
//! Each kind of list is walked to its end when the message is decoded, and again when it is iterated. Skimming over the
//! lengths twice is cheaper than keeping where the columns start.

use crate::cursor::Cursor;
use crate::pgoutput::Fault;

/// One column's value in a row.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Column<'a> {
    /// SQL's null.
    Null,
    /// A TOASTed value that the update did not touch, so that the log does not hold it.
    Unchanged,
    /// The value's text form.
    Text(&'a [u8]),
    /// The value's binary form; only if the stream was started with `binary`.
    Binary(&'a [u8]),
}

/// The columns of one row, in the order of its relation.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct TupleData<'a> {
    count: u16,
    columns: &'a [u8],
}

impl<'a> TupleData<'a> {
    pub(super) fn read(c: &mut Cursor<'a>) -> Result<Self, Fault> {
        let count = c.u16()?;
        let columns = walk(c, |c| (0..count).try_for_each(|_| value(c).map(drop)))?;
        Ok(Self { count, columns })
    }

    /// Returns the number of columns.
    #[must_use]
    pub fn len(self) -> usize {
        usize::from(self.count)
    }

    /// Returns whether the row has no columns, as that of a table without any.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.count == 0
    }

    /// Returns the columns' values.
    #[must_use]
    pub fn columns(self) -> ColumnIter<'a> {
        ColumnIter { left: self.count, cursor: Cursor::new(self.columns) }
    }
}

impl<'a> IntoIterator for TupleData<'a> {
    type Item = Column<'a>;
    type IntoIter = ColumnIter<'a>;

    fn into_iter(self) -> ColumnIter<'a> {
        self.columns()
    }
}

/// Iterates over a row's values.
#[derive(Clone, Debug)]
pub struct ColumnIter<'a> {
    left: u16,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for ColumnIter<'a> {
    type Item = Column<'a>;

    fn next(&mut self) -> Option<Column<'a>> {
        self.left = self.left.checked_sub(1)?;
        // Walked once by `read`, so that this cannot fail.
        value(&mut self.cursor).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for ColumnIter<'_> {}

fn value<'a>(c: &mut Cursor<'a>) -> Result<Column<'a>, Fault> {
    Ok(match c.u8()? {
        b't' => Column::Text(sized(c)?),
        b'n' => Column::Null,
        b'u' => Column::Unchanged,
        b'b' => Column::Binary(sized(c)?),
        other => return Err(Fault::Unexpected("kind of column", other)),
    })
}

fn sized<'a>(c: &mut Cursor<'a>) -> Result<&'a [u8], Fault> {
    // A length with the sign bit set is longer than any message.
    let length = usize::try_from(c.u32()?).map_err(|_| Fault::Short)?;
    Ok(c.bytes(length)?)
}

/// One column of a relation.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Whether it belongs to the replica identity.
    pub key: bool,
    /// Its name.
    pub name: &'a str,
    /// Its type's OID.
    pub type_oid: u32,
    /// Its type's modifier, such as the length of a varchar; −1 for none.
    pub typmod: i32,
}

/// The columns of a relation.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Columns<'a> {
    count: u16,
    columns: &'a [u8],
}

impl<'a> Columns<'a> {
    pub(super) fn read(c: &mut Cursor<'a>) -> Result<Self, Fault> {
        let count = c.u16()?;
        let columns = walk(c, |c| (0..count).try_for_each(|_| relation_column(c).map(drop)))?;
        Ok(Self { count, columns })
    }

    /// Returns the number of columns.
    #[must_use]
    pub fn len(self) -> usize {
        usize::from(self.count)
    }

    /// Returns whether the relation has no columns.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.count == 0
    }
}

impl<'a> IntoIterator for Columns<'a> {
    type Item = RelationColumn<'a>;
    type IntoIter = RelationColumnIter<'a>;

    fn into_iter(self) -> RelationColumnIter<'a> {
        RelationColumnIter { left: self.count, cursor: Cursor::new(self.columns) }
    }
}

/// Iterates over a relation's columns.
#[derive(Clone, Debug)]
pub struct RelationColumnIter<'a> {
    left: u16,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for RelationColumnIter<'a> {
    type Item = RelationColumn<'a>;

    fn next(&mut self) -> Option<RelationColumn<'a>> {
        self.left = self.left.checked_sub(1)?;
        relation_column(&mut self.cursor).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for RelationColumnIter<'_> {}

fn relation_column<'a>(c: &mut Cursor<'a>) -> Result<RelationColumn<'a>, Fault> {
    Ok(RelationColumn { key: c.u8()? & 1 != 0, name: super::name(c)?, type_oid: c.u32()?, typmod: c.i32()? })
}

/// OIDs of relations.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Oids<'a> {
    bytes: &'a [u8],
}

impl<'a> Oids<'a> {
    pub(super) fn read(c: &mut Cursor<'a>, count: u32) -> Result<Self, Fault> {
        let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(4)).ok_or(Fault::Short)?;
        Ok(Self { bytes: c.bytes(length)? })
    }

    /// Returns the OIDs in the message's order.
    #[must_use]
    pub fn iter(self) -> impl ExactSizeIterator<Item = u32> + Clone + 'a {
        let (oids, _) = self.bytes.as_chunks::<4>();
        oids.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

/// Takes the bytes that `step` reads.
fn walk<'a>(c: &mut Cursor<'a>, step: impl FnOnce(&mut Cursor<'a>) -> Result<(), Fault>) -> Result<&'a [u8], Fault> {
    let mut end = *c;
    step(&mut end)?;
    Ok(c.bytes(c.rest().len() - end.rest().len())?)
}
