/* The DPDK port behind port_dpdk.h: the only place that knows rte_ names. DPDK 22.11 to 26.x. */
#define _GNU_SOURCE
#include "port_dpdk.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <rte_alarm.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_ring.h>

#define BURST_MAX 64
#define MEMIF_DRIVER "net_memif"
#define MEMIF_LOG "pmd.net.memif"
#define CONTROL_FDS_MAX 8

/* How often a memif that is down is looked after at most, one that is up, any other link, and how often a
 * server that is away is called. A look costs a look at every open file, and two switches of threads. */
#define CONTROL_DOWN_PER_S 5000
#define CONTROL_UP_PER_S 100
#define CONTROL_DEVICE_PER_S 10
#define CONNECT_PER_S 100

/* Reading the time-stamp counter costs a third of a poll that finds nothing: not at each one. */
#define POLLS_A_LOOK 16

/* How long the port that transmits for the others waits for them when it is closed. */
#define RELAY_AT_CLOSE_S 5

#define MEMPOOL_CACHE 128
#define RING_FRAMES 1024
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
	atomic_bool called_for; /* there is something on a socket */
	/* Frames of the other ports that the device did not take yet. */
	uint16_t relay_from, relay_count;
	struct rte_mbuf *relay[RELAY_BURST];
};

static int start_result = 1; /* 1: not tried yet */

static void quiet_logs(void)
{
	rte_openlog_stream(stderr);
	rte_log_set_global_level(RTE_LOG_WARNING);
}

/* From DPDK 25.11 on a wrong argument ends the process inside rte_eal_init: then this says why. */
static int eal_starts;

static void say_that_eal_ended_us(void)
{
	if (eal_starts)
		fputs("buslane: error: DPDK ended the process over the arguments in `eal`; its reason is the "
		      "line above; correct them in the profile\n", stderr);
}

int buslane_dpdk_start(int argc, const char *const *argv)
{
	cpu_set_t affinity;
	char **copy;
	int out, i;

	if (start_result != 1)
		return start_result;
	/* rte_eal_init permutes its arguments and keeps pointers to them: they are never freed. */
	copy = calloc((size_t)argc + 1, sizeof(*copy));
	if (copy == NULL)
		return -ENOMEM;
	for (i = 0; i < argc; i++)
		if ((copy[i] = strdup(argv[i])) == NULL)
			return -ENOMEM;
	pthread_getaffinity_np(pthread_self(), sizeof(affinity), &affinity);
	quiet_logs();
	/* A wrong argument makes it print its usage on stdout, which belongs to data. */
	fflush(stdout);
	out = dup(STDOUT_FILENO);
	if (out >= 0)
		dup2(STDERR_FILENO, STDOUT_FILENO);
	atexit(say_that_eal_ended_us);
	eal_starts = 1;
	start_result = rte_eal_init(argc, copy) < 0 ? -(rte_errno ? rte_errno : EINVAL) : 0;
	eal_starts = 0;
	fflush(stdout);
	if (out >= 0) {
		dup2(out, STDOUT_FILENO);
		close(out);
	}
	/* rte_eal_init pins the caller to the main lcore; where we run is launch's business. */
	pthread_setaffinity_np(pthread_self(), sizeof(affinity), &affinity);
	return start_result;
}

int buslane_dpdk_started(void)
{
	return start_result == 0;
}

int buslane_dpdk_find(const char *name, uint16_t *port)
{
	return rte_eth_dev_get_port_by_name(name, port) == 0 ? 0 : -ENODEV;
}

int buslane_dpdk_ring_pair(void)
{
	static struct rte_ring *ring[2];
	int i;

	if (ring[1] != NULL)
		return 0;
	for (i = 0; i < 2; i++) {
		ring[i] = rte_ring_create(i == 0 ? "buslane0" : "buslane1", RING_FRAMES, SOCKET_ID_ANY,
					  RING_F_SP_ENQ | RING_F_SC_DEQ);
		if (ring[i] == NULL)
			return -rte_errno;
	}
	if (rte_eth_from_rings("buslane0", &ring[0], 1, &ring[1], 1, 0) < 0 ||
	    rte_eth_from_rings("buslane1", &ring[1], 1, &ring[0], 1, 0) < 0)
		return -rte_errno;
	return 0;
}

uint16_t buslane_dpdk_count(void)
{
	return rte_eth_dev_count_avail();
}

