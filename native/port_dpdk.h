/*
 * The DPDK port as Rust sees it: plain C types, no rte_ names, one crossing a burst.
 *
 * Errors are negative errno values in the return value. One port is used by one thread at a time; every
 * function but buslane_dpdk_start, _open and _close returns within microseconds (see _receive for the
 * one exception) and allocates nothing. Who owns a frame is said at each function.
 */
#ifndef BUSLANE_PORT_DPDK_H
#define BUSLANE_PORT_DPDK_H

#include <stdint.h>

/* A frame in one contiguous buffer. Between two calls it belongs to whoever the last call gave it to. */
struct buslane_frame {
	uint8_t *data;	 /* first byte of the frame: received, or room for one to send */
	void *handle;	 /* the driver's buffer; not to be looked into */
	uint32_t length; /* received: bytes of the frame; allocated: room; to transmit: bytes to send */
	uint32_t flags;	 /* BUSLANE_FRAME_* */
};
_Static_assert(sizeof(struct buslane_frame) == 24, "as src/port/dpdk/device.rs has it");

/* Received: the device checked the IPv4 and UDP checksums and found them good. */
#define BUSLANE_FRAME_CHECKED 1u
/* Received: the device found a checksum wrong, or the frame spans buffers. Only good for freeing. */
#define BUSLANE_FRAME_BAD 2u
/* To transmit: the device shall complete the UDP checksum. */
#define BUSLANE_FRAME_UDP_CHECKSUM 4u

/* Ports of one device at most, and frames handed from one to another that wait at most. */
#define BUSLANE_PORTS_MAX 64
#define BUSLANE_HANDED_MAX 512

/* How frames come to the port they are for, where a device has several. */
#define BUSLANE_STEERING_FLOW 0u     /* a rule of the device for each UDP port */
#define BUSLANE_STEERING_RSS 1u	     /* the device spreads by hash; what lands elsewhere is handed over */
#define BUSLANE_STEERING_SOFTWARE 2u /* port 0 alone talks to the device, and hands over in both directions */

/* What to open. */
struct buslane_port_request {
	uint32_t frame_bytes;	 /* longest frame, Ethernet header and VLAN tag included */
	uint32_t buffer_bytes;	 /* room of a buffer, at least frame_bytes */
	uint32_t mbufs;		 /* buffers in the pool of each port */
	uint16_t port;		 /* from buslane_dpdk_find */
	uint16_t count;		 /* ports to be opened on it */
	uint16_t udp_port;	 /* port k is for UDP port udp_port + k */
	uint16_t rx_descriptors; /* asked for; the device may round */
	uint16_t tx_descriptors;
	uint8_t mac[6];
	uint8_t set_mac;	 /* 1: program `mac` into the device */
	uint8_t steering;	 /* BUSLANE_STEERING_* */
	uint8_t padding[2];
};
_Static_assert(sizeof(struct buslane_port_request) == 32, "as src/port/dpdk/device.rs has it");

/* What was opened. */
struct buslane_port_facts {
	char driver[32];
	uint32_t mtu_max;	     /* when -EMSGSIZE was returned: the largest MTU the device takes */
	uint16_t rx_descriptors;
	uint16_t tx_descriptors;
	uint8_t mac[6];
	uint8_t checks_received;     /* 1: received frames may carry BUSLANE_FRAME_CHECKED */
	uint8_t makes_udp_checksums; /* 1: BUSLANE_FRAME_UDP_CHECKSUM is understood */
	uint16_t queues_max;	     /* when -ERANGE was returned: the queue pairs the device has */
	uint16_t rules_read_back;    /* steering rules that the device took and counts for */
	char refusal[92];	     /* when -EPROTO was returned: why it takes no rule */
};
_Static_assert(sizeof(struct buslane_port_facts) == 144, "as src/port/dpdk/device.rs has it");

struct buslane_port;

/*
 * Starts the environment, once a process: a second call returns what the first did. `argv` is argc
 * strings, the first a program name; copied. Affinity of the calling thread and standard output are as
 * before when it returns. May take seconds. Log lines of level warning and above go to stderr.
 */
int buslane_dpdk_start(int argc, const char *const *argv);

/* Whether the environment was started and runs. */
int buslane_dpdk_started(void);

/*
 * Puts a gate before the memif server that listens at `behind`, a file: who calls at `address` (a file, or a name of
 * the abstract kind) is heard by the gate, and the driver hears of a peer what is in order. The next memif that is
 * opened serves it until it is closed. Once a process; a second call does nothing.
 */
int buslane_dpdk_gate(const char *address, int is_abstract, const char *behind);

/* The number of the device of that name, or -ENODEV. */
int buslane_dpdk_find(const char *name, uint16_t *port);

/* Makes, once a process, two devices in memory, net_ring_buslane0 and net_ring_buslane1: each receives what
 * the other transmits. */
int buslane_dpdk_ring_pair(void);

/* How many devices there are, and the name of each by index (empty when there is none); for messages. */
uint16_t buslane_dpdk_count(void);
void buslane_dpdk_name(uint16_t index, char *name, uint32_t name_bytes);

/*
 * Opens request->count ports on a device, with a queue pair each unless steering is in software, and a pool each.
 * On success ports[0..count) are the caller's, each until buslane_dpdk_close, and may go to different threads;
 * on failure nothing is left open. A device whose link is down opens all the same. -EBUSY: a process has one
 * memif device at most. -ERANGE: the device has fewer queue pairs. -EPROTO: it takes no steering rules.
 */
int buslane_dpdk_open(const struct buslane_port_request *request, struct buslane_port_facts *facts,
		      struct buslane_port **ports);

/*
 * The port's frames must have been freed or transmitted. With the last port of a device it is stopped and closed,
 * and gone for this process. With software steering, port 0 goes on transmitting for the others until they
 * are closed, for five seconds at most.
 */
void buslane_dpdk_close(struct buslane_port *port);

/*
 * Fills frames[0..n) with at most `count` received frames and returns n; they are the caller's until
 * freed. Also does what the link needs: net_memif comes and goes with its peer, and its set-up is handled
 * here (tens of microseconds, only when the peer came or went or is away).
 */
uint16_t buslane_dpdk_receive(struct buslane_port *port, struct buslane_frame *frames, uint16_t count);

/* Gives a received frame to port `to` of the same device as well, which receives it: the caller frees its own as
 * ever. -ENOBUFS: too many wait there. */
int buslane_dpdk_hand_over(struct buslane_port *port, uint16_t to, const struct buslane_frame *frame);

/* Gives frames back to the pool. */
void buslane_dpdk_free(const struct buslane_frame *frames, uint16_t count);

/* Fills all of frames[0..count) with empty ones, the caller's from then on, or none: -ENOBUFS. */
int buslane_dpdk_allocate(struct buslane_port *port, struct buslane_frame *frames, uint16_t count);

/* Transmits frames[0..n) and returns n; those are the device's. The rest stay the caller's. */
uint16_t buslane_dpdk_transmit(struct buslane_port *port, const struct buslane_frame *frames,
			       uint16_t count);

/* 1 while frames can pass, as of the last receive; ups counts how often the link has come up. */
int buslane_dpdk_link(const struct buslane_port *port, uint32_t *ups);

/* Frames of other ports that this one dropped instead of transmitting them, because the link was down. */
uint64_t buslane_dpdk_relay_dropped(const struct buslane_port *port);

/* Milliseconds since an arbitrary start, monotonic. */
uint64_t buslane_dpdk_now_ms(void);

#endif
