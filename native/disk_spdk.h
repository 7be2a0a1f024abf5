/*
 * The SPDK disk as Rust sees it: plain C types, no spdk_ names, completions handed over in bursts.
 *
 * Errors are negative errno values in the return value. -ENXIO and -ETIMEDOUT of any call: the controller was there,
 * and is gone or does not answer; it is out of service from then on, and may be back. A controller is attached once, and has a disk, which
 * is one queue pair, for each thread that works with it. One disk is used by one thread at a time; the
 * functions that take a controller (but _lost), _open and _close are called by one thread at a time. The
 * controller's admin queue is looked after by a thread of the shim, where the process may run as a whole.
 * buslane_spdk_submit, _poll and _lost allocate nothing and return within microseconds, the others may
 * take seconds.
 */
#ifndef BUSLANE_DISK_SPDK_H
#define BUSLANE_DISK_SPDK_H

#include <stdint.h>

/* What to open. */
struct buslane_disk_request {
	const char *transport_id; /* SPDK's own: trtype:... traddr:... [subnqn:...] [ns:1]; not kept */
	uint32_t queue_pairs;	  /* disks to be opened at most */
	uint32_t operations;	  /* in flight at most, of each disk */
	uint32_t timeout_ms;	  /* an operation older than this puts the controller out of service */
	uint8_t host_id[16];	  /* who this attachment is to the target's reservations: random, never twice */
};

/* What was opened. */
struct buslane_disk_facts {
	uint64_t bytes;		     /* of the namespace */
	uint32_t namespace_id;
	uint32_t block_bytes;	     /* logical block */
	uint32_t transfer_bytes_max; /* MDTS, or what the transport takes */
	uint32_t power_fail_blocks;  /* AWUPF: logical blocks written whole or not at all at a power cut */
	uint32_t queue_pairs;	     /* the controller gives, of those asked for */
	char model[44];
	char serial[24];
	char firmware[12];
	uint8_t nguid[16];
	uint8_t uuid[16];
	uint8_t cache_present;	     /* 1: there is a volatile write cache */
	uint8_t cache_enabled;	     /* 1: and it is on */
	uint8_t is_local;	     /* 1: PCIe, so that Force Unit Access reaches the media */
	uint8_t can_reserve;	     /* 1: it has reservations that buslane_spdk_reserve can use */
	uint8_t padding[4];
	uint8_t eui64[8];
	/* How long what an earlier user of the namespace has sent may still arrive, where no reservation keeps it
	 * out; 0 where attaching has ended it. */
	uint32_t settle_ms;
	uint32_t padding2;
};
_Static_assert(sizeof(struct buslane_disk_facts) == 168, "as src/disk/spdk.rs has it");

/* SMART / health log. */
struct buslane_disk_health {
	uint64_t media_errors;
	uint64_t unsafe_shutdowns;
	uint64_t power_on_hours;
	uint16_t kelvin;
	uint8_t critical_warnings; /* bits as in the log page; 0 is well */
	uint8_t spare_percent;
	uint8_t used_percent;
	uint8_t padding[3];
};
_Static_assert(sizeof(struct buslane_disk_health) == 32, "as src/disk/spdk.rs has it");

/* One finished operation. */
struct buslane_disk_done {
	uint32_t slot;
	uint16_t status; /* 0: well; else status code type << 8 | status code */
	uint16_t padding;
};
_Static_assert(sizeof(struct buslane_disk_done) == 8, "as src/disk/spdk.rs has it");

struct buslane_controller;
struct buslane_disk;

/*
 * Starts SPDK's environment, once a process: a second call returns what the first did. Where EAL runs
 * already (a DPDK port), that one is used. Affinity of the calling thread is as before.
 * `memory_mb`: huge pages to take, in MiB. `needs_pci`: whether PCIe devices will be opened.
 */
int buslane_spdk_start(uint32_t memory_mb, int needs_pci);

/* What a transport id names. */
struct buslane_disk_way {
	uint32_t needs_pci; /* 1: a PCIe device */
	char socket[300];   /* of a vfio-user target, which has one client: attaching waits until the one before left;
			     * empty for another transport */
};
_Static_assert(sizeof(struct buslane_disk_way) == 304, "as src/disk/spdk.rs has it");

/* Whether a transport id can be read: 0, or -EINVAL. */
int buslane_spdk_check(const char *transport_id, struct buslane_disk_way *way);

/* Zeroed memory for devices, a multiple of 2 MiB, or NULL. */
void *buslane_spdk_memory(uint64_t bytes);
void buslane_spdk_memory_free(void *memory);

/*
 * Attaches to a controller. On success *controller is the caller's until buslane_spdk_detach. -ENODEV: no
 * controller answers. -ENOENT: it has no such namespace. -EBADF: the namespace has metadata or protection
 * information in its blocks.
 */
int buslane_spdk_attach(const struct buslane_disk_request *request, struct buslane_disk_facts *facts,
			struct buslane_controller **controller);

/* Detaches, when all its disks were closed, and gives the namespace back if it was reserved. What is in flight is abandoned by the controller before this
 * returns, if it can be reached. */
void buslane_spdk_detach(struct buslane_controller *controller);

/*
 * Takes the namespace for this attachment alone, by a reservation: from when this returns 0, no write of anybody else
 * is executed, and none is under way. Call it before the first disk is opened. The key's upper half says
 * where its owner runs: whoever is registered from there is gone, as the caller knows by its lock. Another is gone if
 * its key stays the same for `watch_ms`: an owner changes it once a second (by buslane_spdk_poll of the first disk).
 * -EBUSY: *other lives. -EPERM: taken at the same time by another.
 */
int buslane_spdk_reserve(struct buslane_controller *controller, uint64_t key, uint32_t watch_ms, uint64_t *other);

/* Opens a queue pair. -EBUSY: the controller gives none, though it answers. */
int buslane_spdk_open(struct buslane_controller *controller, struct buslane_disk **disk);

/* Closes it; where the controller is lost, what is in flight stays so until it is detached. */
void buslane_spdk_close(struct buslane_disk *disk);

/* Switches the volatile write cache off and reads back whether it is: 0 when it is off. */
int buslane_spdk_cache_off(struct buslane_controller *controller, struct buslane_disk_facts *facts);

int buslane_spdk_health(struct buslane_controller *controller, struct buslane_disk_health *health);

#define BUSLANE_DISK_READ 0u
#define BUSLANE_DISK_WRITE 1u
#define BUSLANE_DISK_WRITE_THROUGH 2u /* with Force Unit Access */

/*
 * Starts one operation of `bytes`, whole blocks. The memory is the device's until `slot` is polled. 0,
 * -EAGAIN when the queue pair is full for now, or why not.
 */
int buslane_spdk_submit(struct buslane_disk *disk, uint32_t operation, uint32_t slot, void *memory,
			uint64_t offset, uint32_t bytes);

/* Stores up to `room` finished operations; returns how many. */
uint32_t buslane_spdk_poll(struct buslane_disk *disk, struct buslane_disk_done *done, uint32_t room);

/* 0 while the controller is in service, else why it is not: -ETIMEDOUT, -ENXIO (gone, or was reset, or its
 * namespace is), -EPERM (another owner has taken the namespace). */
int buslane_spdk_lost(const struct buslane_controller *controller);

#endif