void buslane_dpdk_name(uint16_t index, char *name, uint32_t name_bytes)
{
	char found[RTE_ETH_NAME_MAX_LEN] = "";
	uint16_t id;

	RTE_ETH_FOREACH_DEV(id) {
		if (index-- == 0) {
			rte_eth_dev_get_name_by_port(id, found);
			break;
		}
	}
	snprintf(name, name_bytes, "%s", found);
}

/*
 * The gate. net_memif handles its control socket on EAL's interrupt thread, and when the peer goes away it
 * unmaps the rings there, while our thread may be reading them: that would be a segmentation fault. So
 * with memif the interrupt thread is parked in an alarm callback of ours, and let go for one round only
 * while our thread waits, outside any burst.
 */
static sem_t gate_open, gate_parked;
static bool gate_built, gate_taken;

static void gate(void *unused)
{
	(void)unused;
	sem_post(&gate_parked);
	while (sem_wait(&gate_open) != 0)
		;
	/* The alarm comes due after this round: what is ready on other sockets is handled first. */
	rte_eal_alarm_set(1, gate, NULL);
}

static void gate_wait_parked(void)
{
	while (sem_wait(&gate_parked) != 0)
		;
}

/* One port a process: a round for one would let the interrupt thread at the rings of another. */
static int gate_take(void)
{
	int ret;

	if (gate_taken)
		return -EBUSY;
	if (!gate_built) {
		sem_init(&gate_open, 0, 0);
		sem_init(&gate_parked, 0, 0);
		ret = rte_eal_alarm_set(1, gate, NULL);
		if (ret < 0)
			return ret;
		gate_wait_parked();
		gate_built = true;
	}
	gate_taken = true;
	return 0;
}

/* Lets the interrupt thread handle what is ready, and waits until it is parked again. */
static void gate_round(void)
{
	sem_post(&gate_open);
	gate_wait_parked();
}

/* The sockets of memif: the only sequenced-packet sockets of the Unix domain in this process. */
static void find_control_fds(struct buslane_port *port)
{
	struct dirent *entry;
	DIR *dir = opendir("/proc/self/fd");

	port->control_fds = 0;
	if (dir == NULL)
		return;
	while ((entry = readdir(dir)) != NULL && port->control_fds < CONTROL_FDS_MAX) {
		int domain = 0, type = 0, fd = atoi(entry->d_name);
		socklen_t bytes = sizeof(int);

		if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) != 0 || domain != AF_UNIX)
			continue;
		bytes = sizeof(int);
		if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) != 0 || type != SOCK_SEQPACKET)
			continue;
		port->control[port->control_fds++] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
	closedir(dir);
}

