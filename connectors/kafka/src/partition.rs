//! Which partition a key belongs to, as the Java client's default partitioner computes it.

const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;
const R: u32 = 24;

/// Hashes `key` with the 32-bit murmur2 of `org.apache.kafka.common.utils.Utils.murmur2`.
#[must_use]
pub fn murmur2(key: &[u8]) -> u32 {
    // Java's `int length` wraps the same way; keys are far below 4 GiB.
    #[expect(clippy::cast_possible_truncation, reason = "the hash is defined over the low 32 bits of the length")]
    let mut hash = SEED ^ key.len() as u32;
    let (words, tail) = key.as_chunks::<4>();
    for &word in words {
        let mut k = u32::from_le_bytes(word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, &byte) in tail.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Returns the partition of `key` among `count`: `toPositive(murmur2(key)) % count`.
///
/// # Panics
///
/// If `count` is not positive: a topic has at least one partition.
#[must_use]
pub fn partition_for(key: &[u8], count: i32) -> i32 {
    partition_of_hash(murmur2(key), count)
}

/// Returns the partition of a key with this [`murmur2`] hash.
///
/// # Panics
///
/// As [`partition_for`].
#[must_use]
pub fn partition_of_hash(hash: u32, count: i32) -> i32 {
    assert!(count > 0, "a topic has at least one partition, not {count}");
    (hash & 0x7fff_ffff).cast_signed() % count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of Kafka's own `UtilsTest.testMurmur2` and of librdkafka's, which come from the Java client.
    #[test]
    fn murmur2_agrees_with_the_java_client() {
        let vectors: [(&[u8], u32); 12] = [
            (b"21", (-973_932_308_i32).cast_unsigned()),
            (b"foobar", (-790_332_482_i32).cast_unsigned()),
            (b"a-little-bit-long-string", (-985_981_536_i32).cast_unsigned()),
            (b"a-little-bit-longer-string", (-1_486_304_829_i32).cast_unsigned()),
            (b"abc", 479_470_107),
            (b"kafka", 0xd067_cf64),
            (b"giberish123456789", 0x8f55_2b0c),
            (b"1234", 0x9fc9_7b14),
            (b"234", 0xe7c0_09ca),
            (b"34", 0x8739_30da),
            (b"4", 0x5a4b_5ca1),
            (b"", 0x106e_08d9),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key), hash, "{}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn a_negative_hash_keeps_its_low_31_bits() {
        // toPositive clears the sign bit; abs() would choose another partition.
        assert_eq!(partition_for(b"21", 8), (murmur2(b"21") << 1 >> 1).cast_signed() % 8);
        assert_eq!(partition_for(b"foobar", 1), 0);
    }
}
