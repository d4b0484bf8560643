# Folders, ports and DIR/env: what a stack keeps from one start to the next.
# shellcheck shell=bash

declare -A KEPT=()          # DIR/env as read
declare -A PORT=()          # server or listener → port
LISTENERS=(primary replica1 replica2 redis kafka kafka_controller)

prepare_folders() {
    mkdir -p "$DIR/log" "$DIR/run" "$DIR/conf" "$DIR/tmp"
    require_postgres
    open_folders_to_postgres
}

read_settings() {
    local key value listener
    if [[ -r $DIR/env ]]; then
        while IFS='=' read -r key value; do KEPT[$key]=$value; done <"$DIR/env"
    fi
    for listener in "${LISTENERS[@]}"; do PORT[$listener]=${KEPT[${listener^^}_PORT]:-}; done
    SOCKET_DIR=${KEPT[PRIMARY_SOCKET_DIR]:-}
    PASSWORD=${KEPT[HIGHWATER_PASSWORD]:-}
}

port_of() { echo "${PORT[$1]:--}"; }

# Settles ports, socket folder and password for the servers about to start, and writes DIR/env.
settle() {
    choose_ports
    choose_socket_dir
    if [[ -z $PASSWORD ]]; then PASSWORD=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n'); fi
    write_env
}

# Prints the TCP ports that something listens on, as hexadecimal: `0A` is the state LISTEN.
listening() {
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | while read -r _ address _ state _; do
        if [[ $state == 0A ]]; then echo "${address##*:}"; fi
    done
}

# A running server keeps its port. The others get the one asked for, the one they had, or the next free one.
choose_ports() {
    local listener port asked taken
    taken=" $(listening | tr '\n' ' ') "
    # Where the search starts follows from the folder's name, so that two stacks that start at one moment look at different
    # ports. The range lies below the one that the kernel takes outgoing connections' ports from.
    local next=$((20000 + $(cksum <<<"$DIR" | cut -d' ' -f1) % 1500 * 8))
    for listener in "${LISTENERS[@]}"; do
        is_running "${listener%_controller}" && continue
        asked=HIGHWATER_STACK_${listener^^}_PORT
        port=${!asked:-${PORT[$listener]}}
        while [[ -z $port || $taken == *" $(printf %04X "$port") "* ]]; do
            [[ -z ${!asked:-} ]] || fail "$asked=$port: something listens there already"
            port=$((next++))
        done
        PORT[$listener]=$port
        taken+="$(printf %04X "$port") "
    done
}

# A Unix socket's path may have 107 bytes, so that a deep checkout needs a short folder elsewhere.
choose_socket_dir() {
    if [[ -z $SOCKET_DIR || ! -d $SOCKET_DIR ]]; then
        SOCKET_DIR=$DIR/socket
        local longest=$SOCKET_DIR/.s.PGSQL.65535.lock
        if ((${#longest} > 107)); then
            SOCKET_DIR=$(mktemp -d /tmp/highwater-XXXXXX)
        fi
    fi
    give_to_postgres "$SOCKET_DIR" 0755
}

write_env() {
    local source=postgresql://highwater_capture@127.0.0.1:${PORT[primary]}/shop
    local audit=postgresql://highwater_audit@127.0.0.1:${PORT[primary]}/shop
    (
        umask 077
        cat >"$DIR/env.new" <<ENV
HIGHWATER_STACK_DIR=$DIR
PRIMARY_PORT=${PORT[primary]}
REPLICA1_PORT=${PORT[replica1]}
REPLICA2_PORT=${PORT[replica2]}
REDIS_PORT=${PORT[redis]}
KAFKA_PORT=${PORT[kafka]}
KAFKA_CONTROLLER_PORT=${PORT[kafka_controller]}
PRIMARY_SOCKET_DIR=$SOCKET_DIR
HIGHWATER_PASSWORD=$PASSWORD
HIGHWATER_SOURCE_DATABASE=$source
HIGHWATER_SOURCE_PASSWORD=$PASSWORD
HIGHWATER_AUDIT_DATABASE=$audit
HIGHWATER_AUDIT_PASSWORD=$PASSWORD
HIGHWATER_TOPICS_BROKERS=127.0.0.1:${PORT[kafka]}
HIGHWATER_CACHE_SERVER=redis://127.0.0.1:${PORT[redis]}
SHOP_DATABASE=postgresql://shop_app:$PASSWORD@127.0.0.1:${PORT[primary]}/shop
ADMIN_DATABASE=postgresql://postgres:$PASSWORD@127.0.0.1:${PORT[primary]}/shop
ENV
    )
    mv "$DIR/env.new" "$DIR/env"
}

# Removes what a stack keeps, and nothing else that may lie in the folder.
wipe() {
    local server
    for server in "${SERVERS[@]}"; do rm -rf "${DIR:?}/$server" "${DIR:?}/$server.new"; done
    rm -rf "$DIR/log" "$DIR/run" "$DIR/conf" "$DIR/tmp" "$DIR/socket" "$DIR/env"
    if [[ $SOCKET_DIR == /tmp/highwater-* ]]; then rm -rf "$SOCKET_DIR"; fi
    say "wiped $DIR"
}