static bool link_is_up(const struct buslane_port *port)
{
	struct rte_eth_link link;

	return rte_eth_link_get_nowait(port->id, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
}

static void note_link(struct buslane_port *port)
{
	struct buslane_device *device = port->device;
	bool up = link_is_up(port);

	if (up && !port->up)
		port->ups++;
	port->up = up;
	if (device->outbound != NULL) {
		atomic_store_explicit(&device->up, port->up, memory_order_relaxed);
		atomic_store_explicit(&device->ups, port->ups, memory_order_relaxed);
	}
}

/*
 * A memif client connects when it is started, and only then; failing is normal: the server is away. While
 * a connection stands it is left alone, however long the other side takes: starting over would fill the
 * server's backlog, and then connecting blocks. A server is started once, since its listener stands.
 */
static void call_server(struct buslane_port *port, uint64_t now)
{
	if (now < port->connect_at)
		return;
	port->connect_at = now + rte_get_tsc_hz() / CONNECT_PER_S;
	if (port->called) {
		find_control_fds(port);
		port->called = port->control_fds > 0;
		if (port->called)
			return;
	}
	rte_log_set_level_pattern(MEMIF_LOG, RTE_LOG_CRIT);
	rte_eth_dev_stop(port->id);
	port->called = rte_eth_dev_start(port->id) == 0;
	rte_log_set_level_pattern(MEMIF_LOG, RTE_LOG_WARNING);
}

/*
 * The watch: while a memif is up, a thread of its own waits for something on its sockets, so that the thread
 * that polls makes no system call.
 */
static void *watch(void *argument)
{
	struct buslane_port *port = argument;
	int fds;

	pthread_setname_np(pthread_self(), "buslane-memif");
	for (;;) {
		while (sem_wait(&port->armed) != 0)
			;
		fds = port->control_fds;
		port->control[fds] = (struct pollfd){ .fd = port->watch_ends, .events = POLLIN };
		while (poll(port->control, (nfds_t)fds + 1, -1) < 0 && errno == EINTR)
			;
		if (port->control[fds].revents != 0)
			return NULL;
		atomic_store_explicit(&port->called_for, true, memory_order_release);
	}
}

static int start_watch(struct buslane_port *port)
{
	int result;

	port->watch_ends = eventfd(0, EFD_CLOEXEC);
	if (port->watch_ends < 0)
		return -errno;
	sem_init(&port->armed, 0, 0);
	atomic_init(&port->called_for, true); /* not armed */
	result = -pthread_create(&port->watcher, NULL, watch, port);
	if (result != 0) {
		sem_destroy(&port->armed);
		close(port->watch_ends);
	}
	return result;
}

static void end_watch(struct buslane_port *port)
{
	const uint64_t one = 1;

	if (write(port->watch_ends, &one, sizeof(one)) == sizeof(one)) {
		sem_post(&port->armed);
		pthread_join(port->watcher, NULL);
	}
	sem_destroy(&port->armed);
	close(port->watch_ends);
}

static void look_after_memif(struct buslane_port *port, uint64_t now)
{
	gate_round();
	note_link(port);
	if (port->up) {
		find_control_fds(port);
		atomic_store_explicit(&port->called_for, false, memory_order_relaxed);
		sem_post(&port->armed);
	} else {
		call_server(port, now);
	}
}

static uint64_t looks_per_s(const struct buslane_port *port)
{
	if (!port->memif)
		return CONTROL_DEVICE_PER_S;
	return port->up ? CONTROL_UP_PER_S : CONTROL_DOWN_PER_S;
}

static void look_after_link(struct buslane_port *port)
{
	uint64_t now;

	if (likely(port->polls++ % POLLS_A_LOOK != 0))
		return;
	if (port->relayed) {
		port->up = atomic_load_explicit(&port->device->up, memory_order_relaxed);
		port->ups = atomic_load_explicit(&port->device->ups, memory_order_relaxed);
		return;
	}
	if (port->memif && port->up && !atomic_load_explicit(&port->called_for, memory_order_acquire))
		return;
	now = rte_rdtsc();
	if (likely(now < port->control_at))
		return;
	if (unlikely(!port->registered)) {
		/* Gives the polling thread a cache of the pool; without, buffers merely cost more. */
		port->registered = true;
		if (rte_lcore_id() == LCORE_ID_ANY)
			(void)rte_thread_register();
	}
	if (port->memif)
		look_after_memif(port, now);
	else
		note_link(port);
	port->control_at = rte_rdtsc() + rte_get_tsc_hz() / looks_per_s(port);
}

static uint32_t flags_of(const struct rte_mbuf *mbuf)
{
	const uint64_t ip = mbuf->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK;
	const uint64_t udp = mbuf->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK;

	if (mbuf->nb_segs != 1 || ip == RTE_MBUF_F_RX_IP_CKSUM_BAD)
		return BUSLANE_FRAME_BAD;
	/* A wrong UDP sum is left to software: some devices say so of a sum that is absent. */
	if (ip == RTE_MBUF_F_RX_IP_CKSUM_GOOD && udp == RTE_MBUF_F_RX_L4_CKSUM_GOOD)
		return BUSLANE_FRAME_CHECKED;
	return 0;
}

/* Transmits what the other ports want sent. What the device does not take waits; with the link down it is dropped. */
static void relay(struct buslane_port *port)
{
	struct rte_ring *outbound = port->device->outbound;
	uint16_t sent;

	if (port->relay_count == 0) {
		port->relay_from = 0;
		port->relay_count = (uint16_t)rte_ring_sc_dequeue_burst(outbound, (void **)port->relay, RELAY_BURST, NULL);
		if (port->relay_count == 0)
			return;
	}
	if (port->up) {
		sent = rte_eth_tx_burst(port->id, port->queue, port->relay + port->relay_from, port->relay_count);
	} else {
		sent = port->relay_count;
		rte_pktmbuf_free_bulk(port->relay + port->relay_from, sent);
		port->relay_dropped += sent;
	}
	port->relay_from += sent;
	port->relay_count -= sent;
}

uint16_t buslane_dpdk_receive(struct buslane_port *port, struct buslane_frame *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[BURST_MAX];
	uint16_t n = 0, i;

	count = RTE_MIN(count, BURST_MAX);
	look_after_link(port);
	if (port->device->outbound != NULL && !port->relayed)
		relay(port);
	/* Half the room at most, so that neither way starves the other. */
	if (port->inbound != NULL)
		n = (uint16_t)rte_ring_sc_dequeue_burst(port->inbound, (void **)mbufs, (count + 1) / 2, NULL);
	if (likely(!port->relayed && (!port->memif || port->up)))
		n += rte_eth_rx_burst(port->id, port->queue, mbufs + n, (uint16_t)(count - n));
	for (i = 0; i < n; i++) {
		frames[i].data = rte_pktmbuf_mtod(mbufs[i], uint8_t *);
		frames[i].handle = mbufs[i];
		frames[i].length = rte_pktmbuf_data_len(mbufs[i]);
		frames[i].flags = flags_of(mbufs[i]);
		rte_prefetch0(frames[i].data);
	}
	return n;
}

int buslane_dpdk_hand_over(struct buslane_port *port, uint16_t to, const struct buslane_frame *frame)
{
	struct rte_mbuf *mbuf = frame->handle;
	struct rte_ring *inbound = to < port->device->count ? port->device->ports[to]->inbound : NULL;

	if (inbound == NULL)
		return -EINVAL;
	/* Each of the two frees it. */
	rte_mbuf_refcnt_update(mbuf, 1);
	if (rte_ring_enqueue(inbound, mbuf) == 0)
		return 0;
	rte_mbuf_refcnt_update(mbuf, -1);
	return -ENOBUFS;
}

void buslane_dpdk_free(const struct buslane_frame *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[BURST_MAX];
	uint16_t done = 0;

	while (done < count) {
		uint16_t i, n = RTE_MIN(count - done, BURST_MAX);

		for (i = 0; i < n; i++)
			mbufs[i] = frames[done + i].handle;
		rte_pktmbuf_free_bulk(mbufs, n);
		done += n;
	}
}

int buslane_dpdk_allocate(struct buslane_port *port, struct buslane_frame *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[BURST_MAX];
	uint16_t i;

	if (count > BURST_MAX)
		return -EINVAL;
	if (rte_pktmbuf_alloc_bulk(port->pool, mbufs, count) != 0)
		return -ENOBUFS;
	for (i = 0; i < count; i++) {
		frames[i].data = rte_pktmbuf_mtod(mbufs[i], uint8_t *);
		frames[i].handle = mbufs[i];
		frames[i].length = port->frame_bytes;
		frames[i].flags = 0;
	}
	return 0;
}

uint16_t buslane_dpdk_transmit(struct buslane_port *port, const struct buslane_frame *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[BURST_MAX];
	uint16_t i, n = RTE_MIN(count, BURST_MAX);

	if (unlikely(!port->up && (port->memif || port->relayed)))
		return 0;
	for (i = 0; i < n; i++) {
		struct rte_mbuf *mbuf = frames[i].handle;

		mbuf->data_len = (uint16_t)frames[i].length;
		mbuf->pkt_len = frames[i].length;
		if (frames[i].flags & BUSLANE_FRAME_UDP_CHECKSUM) {
			mbuf->l2_len = 14;
			mbuf->l3_len = 20;
			mbuf->ol_flags |= RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_UDP_CKSUM;
		}
		mbufs[i] = mbuf;
	}
	if (port->relayed)
		return (uint16_t)rte_ring_enqueue_burst(port->device->outbound, (void **)mbufs, n, NULL);
	return rte_eth_tx_burst(port->id, port->queue, mbufs, n);
}

uint64_t buslane_dpdk_relay_dropped(const struct buslane_port *port)
{
	return port->relay_dropped;
}

int buslane_dpdk_link(const struct buslane_port *port, uint32_t *ups)
{
	*ups = port->ups;
	return port->up;
}

uint64_t buslane_dpdk_now_ms(void)
{
	return rte_rdtsc() / (rte_get_tsc_hz() / 1000);
}

static int set_mtu(const struct buslane_port_request *request, const struct rte_eth_dev_info *info,
		   struct rte_eth_conf *conf, struct buslane_port_facts *facts, bool memif)
{
	const uint32_t mtu = request->frame_bytes - RTE_ETHER_HDR_LEN - RTE_VLAN_HLEN;

	/* net_memif says 1518 and carries whatever its bsize holds. */
	if (mtu <= RTE_ETHER_MTU || memif)
		return 0;
	if (mtu > info->max_mtu || mtu + RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN > info->max_rx_pktlen) {
		facts->mtu_max = RTE_MIN((uint32_t)info->max_mtu,
					 info->max_rx_pktlen - RTE_ETHER_HDR_LEN - RTE_ETHER_CRC_LEN);
		return -EMSGSIZE;
	}
	conf->rxmode.mtu = mtu;
	return 0;
}

/* Pools of all ports. */
static int make_pools(struct buslane_device *device, const struct buslane_port_request *request)
{
	const int socket = rte_eth_dev_socket_id(request->port);
	char name[RTE_MEMPOOL_NAMESIZE];
	uint16_t k;

	for (k = 0; k < device->count; k++) {
		snprintf(name, sizeof(name), "buslane-%u-%u", request->port, k);
		device->ports[k]->pool = rte_pktmbuf_pool_create(name, request->mbufs, MEMPOOL_CACHE, 0,
								 (uint16_t)(request->buffer_bytes + RTE_PKTMBUF_HEADROOM),
								 socket < 0 ? SOCKET_ID_ANY : socket);
		if (device->ports[k]->pool == NULL)
			return -(rte_errno ? rte_errno : ENOMEM);
	}
	return 0;
}

/*
 * The rings over which ports hand frames to each other. Of several producers one may be preempted where shards are
 * not pinned; the others then do not wait for it (RTS).
 */
static int make_rings(struct buslane_device *device, const struct buslane_port_request *request)
{
	const bool relayed = request->steering == BUSLANE_STEERING_SOFTWARE;
	const int socket = rte_eth_dev_socket_id(request->port);
	char name[RTE_RING_NAMESIZE];
	uint16_t k;

	if (device->count == 1)
		return 0;
	for (k = 0; k < device->count; k++) {
		struct buslane_port *port = device->ports[k];

		port->relayed = relayed && k > 0;
		snprintf(name, sizeof(name), "buslane-%u-in-%u", request->port, k);
		port->inbound = rte_ring_create(name, BUSLANE_HANDED_MAX, socket < 0 ? SOCKET_ID_ANY : socket,
						RING_F_SC_DEQ | (relayed ? RING_F_SP_ENQ : RING_F_MP_RTS_ENQ));
		if (port->inbound == NULL)
			return -(rte_errno ? rte_errno : ENOMEM);
	}
	if (relayed) {
		snprintf(name, sizeof(name), "buslane-%u-out", request->port);
		device->outbound = rte_ring_create(name, BUSLANE_HANDED_MAX, socket < 0 ? SOCKET_ID_ANY : socket,
						   RING_F_SC_DEQ | RING_F_MP_RTS_ENQ);
		if (device->outbound == NULL)
			return -(rte_errno ? rte_errno : ENOMEM);
	}
	return 0;
}

/* Puts what is sent to a UDP port on a queue. Where the device counts what a rule catches, the rule is read back. */
static int steer(const struct buslane_port_request *request, uint16_t queue, struct buslane_port_facts *facts)
{
	const struct rte_flow_attr attr = { .ingress = 1 };
	const struct rte_flow_item_udp udp = {
		.hdr.dst_port = rte_cpu_to_be_16((uint16_t)(request->udp_port + queue)) };
	const struct rte_flow_item_udp mask = { .hdr.dst_port = RTE_BE16(0xffff) };
	const struct rte_flow_item pattern[] = {
		{ .type = RTE_FLOW_ITEM_TYPE_ETH },
		{ .type = RTE_FLOW_ITEM_TYPE_IPV4 },
		{ .type = RTE_FLOW_ITEM_TYPE_UDP, .spec = &udp, .mask = &mask },
		{ .type = RTE_FLOW_ITEM_TYPE_END },
	};
	const struct rte_flow_action_queue to = { .index = queue };
	const struct rte_flow_action_count plain = { 0 };
	const struct rte_flow_action counted[] = {
		{ .type = RTE_FLOW_ACTION_TYPE_COUNT, .conf = &plain },
		{ .type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &to },
		{ .type = RTE_FLOW_ACTION_TYPE_END },
	};
	struct rte_flow_query_count hits = { 0 };
	struct rte_flow_error error = { 0 };
	struct rte_flow *flow;

	flow = rte_flow_create(request->port, &attr, pattern, counted, &error);
	if (flow != NULL) {
		if (rte_flow_query(request->port, flow, counted, &hits, &error) == 0) {
			facts->rules_read_back++;
			return 0;
		}
		snprintf(facts->refusal, sizeof(facts->refusal), "a rule it took cannot be read back: %s",
			 error.message != NULL ? error.message : "no reason given");
		return -EPROTO;
	}
	flow = rte_flow_create(request->port, &attr, pattern, counted + 1, &error);
	if (flow != NULL)
		return 0;
	snprintf(facts->refusal, sizeof(facts->refusal), "%s",
		 error.message != NULL ? error.message : rte_strerror(rte_errno));
	return -EPROTO;
}

static int steer_all(const struct buslane_device *device, const struct buslane_port_request *request,
		     struct buslane_port_facts *facts)
{
	uint16_t k;
	int ret = 0;

	if (device->count > 1 && request->steering == BUSLANE_STEERING_FLOW)
		for (k = 0; k < device->count && ret == 0; k++)
			ret = steer(request, k, facts);
	return ret;
}

static int configure(struct buslane_device *device, const struct buslane_port_request *request,
		     struct buslane_port_facts *facts)
{
	const uint64_t rx_checks = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
	const uint16_t id = request->port;
	const uint16_t queues = request->steering == BUSLANE_STEERING_SOFTWARE ? 1 : device->count;
	struct rte_eth_conf conf = { 0 };
	struct rte_eth_dev_info info;
	const int socket = rte_eth_dev_socket_id(id);
	struct rte_ether_addr mac;
	bool memif;
	uint16_t k;
	int ret;

	ret = rte_eth_dev_info_get(id, &info);
	if (ret != 0)
		return ret;
	snprintf(facts->driver, sizeof(facts->driver), "%s", info.driver_name);
	memif = strcmp(info.driver_name, MEMIF_DRIVER) == 0;
	device->ports[0]->memif = memif;
	/* What of a memif goes away with its peer is looked after by the one thread that polls it. */
	facts->queues_max = memif ? 1 : RTE_MIN(info.max_rx_queues, info.max_tx_queues);
	if (queues > facts->queues_max)
		return -ERANGE;
	ret = set_mtu(request, &info, &conf, facts, memif);
	if (ret != 0)
		return ret;
	if ((info.rx_offload_capa & rx_checks) == rx_checks)
		conf.rxmode.offloads |= rx_checks;
	conf.txmode.offloads |= info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
	facts->checks_received = conf.rxmode.offloads != 0;
	facts->makes_udp_checksums = conf.txmode.offloads != 0;
	/* A device that cannot be told spreads as it does: what lands elsewhere is handed over. */
	if (queues > 1 && request->steering == BUSLANE_STEERING_RSS && info.flow_type_rss_offloads != 0) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = (RTE_ETH_RSS_IP | RTE_ETH_RSS_UDP) & info.flow_type_rss_offloads;
	}
	ret = rte_eth_dev_configure(id, queues, queues, &conf);
	if (ret != 0)
		return ret;
	facts->rx_descriptors = request->rx_descriptors;
	facts->tx_descriptors = request->tx_descriptors;
	ret = rte_eth_dev_adjust_nb_rx_tx_desc(id, &facts->rx_descriptors, &facts->tx_descriptors);
	if (ret != 0)
		return ret;
	ret = make_pools(device, request);
	if (ret == 0)
		ret = make_rings(device, request);
	for (k = 0; k < queues && ret == 0; k++) {
		device->ports[k]->queue = k;
		ret = rte_eth_rx_queue_setup(id, k, facts->rx_descriptors, (unsigned int)socket, NULL,
					     device->ports[k]->pool);
		if (ret == 0)
			ret = rte_eth_tx_queue_setup(id, k, facts->tx_descriptors, (unsigned int)socket, NULL);
	}
	if (ret != 0)
		return ret;
	if (request->set_mac) {
		memcpy(mac.addr_bytes, request->mac, sizeof(request->mac));
		ret = rte_eth_dev_default_mac_addr_set(id, &mac);
		/* memif is a wire between two: whatever address we use is heard. */
		if (ret != 0 && !memif)
			return ret;
	}
	ret = rte_eth_macaddr_get(id, &mac);
	memcpy(facts->mac, mac.addr_bytes, sizeof(facts->mac));
	return ret;
}

