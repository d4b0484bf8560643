# The PostgreSQL servers of a stack: a primary with logical WAL and two streaming replicas, each with a slot of its own.
# shellcheck shell=bash

# Debian keeps each major version's programs in a folder of its own; the oldest that is new enough is taken.
PG_BIN=${HIGHWATER_STACK_PG_BIN:-}
# Where psql, pg_isready and pg_basebackup are: not every folder of a server has them.
PG_CLIENT_BIN=$PG_BIN
for folder in /usr/lib/postgresql/1[5-9]/bin; do
    if [[ -z $PG_BIN && -x $folder/postgres ]]; then PG_BIN=$folder; fi
    if [[ ! -x $PG_CLIENT_BIN/psql ]]; then PG_CLIENT_BIN=$folder; fi
done

require_postgres() {
    [[ -x $PG_BIN/postgres ]] || fail "there is no PostgreSQL of version 15 or newer; run scripts/install"
}

# PostgreSQL refuses to run as root; the account that Debian's package brings stands in.
AS_POSTGRES=()
if ((EUID == 0)); then
    AS_POSTGRES=(setpriv --reuid=postgres --regid=postgres --init-groups)
fi

# give_to_postgres FOLDER MODE: makes the folder, owned by the account that PostgreSQL runs as.
give_to_postgres() {
    mkdir -p "$1"
    chmod "$2" "$1"
    ((EUID != 0)) || chown postgres: "$1"
}

# Asked by stat, since access(2), and so test -x, ignores capabilities.
reaches_folder() { "${AS_POSTGRES[@]}" stat "$DIR/conf" >/dev/null 2>&1; }

# As root, lets the postgres account reach $DIR. Folders are opened for traversal only from build/ down; where a folder above
# is closed (a checkout in root's home, a folder of mktemp's), the servers get the right to search closed folders instead.
open_folders_to_postgres() {
    ((EUID == 0)) || return 0
    id postgres >/dev/null 2>&1 || fail "there is no account 'postgres' to run PostgreSQL as; run scripts/install"
    chmod o+x "$DIR"
    local folder=$DIR
    while [[ $folder == "$ROOT"/build/* ]]; do
        folder=${folder%/*}
        chmod o+x "$folder"
    done
    reaches_folder && return
    AS_POSTGRES+=(--inh-caps=+dac_read_search --ambient-caps=+dac_read_search)
    reaches_folder || fail "the account 'postgres' cannot reach $DIR; chmod o+x the folders above it"
}

write_postgres_conf() {
    local server=$1
    # A file for each: several servers start at once, and one must not read what another is just writing.
    cat >"$DIR/conf/$server.hba.conf" <<CONF
local all         all              trust
local replication all              trust
host  all         all 127.0.0.1/32 scram-sha-256
host  replication all 127.0.0.1/32 scram-sha-256
CONF
    cat >"$DIR/conf/$server.conf" <<CONF
cluster_name = '$server'
port = ${PORT[$server]}
listen_addresses = '127.0.0.1'
unix_socket_directories = '$SOCKET_DIR'
unix_socket_permissions = 0700
hba_file = '$DIR/conf/$server.hba.conf'
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%u@%d '
# A replica needs at least the primary's numbers, so that all have the same.
max_connections = 200
max_wal_senders = 32
max_replication_slots = 32
wal_level = logical
shared_buffers = 256MB
max_wal_size = 2GB
wal_retrieve_retry_interval = 500ms
hot_standby_feedback = on
CONF
    [[ $server == primary ]] || cat >>"$DIR/conf/$server.conf" <<CONF
primary_slot_name = '$server'
primary_conninfo = 'host=$SOCKET_DIR port=${PORT[primary]} user=postgres dbname=postgres application_name=$server'
CONF
}

launch_postgres() {
    local server=$1
    clear_remains "$server"
    launch "$server" "${AS_POSTGRES[@]}" "$PG_BIN/postgres" -D "$DIR/$server" -c "config_file=$DIR/conf/$server.conf"
}

# After a kill -9 the lock files name a process that is a zombie not reaped yet, or another's by now, and children of the
# postmaster may live on for a moment. Either makes the next start fail. A server process works in its data folder.
clear_remains() {
    local server=$1 pid
    local data=$DIR/$server
    while read -r pid; do
        [[ $(readlink "/proc/$pid/exe") == */postgres ]] || continue
        kill -KILL "$pid" 2>/dev/null || true
        while start_time "$pid" >/dev/null; do sleep 0.01; done
    done < <(find /proc -mindepth 2 -maxdepth 2 -name cwd -lname "$data" 2>/dev/null | tr -dc '0-9\n')
    rm -f "$data/postmaster.pid" "$SOCKET_DIR/.s.PGSQL.${PORT[$server]}" "$SOCKET_DIR/.s.PGSQL.${PORT[$server]}.lock"
}

