//! Statements whose rows come as text (manual: Simple Query).

use std::time::Duration;

use postgres_protocol::message::frontend;

use super::{Connection, KeptRows, Wait};
use crate::cursor::{Cursor, Short};
use crate::error::{Error, Result};
use crate::socket::Whole;

/// What a column of a result is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnDescription {
    /// The name in the result.
    pub name: String,
    /// The table it comes from, or 0.
    pub table_oid: u32,
    /// Its number in that table, or 0.
    pub attribute: u16,
    /// Its type's OID.
    pub type_oid: u32,
    /// Its type's modifier; −1 for none.
    pub typmod: i32,
}

/// The rows of a statement, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The columns, in order.
    pub columns: Vec<ColumnDescription>,
    /// The rows, in order; none for null.
    pub rows: Vec<Vec<Option<String>>>,
}

impl Rows {
    /// Returns the first column of the first row, where a statement has exactly that to say.
    ///
    /// # Errors
    ///
    /// There is no row, or null in it.
    pub fn single(&self) -> Result<&str> {
        let value = self.rows.first().and_then(|row| row.first()).and_then(|value| value.as_deref());
        value.ok_or_else(|| Error::Protocol("a result without the one value that was asked for".to_owned()))
    }

    /// Returns a row's value by its column's name; none for null, and for a row or column that is not there.
    #[must_use]
    pub fn value(&self, row: usize, column: &str) -> Option<&str> {
        let at = self.columns.iter().position(|described| described.name == column)?;
        self.rows.get(row)?.get(at)?.as_deref()
    }
}

/// One row as it stands in the receive buffer.
#[derive(Copy, Clone, Debug)]
pub struct DataRow<'a> {
    columns: &'a [ColumnDescription],
    /// Walked once before the row is handed out.
    values: Cursor<'a>,
    count: u16,
}

impl<'a> DataRow<'a> {
    pub(super) fn read(columns: &'a [ColumnDescription], body: &'a [u8]) -> Result<Self, Short> {
        let mut cursor = Cursor::new(body);
        let count = cursor.u16()?;
        let values = cursor;
        (0..count).try_for_each(|_| value(&mut cursor).map(drop))?;
        Ok(Self { columns, values, count })
    }

    /// Returns a row that was read before.
    pub(super) fn kept(encoded: &'a [u8], count: u16) -> Self {
        Self { columns: &[], values: Cursor::new(encoded), count }
    }

    /// Returns the values as they stand in the message.
    pub(super) fn encoded(self) -> &'a [u8] {
        self.values.rest()
    }

    /// Returns the number of values.
    pub(super) fn count(self) -> u16 {
        self.count
    }

    /// Returns the descriptions of the columns.
    #[must_use]
    pub fn columns(self) -> &'a [ColumnDescription] {
        self.columns
    }

    /// Returns the columns' texts in order; none for null.
    pub fn values(self) -> impl Iterator<Item = Option<&'a [u8]>> {
        let mut cursor = self.values;
        (0..self.count).map(move |_| value(&mut cursor).unwrap_or(None))
    }

    /// Returns the number of columns.
    #[must_use]
    pub fn len(self) -> usize {
        usize::from(self.count)
    }

    /// Returns whether the row has no columns.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.count == 0
    }
}

fn value<'a>(cursor: &mut Cursor<'a>) -> Result<Option<&'a [u8]>, Short> {
    match cursor.i32()? {
        -1 => Ok(None),
        length => cursor.bytes(usize::try_from(length).map_err(|_| Short)?).map(Some),
    }
}

impl Connection {
    /// Runs SQL and collects its rows: those of the last statement in it that has any.
    ///
    /// # Errors
    ///
    /// [`Error::Server`] leaves the session usable; [`Error::Timeout`] and [`Error::Lost`] do not.
    pub fn simple_query(&mut self, sql: &str, timeout: Duration) -> Result<Rows> {
        let mut result = Rows::default();
        self.statement(sql, timeout, Rest::Read, |step| {
            match step {
                Step::Columns(columns) => result = Rows { columns: columns.to_vec(), rows: Vec::new() },
                Step::Row(row) => result.rows.push(row.values().map(text).collect::<Result<_>>()?),
            }
            Ok::<(), Error>(())
        })?;
        Ok(result)
    }

