//! Compiles what stands in for a function of librdkafka, and has the linker put it there. Each program that links this library
//! needs the same argument; see `librdkafka/leader_hints.c`.

fn main() {
    println!("cargo::rerun-if-changed=librdkafka/leader_hints.c");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        cc::Build::new().file("librdkafka/leader_hints.c").link_lib_modifier("+whole-archive").compile("leader_hints");
        println!("cargo::rustc-link-arg=-Wl,--wrap=rd_kafka_metadata_update_op");
    }
}
