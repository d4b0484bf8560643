//! The form of a spilled block: `length u32 · checksum u32 · content`, little-endian. The checksum is CRC32C over the
//! transaction's id, the block's place in the file, the length and the content, so that a block of another file or another
//! place is noticed as well as a changed bit.
//!
//! The content is records: `length u32 · payload`.

/// Bytes before a block's content.
pub(super) const HEADER: usize = 8;
/// Bytes before a record's payload.
const RECORD_HEADER: usize = 4;

/// Empties a buffer to one whose header is still to be written.
pub(super) fn begin(block: &mut Vec<u8>) {
    block.clear();
    block.resize(HEADER, 0);
}

/// Adds a record.
pub(super) fn push(block: &mut Vec<u8>, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a message of PostgreSQL is below 1 GiB");
    block.extend_from_slice(&length.to_le_bytes());
    block.extend_from_slice(payload);
}

/// Returns the payload of the record at `at` and where the next one begins; `None` where no whole record stands.
pub(super) fn record_at(block: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let start = at + RECORD_HEADER;
    let length = u32::from_le_bytes(block.get(at..start)?.try_into().ok()?);
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    Some((block.get(start..end)?, end))
}

/// Writes the header of a block that will stand at `offset` of the file of transaction `xid`.
pub(super) fn seal(block: &mut [u8], xid: u32, offset: u64) {
    let length = u32::try_from(block.len() - HEADER).expect("a block is little more than one message");
    block[..4].copy_from_slice(&length.to_le_bytes());
    let checksum = checksum(block, xid, offset);
    block[4..HEADER].copy_from_slice(&checksum.to_le_bytes());
}

/// Returns how much content a header announces.
pub(super) fn announced(header: [u8; HEADER]) -> usize {
    let [a, b, c, d, ..] = header;
    usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX)
}

/// Tells whether a block, header and content, is the one that was sealed for this place.
pub(super) fn is_intact(block: &[u8], xid: u32, offset: u64) -> bool {
    block.len() >= HEADER && block[4..HEADER] == checksum(block, xid, offset).to_le_bytes()
}

fn checksum(block: &[u8], xid: u32, offset: u64) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&xid.to_le_bytes()), &offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(place, &block[..4]), &block[HEADER..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(payloads: &[Vec<u8>], xid: u32, offset: u64) -> Vec<u8> {
        let mut block = Vec::new();
        begin(&mut block);
        for payload in payloads {
            push(&mut block, payload);
        }
        seal(&mut block, xid, offset);
        block
    }

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in(payloads: Vec<Vec<u8>>, xid: u32, offset: u64) {
            let block = sealed(&payloads, xid, offset);
            prop_assert!(is_intact(&block, xid, offset));
            prop_assert_eq!(announced(block[..HEADER].try_into().unwrap()) + HEADER, block.len());
            let mut at = HEADER;
            let mut read = Vec::new();
            while let Some((payload, next)) = record_at(&block, at) {
                read.push(payload.to_vec());
                at = next;
            }
            prop_assert_eq!(at, block.len());
            prop_assert_eq!(read, payloads);
        }

        #[test]
        fn a_changed_bit_another_place_or_another_transaction_is_noticed(
            payload: Vec<u8>, at: prop::sample::Index, bit in 0..8_u8, xid: u32, offset: u64,
        ) {
            let mut block = sealed(&[payload], xid, offset);
            prop_assert!(!is_intact(&block, xid ^ 1, offset));
            prop_assert!(!is_intact(&block, xid, offset ^ 1));
            let at = at.index(block.len());
            block[at] ^= 1 << bit;
            prop_assert!(!is_intact(&block, xid, offset));
        }

        #[test]
        fn no_bytes_make_reading_a_record_panic(block: Vec<u8>, at in 0..100_usize) {
            let _ = record_at(&block, at);
        }
    }
}
