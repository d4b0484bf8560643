//! Whatever bytes come as a frame of the replication stream: no panic, no allocation.
#![no_main]

use highwater_postgres::replication::Frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let measured = allocation_counter::measure(|| {
        if let Some(Frame::XLogData { payload, .. }) = Frame::read(body) {
            assert_eq!(payload.len(), body.len() - 25, "the payload is the rest of the frame");
        }
    });
    assert_eq!(measured.count_total, 0, "the frame reader allocated");
});
