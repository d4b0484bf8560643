#!/usr/bin/env bash
# Runs once, in the primary's container, when its data folder is new: the role that replicas log in as, and their slots.
set -euo pipefail

psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -v password="$(cat /run/secrets/replicator)" <<'SQL'
CREATE ROLE replicator LOGIN REPLICATION PASSWORD :'password';
SELECT pg_create_physical_replication_slot('replica1'), pg_create_physical_replication_slot('replica2');
SQL

# The image lets ordinary sessions in from anywhere, by password; replication sessions need a line of their own.
echo "host replication all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
