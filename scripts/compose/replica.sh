#!/usr/bin/env bash
# The entry point of a replica's container: copies the primary once, then runs as its hot standby. Its argument names its slot.
set -euo pipefail
slot=$1

if [[ ! -s $PGDATA/PG_VERSION ]]; then
    # A copy that was interrupted leaves files behind, which pg_basebackup would refuse.
    find "$PGDATA" -mindepth 1 -delete
    chown postgres: "$PGDATA"
    chmod 0700 "$PGDATA"
    # --write-recovery-conf keeps the connection, password included, in a file that only the server reads.
    PGPASSWORD=$(cat /run/secrets/replicator) gosu postgres pg_basebackup --host=primary --username=replicator \
        --wal-method=stream --slot="$slot" --checkpoint=fast --write-recovery-conf --pgdata="$PGDATA"
fi
shift
exec docker-entrypoint.sh postgres "$@"
