//! Has the linker leave out a function of librdkafka; see `connectors/kafka/librdkafka/leader_hints.c`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-link-arg=-Wl,--wrap=rd_kafka_metadata_update_op");
    }
}