start_primary() {
    if [[ ! -d $DIR/primary ]]; then
        rm -rf "$DIR/primary.new"
        give_to_postgres "$DIR/primary.new" 0700
        "${AS_POSTGRES[@]}" "$PG_BIN/initdb" --no-sync --no-instructions --data-checksums -U postgres --auth=trust --encoding=UTF8 \
            --locale=C.UTF-8 -D "$DIR/primary.new" >>"$DIR/log/primary.log" 2>&1 || fail_with_log primary "initdb failed"
        mv "$DIR/primary.new" "$DIR/primary"
    fi
    write_postgres_conf primary
    launch_postgres primary
}

# Gives the superuser its password and makes the database; both once.
after_primary() {
    [[ ! -e $DIR/run/primary.made ]] || return 0
    sql_primary <<SQL
SET log_statement = 'none';
ALTER ROLE postgres PASSWORD '$PASSWORD';
SELECT 'CREATE DATABASE shop' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'shop') \gexec
SQL
    touch "$DIR/run/primary.made"
}

sql_primary() {
    "${AS_POSTGRES[@]}" "$PG_CLIENT_BIN/psql" -XqAt -v ON_ERROR_STOP=1 -h "$SOCKET_DIR" -p "${PORT[primary]}" -U postgres -d postgres
}

start_replica() {
    local server=$1
    if [[ ! -d $DIR/$server ]]; then
        is_running primary || fail "$server is copied from the primary, which does not run; add primary to --servers"
        # One copy at a time: the checkpoint of another copy may take the WAL away that a slot was just made for, and then the
        # server ends the copy ("terminating connection due to administrator command").
        exec 8>"$DIR/.copy.lock"
        flock -w 60 8 || fail "another replica has been copied from the primary for more than 60 s"
        rm -rf "$DIR/$server.new"
        give_to_postgres "$DIR/$server.new" 0700
        sql_primary <<<"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '$server'" >/dev/null
        "${AS_POSTGRES[@]}" "$PG_CLIENT_BIN/pg_basebackup" -h "$SOCKET_DIR" -p "${PORT[primary]}" -U postgres --checkpoint=fast --no-sync \
            --create-slot --slot="$server" -D "$DIR/$server.new" >>"$DIR/log/$server.log" 2>&1 ||
            fail_with_log "$server" "the primary could not be copied"
        "${AS_POSTGRES[@]}" touch "$DIR/$server.new/standby.signal"
        mv "$DIR/$server.new" "$DIR/$server"
        exec 8>&-
    fi
    write_postgres_conf "$server"
    launch_postgres "$server"
}

start_replica1() { start_replica replica1; }
start_replica2() { start_replica replica2; }

ready_postgres() {
    "$PG_CLIENT_BIN/pg_isready" -q -t 2 -U postgres -d postgres -h "$SOCKET_DIR" -p "${PORT[$1]}"
}

ready_primary() { ready_postgres primary; }
ready_replica1() { ready_postgres replica1; }
ready_replica2() { ready_postgres replica2; }

# Fast shutdown: sessions are ended, a checkpoint is made.
stop_signal_primary() { echo INT; }
stop_signal_replica1() { echo INT; }
stop_signal_replica2() { echo INT; }
