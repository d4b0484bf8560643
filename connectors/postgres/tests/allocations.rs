//! The decoder's promise that nothing is allocated, counted, on real messages and on damaged ones. `scripts/fuzz` does the
//! same for as long as one likes. A test binary of its own, because it counts with an allocator of its own.

use std::path::Path;

use highwater_postgres::pgoutput::{self, Message};
use highwater_postgres::replication::Frame;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const DAMAGED: u32 = 300_000;

/// Messages of a real server, one of each shape; `HIGHWATER_SEEDS` of the test of decoders writes them anew.
fn real_messages() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/pgoutput");
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

/// Decodes and reads all columns; returns whether it was a message.
fn read(payload: &[u8], in_stream: bool) -> bool {
    let Ok(message) = pgoutput::decode(payload, in_stream) else { return false };
    let columns = match message {
        Message::Insert(m) => m.new.columns().count(),
        Message::Update(m) => m.new.columns().count() + m.old.tuple().map_or(0, |old| old.columns().count()),
        Message::Delete(m) => m.old.tuple().map_or(0, |old| old.columns().count()),
        Message::Relation(m) => m.columns.into_iter().count(),
        Message::Truncate(m) => m.relations.iter().count(),
        _ => 0,
    };
    std::hint::black_box(columns);
    true
}

fn damage(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut SmallRng) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.random()),
            2 => bytes.extend_from_slice(others.choose(random).expect("messages")),
            // A length or a count that no message could hold.
            3 => bytes.iter_mut().skip(at).take(4).for_each(|byte| *byte = 0xFF),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.random_range(0..8)),
        }
    }
}

#[test]
fn no_damage_to_a_real_message_makes_the_decoder_panic_or_allocate() {
    let (real, mut read_whole) = (real_messages(), 0);
    let seed = std::env::var("HIGHWATER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("HIGHWATER_SEED={seed} repeats the same damage");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut bytes = Vec::new();
    for number in 0..DAMAGED {
        bytes.clone_from(&real[number as usize % real.len()]);
        if number as usize >= real.len() {
            damage(&mut bytes, &real, &mut random);
        }
        let measured = allocation_counter::measure(|| {
            read_whole += u32::from(read(&bytes, false)) + u32::from(read(&bytes, true));
            std::hint::black_box(Frame::read(&bytes));
        });
        assert_eq!(measured.count_total, 0, "allocated for {bytes:?}");
    }
    assert!(read_whole as usize >= real.len(), "only {read_whole} messages were read");
    let counts = allocation_counter::measure(|| drop(std::hint::black_box(vec![0_u8; 7])));
    assert_eq!(counts.count_total, 1, "the counter counts");
}
