//! The rows of one result, kept as they came.

use super::query::DataRow;

/// Rows in one buffer: no allocation for each of them, nor for each value.
#[derive(Clone, Debug, Default)]
pub struct KeptRows {
    bytes: Vec<u8>,
    /// Where each row ends, and how many values it has.
    ends: Vec<(usize, u16)>,
}

impl KeptRows {
    /// Adds a copy of a row behind the others.
    pub fn push(&mut self, row: DataRow<'_>) {
        self.bytes.extend_from_slice(row.encoded());
        self.ends.push((self.bytes.len(), row.count()));
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns how many bytes the rows take: their values, and four for each of them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the rows in order; they do not describe their columns.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = DataRow<'_>> {
        (0..self.ends.len()).map(|at| self.row(at))
    }

    fn row(&self, at: usize) -> DataRow<'_> {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before].0);
        let (end, count) = self.ends[at];
        DataRow::kept(&self.bytes[start..end], count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(row: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut body = u16::try_from(row.len()).unwrap().to_be_bytes().to_vec();
        for value in row {
            match value {
                None => body.extend((-1_i32).to_be_bytes()),
                Some(value) => {
                    body.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
                    body.extend(value);
                }
            }
        }
        body
    }

    proptest! {
        #[test]
        fn kept_rows_hand_out_what_came(rows: Vec<Vec<Option<Vec<u8>>>>) {
            let mut kept = KeptRows::default();
            for row in &rows {
                kept.push(DataRow::read(&[], &body(row)).unwrap());
            }
            prop_assert_eq!(kept.len(), rows.len());
            let read: Vec<Vec<Option<Vec<u8>>>> =
                kept.iter().map(|row| row.values().map(|value| value.map(<[u8]>::to_vec)).collect()).collect();
            prop_assert_eq!(read, rows);
        }
    }
}
