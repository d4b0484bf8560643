//! Whatever bytes come as a message of pgoutput: no panic, no allocation.
#![no_main]

use highwater_postgres::pgoutput::{self, Message, OldRow, TupleData};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let measured = allocation_counter::measure(|| {
        for in_stream in [false, true] {
            if let Ok(message) = pgoutput::decode(payload, in_stream) {
                walk(message);
            }
        }
    });
    assert_eq!(measured.count_total, 0, "the decoder allocated");
});

/// Reads all that a message holds, as a caller would.
fn walk(message: Message<'_>) {
    match message {
        Message::Insert(m) => row(m.new),
        Message::Update(m) => {
            old(m.old);
            row(m.new);
        }
        Message::Delete(m) => old(m.old),
        Message::Relation(m) => assert_eq!(m.columns.into_iter().count(), m.columns.len(), "all columns are read"),
        Message::Truncate(m) => assert_eq!(m.relations.iter().count(), m.relations.iter().len(), "all OIDs are read"),
        _ => {}
    }
}

fn old(old: OldRow<'_>) {
    old.tuple().into_iter().for_each(row);
}

fn row(row: TupleData<'_>) {
    assert_eq!(row.columns().count(), row.len(), "all columns are read");
}
