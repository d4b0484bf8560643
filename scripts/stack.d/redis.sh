# The Redis of a stack: durable to the last second, never evicting, as Highwater asks of a cache it keeps fences in.
# shellcheck shell=bash

start_redis() {
    command -v redis-server >/dev/null || fail "there is no redis-server; run scripts/install"
    mkdir -p "$DIR/redis"
    cat >"$DIR/conf/redis.conf" <<CONF
bind 127.0.0.1
port ${PORT[redis]}
dir $DIR/redis
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
CONF
    launch redis redis-server "$DIR/conf/redis.conf"
}

# While it loads its file, Redis answers `-LOADING`.
ready_redis() {
    local answer
    { exec 8<>"/dev/tcp/127.0.0.1/${PORT[redis]}"; } 2>/dev/null || return 1
    printf 'PING\r\n' >&8
    read -r -t 2 answer <&8 || answer=
    exec 8>&-
    [[ $answer == +PONG* ]]
}

stop_signal_redis() { echo TERM; }
