/* Stands in for a function of librdkafka that reads and writes past its memory.
 *
 * A broker that answers a Fetch with errors may name the leaders that it knows (KIP-951). One that has just started knows those of some
 * partitions and not of others, and says -1 for these. librdkafka 2.12.1 counts both and writes down the first alone
 * (rdkafka_fetcher.c: partitions_with_leader_change_cnt), so that rd_kafka_metadata_update_op takes what the memory held before
 * for numbers of partitions: the client dies, or damages its cache of them (its issue 5280, open).
 *
 * These hints spare a question to the brokers, and nothing rests on them: a partition whose leader is another one is asked for behind the
 * same error. They are passed over here. The linker puts this function in the place of librdkafka's (--wrap, in the build scripts). */

/* RD_KAFKA_OP_RES_HANDLED (rdkafka_op.h): the caller frees the hints. */
enum { HANDLED = 1 };

int __wrap_rd_kafka_metadata_update_op(void *client, void *hints) {
        (void)client;
        (void)hints;
        return HANDLED;
}

/* Without --wrap there is no symbol of this name: what was forgotten does not link. */
extern int __real_rd_kafka_metadata_update_op(void *client, void *hints);

__attribute__((used, retain)) static int (*const wrapped)(void *, void *) = __real_rd_kafka_metadata_update_op;
