# The Debezium that the bench measures; read by scripts/install and scripts/bench-capture.
# shellcheck shell=bash disable=SC2034
DEBEZIUM_VERSION=3.7.0.Final