    /// Runs SQL and hands each row over as it comes, collecting nothing. Returns the number of rows.
    ///
    /// Once `row` has failed it is not called again: the rest is read and passed over, so that the session stays usable.
    ///
    /// # Errors
    ///
    /// As [`Connection::simple_query`], and the first failure of `row`.
    pub fn for_each_row<E: From<Error>>(
        &mut self,
        sql: &str,
        timeout: Duration,
        mut row: impl FnMut(DataRow<'_>) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut count = 0;
        self.statement(sql, timeout, Rest::Read, |step| match step {
            Step::Columns(_) => Ok(()),
            Step::Row(data) => {
                count += 1;
                row(data)
            }
        })?;
        Ok(count)
    }

    /// Runs SQL and keeps its rows as they come, up to the first with which they take more than `bytes`.
    ///
    /// Returns whether the rows were cut off there. The session is broken then: the rest is not read.
    ///
    /// # Errors
    ///
    /// As [`Connection::simple_query`].
    pub fn keep_rows(&mut self, sql: &str, bytes: usize, timeout: Duration) -> Result<(KeptRows, bool)> {
        enum End {
            Cut,
            Failed(Error),
        }
        impl From<Error> for End {
            fn from(error: Error) -> Self {
                Self::Failed(error)
            }
        }
        let mut kept = KeptRows::default();
        let outcome = self.statement(sql, timeout, Rest::Unread, |step| {
            if let Step::Row(row) = step {
                kept.push(row);
            }
            if kept.bytes() > bytes { Err(End::Cut) } else { Ok(()) }
        });
        match outcome {
            Ok(()) => Ok((kept, false)),
            Err(End::Cut) => Ok((kept, true)),
            Err(End::Failed(error)) => Err(error),
        }
    }

    /// Runs SQL to its end, or to where `take` fails if the rest is to stay unread.
    fn statement<E: From<Error>>(
        &mut self,
        sql: &str,
        timeout: Duration,
        rest: Rest,
        mut take: impl FnMut(Step<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let wait = Wait::new("a statement", timeout);
        self.send_message(|buffer| frontend::query(sql, buffer))?;
        let mut columns = Vec::new();
        let mut failure: Option<E> = None;
        loop {
            let message = self.receive(&wait)?;
            match message.kind {
                b'D' if failure.is_none() => {
                    let Ok(row) = DataRow::read(&columns, self.socket.body(message)) else {
                        return Err(self.protocol("a row that is cut short").into());
                    };
                    failure = take(Step::Row(row)).err();
                    if let Some(failure) = failure.take_if(|_| rest == Rest::Unread) {
                        self.broken = true;
                        return Err(failure);
                    }
                }
                b'T' => {
                    columns = self.row_description(message)?;
                    if failure.is_none() {
                        failure = take(Step::Columns(&columns)).err();
                    }
                }
                // A row nobody wants any more, the end of one of several statements, an empty one.
                b'D' | b'C' | b'I' => {}
                b'E' => return Err(self.drain_error(message, &wait).into()),
                b'Z' => {
                    self.ready(message)?;
                    return failure.map_or(Ok(()), Err);
                }
                other => return Err(self.protocol(&format!("message {:?} after a query", char::from(other))).into()),
            }
        }
    }

    fn row_description(&mut self, message: Whole) -> Result<Vec<ColumnDescription>> {
        describe(self.socket.body(message)).map_err(|Short| self.protocol("a RowDescription that is cut short"))
    }
}

/// What becomes of the rows behind one that nobody wants.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// They are read and passed over, so that the session stays usable.
    Read,
    /// They stay where they are, and the session is of no more use.
    Unread,
}

/// What a statement hands over.
enum Step<'a> {
    Columns(&'a [ColumnDescription]),
    Row(DataRow<'a>),
}

fn text(value: Option<&[u8]>) -> Result<Option<String>> {
    let owned = value.map(|bytes| String::from_utf8(bytes.to_vec())).transpose();
    owned.map_err(|_| Error::Protocol("a text that is not UTF-8, as only a SQL_ASCII database can hold".to_owned()))
}

fn describe(body: &[u8]) -> Result<Vec<ColumnDescription>, Short> {
    let mut cursor = Cursor::new(body);
    let count = cursor.u16()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let name = String::from_utf8_lossy(cursor.string()?).into_owned();
        let (table_oid, attribute, type_oid) = (cursor.u32()?, cursor.u16()?, cursor.u32()?);
        cursor.bytes(2)?; // the type's size
        let typmod = cursor.i32()?;
        cursor.bytes(2)?; // the format, which a simple query always has as text
        columns.push(ColumnDescription { name, table_oid, attribute, type_oid, typmod });
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_row_hands_out_texts_and_nulls() {
        let body = [0, 3, 0, 0, 0, 2, b'h', b'i', 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];
        let row = DataRow::read(&[], &body).unwrap();
        assert_eq!(row.values().collect::<Vec<_>>(), [Some(&b"hi"[..]), None, Some(&b""[..])]);
        assert!(DataRow::read(&[], &body[..9]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_row_or_a_description_panic(body: Vec<u8>) {
            if let Ok(row) = DataRow::read(&[], &body) {
                prop_assert_eq!(row.values().count(), row.len());
            }
            drop(describe(&body));
        }
    }
}