static void free_device(struct buslane_device *device)
{
	uint16_t k;

	for (k = 0; k < device->count && device->ports[k] != NULL; k++) {
		rte_ring_free(device->ports[k]->inbound);
		rte_mempool_free(device->ports[k]->pool);
		free(device->ports[k]);
	}
	rte_ring_free(device->outbound);
	free(device);
}

static struct buslane_device *new_device(const struct buslane_port_request *request)
{
	struct buslane_device *device = calloc(1, sizeof(*device));
	uint16_t k;

	if (device == NULL)
		return NULL;
	device->count = request->count;
	atomic_init(&device->open, request->count);
	for (k = 0; k < request->count; k++) {
		struct buslane_port *port = calloc(1, sizeof(*port));

		if (port == NULL) {
			free_device(device);
			return NULL;
		}
		port->device = device;
		port->id = request->port;
		port->frame_bytes = request->frame_bytes;
		device->ports[k] = port;
	}
	return device;
}

int buslane_dpdk_open(const struct buslane_port_request *request, struct buslane_port_facts *facts,
		      struct buslane_port **out)
{
	struct buslane_device *device;
	struct buslane_port *first;
	bool gate_ours = false, started = false;
	uint16_t k;
	int ret;

	memset(facts, 0, sizeof(*facts));
	if (!rte_eth_dev_is_valid_port(request->port))
		return -ENODEV;
	if (request->count == 0 || request->count > BUSLANE_PORTS_MAX)
		return -EINVAL;
	device = new_device(request);
	if (device == NULL)
		return -ENOMEM;
	first = device->ports[0];
	ret = configure(device, request, facts);
	if (ret == 0 && first->memif) {
		ret = gate_take();
		gate_ours = ret == 0;
	}
	if (ret != 0)
		goto fail;
	if (first->memif) {
		ret = start_watch(first);
		if (ret != 0)
			goto fail;
		call_server(first, rte_rdtsc()); /* the server may come later */
	} else {
		ret = rte_eth_dev_start(request->port);
		started = ret == 0;
		if (ret == 0)
			ret = steer_all(device, request, facts);
		if (ret != 0)
			goto fail;
	}
	for (k = 0; k < device->count; k++)
		if (!device->ports[k]->relayed)
			note_link(device->ports[k]);
	memcpy(out, device->ports, device->count * sizeof(out[0]));
	return 0;
fail:
	if (started)
		rte_eth_dev_stop(request->port);
	if (gate_ours)
		gate_taken = false;
	free_device(device);
	return ret;
}

