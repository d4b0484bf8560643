# The Kafka of a stack: one KRaft node that is broker and controller.
# shellcheck shell=bash

# shellcheck source=SCRIPTDIR/../kafka/version.sh
source "$ROOT/scripts/kafka/version.sh"
KAFKA_LIBS=$ROOT/build/kafka-$KAFKA_VERSION/libs

# kafka_command HEAP ARGUMENT...: prints a Java command line, one word per line, for `mapfile`.
kafka_command() {
    local heap=$1
    shift
    printf '%s\n' java "-Xms$heap" "-Xmx$heap" -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:-UsePerfData "-Djava.io.tmpdir=$DIR/tmp" \
        "-Dlog4j2.configurationFile=$ROOT/scripts/kafka/log4j2.properties" -cp "$KAFKA_LIBS/*" "$@"
}

write_kafka_conf() {
    cat >"$DIR/conf/kafka.properties" <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:${PORT[kafka_controller]}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:${PORT[kafka]},CONTROLLER://127.0.0.1:${PORT[kafka_controller]}
advertised.listeners=PLAINTEXT://127.0.0.1:${PORT[kafka]}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$DIR/kafka
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
message.max.bytes=16777216
replica.fetch.max.bytes=16777216
# After a kill, the broker is let in again only when its former session has run out: 9 s by default.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# One broker holds every copy; few partitions, so that the internal topics are made quickly.
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
# By default a quarter of the heap, which the collector would go through again and again.
log.cleaner.dedupe.buffer.size=16777216
CONF
}

start_kafka() {
    [[ -d $KAFKA_LIBS ]] || fail "there is no Kafka in $KAFKA_LIBS; run scripts/install"
    write_kafka_conf
    local command
    if [[ ! -e $DIR/kafka/meta.properties ]]; then
        rm -rf "$DIR/kafka"
        mkdir "$DIR/kafka"
        mapfile -t command < <(kafka_command 128m -XX:TieredStopAtLevel=1 kafka.tools.StorageTool format \
            --config "$DIR/conf/kafka.properties" --cluster-id "$(cluster_id)")
        "${command[@]}" >>"$DIR/log/kafka.log" 2>&1 || fail_with_log kafka "Kafka's storage could not be formatted"
    fi
    # Readiness is read from the log, so that this start's part of it has to be known.
    touch "$DIR/log/kafka.log"
    stat -c %s "$DIR/log/kafka.log" >"$DIR/run/kafka.log_start"
    mapfile -t command < <(kafka_command 512m kafka.Kafka "$DIR/conf/kafka.properties")
    launch kafka "${command[@]}"
}

# Prints a new cluster id: 22 characters of base64 that are letters or digits.
cluster_id() {
    head -c 64 /dev/urandom | base64 -w 0 | tr -d '+/=' | cut -c -22
}

# The listener accepts before the broker is unfenced; only the broker's own word says that it serves.
ready_kafka() {
    local start
    start=$(cat "$DIR/run/kafka.log_start" 2>/dev/null) || return 1
    # Not in a pipe: grep would end at the line, and a long log would end tail by SIGPIPE, which pipefail calls a failure.
    grep -q 'Kafka Server started' < <(tail -c "+$((start + 1))" "$DIR/log/kafka.log") || return 1
}

stop_signal_kafka() { echo TERM; }
