# The newer PostgreSQLs that tests run on beside Debian's; read by scripts/install and scripts/test. Their programs come from
# Maven: initdb, pg_ctl and postgres only, so that psql and pg_isready are Debian's.
# shellcheck shell=bash disable=SC2034
POSTGRES_VERSIONS=(16.15.0 17.11.0 18.6.0)

# Prints where a version's programs are kept.
postgres_folder() { echo "$ROOT/build/postgresql-$1"; }
