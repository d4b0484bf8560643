# The Kafka that the stack runs; read by scripts/install and scripts/stack.
# shellcheck shell=bash disable=SC2034
KAFKA_VERSION=4.1.2
