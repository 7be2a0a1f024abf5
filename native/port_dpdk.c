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

#define MEMPOOL_CACHE 128
#define RING_FRAMES 1024

struct buslane_port {
	struct rte_mempool *pool;
	uint64_t control_at;	/* time-stamp counter of the next look at the link */
	uint64_t connect_at;	/* and of the next call for the server */
	uint32_t frame_bytes;
	uint32_t ups;
	uint32_t polls;
	uint16_t id;
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
	bool up = link_is_up(port);

	if (up && !port->up)
		port->ups++;
	port->up = up;
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

uint16_t buslane_dpdk_receive(struct buslane_port *port, struct buslane_frame *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[BURST_MAX];
	uint16_t n, i;

	look_after_link(port);
	if (unlikely(port->memif && !port->up))
		return 0;
	n = rte_eth_rx_burst(port->id, 0, mbufs, RTE_MIN(count, BURST_MAX));
	for (i = 0; i < n; i++) {
		frames[i].data = rte_pktmbuf_mtod(mbufs[i], uint8_t *);
		frames[i].handle = mbufs[i];
		frames[i].length = rte_pktmbuf_data_len(mbufs[i]);
		frames[i].flags = flags_of(mbufs[i]);
		rte_prefetch0(frames[i].data);
	}
	return n;
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

	if (unlikely(port->memif && !port->up))
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
	return rte_eth_tx_burst(port->id, 0, mbufs, n);
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

static int configure(struct buslane_port *port, const struct buslane_port_request *request,
		     struct buslane_port_facts *facts)
{
	const uint64_t rx_checks = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
	struct rte_eth_conf conf = { 0 };
	struct rte_eth_dev_info info;
	const int socket = rte_eth_dev_socket_id(port->id);
	char name[RTE_MEMPOOL_NAMESIZE];
	struct rte_ether_addr mac;
	int ret;

	ret = rte_eth_dev_info_get(port->id, &info);
	if (ret != 0)
		return ret;
	snprintf(facts->driver, sizeof(facts->driver), "%s", info.driver_name);
	port->memif = strcmp(info.driver_name, MEMIF_DRIVER) == 0;
	ret = set_mtu(request, &info, &conf, facts, port->memif);
	if (ret != 0)
		return ret;
	if ((info.rx_offload_capa & rx_checks) == rx_checks)
		conf.rxmode.offloads |= rx_checks;
	conf.txmode.offloads |= info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
	facts->checks_received = conf.rxmode.offloads != 0;
	facts->makes_udp_checksums = conf.txmode.offloads != 0;
	ret = rte_eth_dev_configure(port->id, 1, 1, &conf);
	if (ret != 0)
		return ret;
	facts->rx_descriptors = request->rx_descriptors;
	facts->tx_descriptors = request->tx_descriptors;
	ret = rte_eth_dev_adjust_nb_rx_tx_desc(port->id, &facts->rx_descriptors, &facts->tx_descriptors);
	if (ret != 0)
		return ret;
	snprintf(name, sizeof(name), "buslane-%u", port->id);
	port->pool = rte_pktmbuf_pool_create(name, request->mbufs, MEMPOOL_CACHE, 0,
					     (uint16_t)(request->buffer_bytes + RTE_PKTMBUF_HEADROOM),
					     socket < 0 ? SOCKET_ID_ANY : socket);
	if (port->pool == NULL)
		return -(rte_errno ? rte_errno : ENOMEM);
	ret = rte_eth_rx_queue_setup(port->id, 0, facts->rx_descriptors, (unsigned int)socket, NULL, port->pool);
	if (ret != 0)
		return ret;
	ret = rte_eth_tx_queue_setup(port->id, 0, facts->tx_descriptors, (unsigned int)socket, NULL);
	if (ret != 0)
		return ret;
	if (request->set_mac) {
		memcpy(mac.addr_bytes, request->mac, sizeof(request->mac));
		ret = rte_eth_dev_default_mac_addr_set(port->id, &mac);
		/* memif is a wire between two: whatever address we use is heard. */
		if (ret != 0 && !port->memif)
			return ret;
	}
	ret = rte_eth_macaddr_get(port->id, &mac);
	memcpy(facts->mac, mac.addr_bytes, sizeof(facts->mac));
	return ret;
}

int buslane_dpdk_open(const struct buslane_port_request *request, struct buslane_port_facts *facts,
		      struct buslane_port **out)
{
	struct buslane_port *port;
	bool gate_ours = false;
	int ret;

	memset(facts, 0, sizeof(*facts));
	if (!rte_eth_dev_is_valid_port(request->port))
		return -ENODEV;
	port = calloc(1, sizeof(*port));
	if (port == NULL)
		return -ENOMEM;
	port->id = request->port;
	port->frame_bytes = request->frame_bytes;
	ret = configure(port, request, facts);
	if (ret == 0 && port->memif) {
		ret = gate_take();
		gate_ours = ret == 0;
	}
	if (ret != 0)
		goto fail;
	if (port->memif) {
		ret = start_watch(port);
		if (ret != 0)
			goto fail;
		call_server(port, rte_rdtsc()); /* the server may come later */
	} else {
		ret = rte_eth_dev_start(port->id);
		if (ret != 0)
			goto fail;
	}
	note_link(port);
	*out = port;
	return 0;
fail:
	if (gate_ours)
		gate_taken = false;
	rte_mempool_free(port->pool);
	free(port);
	return ret;
}

void buslane_dpdk_close(struct buslane_port *port)
{
	if (port->memif)
		end_watch(port);
	rte_eth_dev_stop(port->id);
	rte_eth_dev_close(port->id);
	if (port->memif) {
		gate_round(); /* the interrupt thread lets go of the sockets */
		gate_taken = false;
	}
	rte_mempool_free(port->pool);
	free(port);
}
