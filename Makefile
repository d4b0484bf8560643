# Every command works on a fresh Debian 12 with a Rust toolchain: it installs what is missing, and says so.

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz bench-capture stack-up stack-down lint check-compose install

help:  ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo:  ## Build, start the servers, run the pipeline on a live shop; CHECK=1: for 20 s, then compare every copy
	@scripts/demo

test:  ## Run every test, on servers of its own
	@scripts/test

bench-capture:  ## Measure capture beside its peers on this machine; the tables: bench/RESULTS.md
	@scripts/bench-capture

fuzz:  ## Fuzz the decoder of the replication stream for a minute; SECONDS=3600: for an hour
	@scripts/fuzz $(SECONDS)

stack-up: install  ## Start PostgreSQL with two replicas, Redis and Kafka; their addresses: build/stack/env
	@scripts/stack up

stack-down:  ## Stop them; the data stay (scripts/stack down --wipe removes them)
	@scripts/stack down

lint:  ## Check format, lints, docs, shell scripts and licences
	@scripts/lint

check-compose:  ## Validate docker-compose.yml, without a Docker engine
	@scripts/check-compose

install:
	@scripts/install