/* So that what the others send when they end still leaves. */
static void relay_until_alone(struct buslane_port *port)
{
	const uint64_t until = rte_rdtsc() + RELAY_AT_CLOSE_S * rte_get_tsc_hz();

	while (atomic_load(&port->device->open) > 1 && rte_rdtsc() < until) {
		relay(port);
		sched_yield();
	}
	relay(port);
	rte_pktmbuf_free_bulk(port->relay + port->relay_from, port->relay_count);
	port->relay_count = 0;
}

/* Frames that nobody will fetch any more. */
static void drain(struct rte_ring *ring)
{
	struct rte_mbuf *mbuf;

	while (ring != NULL && rte_ring_dequeue(ring, (void **)&mbuf) == 0)
		rte_pktmbuf_free(mbuf);
}

void buslane_dpdk_close(struct buslane_port *port)
{
	struct buslane_device *device = port->device;
	struct buslane_port *first = device->ports[0];
	uint16_t k;

	if (port == first && device->outbound != NULL)
		relay_until_alone(port);
	if (atomic_fetch_sub(&device->open, 1) > 1)
		return;
	for (k = 0; k < device->count; k++)
		drain(device->ports[k]->inbound);
	drain(device->outbound);
	if (first->memif)
		end_watch(first);
	rte_eth_dev_stop(first->id);
	rte_eth_dev_close(first->id);
	if (first->memif) {
		gate_round(); /* the interrupt thread lets go of the sockets */
		gate_taken = false;
	}
	free_device(device);
}
