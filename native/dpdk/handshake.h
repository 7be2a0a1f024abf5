/* Messages of memif, between two sockets, and whether what they announce is in order. */
#ifndef BUSLANE_DPDK_HANDSHAKE_H
#define BUSLANE_DPDK_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a message of memif 2.0 is, as any implementation sends it. */
#define VERSION 0x0200
#define REGIONS_MAX 256
#define REASON_BYTES 96

enum type { NONE, ACK, HELLO, INIT, ADD_REGION, ADD_RING, CONNECT, CONNECTED, DISCONNECT };

struct __attribute__((packed)) message {
	uint16_t type;
	union {
		struct __attribute__((packed)) {
			uint16_t version;
		} init;
		struct __attribute__((packed)) {
			uint16_t index;
			uint64_t bytes;
		} region;
		struct __attribute__((packed)) {
			uint16_t to_client; /* flag 1: the other way */
			uint16_t index;
			uint16_t region;
			uint32_t offset;
			uint8_t log2_size;
		} ring;
		struct __attribute__((packed)) {
			uint32_t code;
			char reason[REASON_BYTES];
		} disconnect;
		uint8_t bytes[126];
	};
};
_Static_assert(sizeof(struct message) == 128, "as memif has it");
_Static_assert(offsetof(struct message, ring.log2_size) == 12, "as memif has it");

struct region {
	int fd;
	uint64_t bytes;
};

struct ring {
	int fd;
	struct message message;
};

/* What a peer has announced, kept here until it connects. */
struct memory {
	uint16_t regions;
	uint16_t told; /* to the driver: all regions, then both rings */
	bool rings[2];
	uint64_t bytes; /* of all regions */
	struct region region[REGIONS_MAX];
	struct ring ring[2];
	struct message connect;
};

void close_fd(int *fd);

/* Sends a message, with a descriptor where fd is not negative; nobody is waited for. */
bool tell(int to, const struct message *message, int fd);

/* Receives a message. 1: one came, with a descriptor or -1; 0: nothing yet; negative: the other end is gone, or said
 * something of another size. */
int hear(int from, struct message *message, int *fd);

/* Says why nothing more will be said. */
void say_goodbye(int fd, const char *reason);

/* Takes down what a peer that is not connected yet says, and keeps the descriptor where that is announced with it. Why
 * it is not in order; NULL if it is. */
const char *take_down(struct memory *memory, const struct message *message, int *fd);

/* Tells the driver the next part of what was announced, at last that the peer connects. False: not now. */
bool tell_next(int to, struct memory *memory);

/* Closes what is kept. */
void forget(struct memory *memory);

#endif
