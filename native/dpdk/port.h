/* What the files behind port_dpdk.h share: the only ones that know rte_ names. DPDK 22.11 to 26.x. */
#ifndef BUSLANE_DPDK_PORT_H
#define BUSLANE_DPDK_PORT_H

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <rte_ring.h>
#include <rte_mbuf.h>

#include "../port_dpdk.h"

#define MEMIF_DRIVER "net_memif"
#define CONTROL_FDS_MAX 8
#define RELAY_BURST 32

/* What the ports of one device have in common. */
struct buslane_device {
	uint16_t count; /* ports */
	/* What port 0 knows of the link, where only that one talks to the device. */
	atomic_bool up;
	atomic_uint ups;
	atomic_uint open; /* ports */
	/* With software steering, frames of the other ports, for port 0 to transmit; else NULL. */
	struct rte_ring *outbound;
	struct buslane_port *ports[BUSLANE_PORTS_MAX];
};

struct buslane_port {
	struct buslane_device *device;
	struct rte_mempool *pool;
	struct rte_ring *inbound; /* frames other ports have received for this one; NULL where it is alone */
	uint64_t control_at;	/* time-stamp counter of the next look at the link */
	uint64_t connect_at;	/* and of the next call for the server */
	uint64_t relay_dropped;
	uint32_t frame_bytes;
	uint32_t ups;
	uint32_t polls;
	uint16_t id;
	uint16_t queue;
	bool relayed;		/* port 0 transmits for it, and hands over what it receives for it */
	bool memif;
	bool up;
	bool called;		/* a memif whose start succeeded: its sockets say when it is over */
	bool registered;	/* rte_thread_register was tried on the thread that polls */
	/* The sockets of a memif that is up, and last what ends the watch; the watcher's while it is armed. */
	int control_fds;
	struct pollfd control[CONTROL_FDS_MAX + 1];
	pthread_t watcher;
	sem_t armed;
	int watch_ends;		/* an eventfd */
	struct memif_gate *gate; /* of a memif server: it calls instead of a watch */
	atomic_bool called_for; /* there is something on a socket */
	/* Frames of the other ports that the device did not take yet. */
	uint16_t relay_from, relay_count;
	struct rte_mbuf *relay[RELAY_BURST];
};

/* port.c */
void note_link(struct buslane_port *port);

/* memif.c: instead of rte_eth_dev_start, _stop and _close. What is looked after, and whether there is reason to. */
int memif_open(struct buslane_port *port);
void memif_close(struct buslane_port *port);
bool memif_is_quiet(struct buslane_port *port);
void memif_look(struct buslane_port *port, uint64_t now);
uint64_t memif_looks_per_s(const struct buslane_port *port);

/* steering.c */
int make_rings(struct buslane_device *device, const struct buslane_port_request *request);
int steer_all(const struct buslane_device *device, const struct buslane_port_request *request,
	      struct buslane_port_facts *facts);
void relay(struct buslane_port *port);
void relay_until_alone(struct buslane_port *port);
void drain(struct rte_ring *ring);

#endif
