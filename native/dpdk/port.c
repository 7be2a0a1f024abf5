/* Ports on a device: bursts, buffers, and what is set up before them. */
#include "port.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_cycles.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>

#define BURST_MAX 64
#define MEMPOOL_CACHE 128

/* How often a link is looked at, but a memif's. */
#define LOOKS_PER_S 10

/* Reading the time-stamp counter costs a third of a poll that finds nothing: not at each one. */
#define POLLS_A_LOOK 16

static bool link_is_up(const struct buslane_port *port)
{
	struct rte_eth_link link;

	return rte_eth_link_get_nowait(port->id, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
}

void note_link(struct buslane_port *port)
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

static uint64_t looks_per_s(const struct buslane_port *port)
{
	return port->memif ? memif_looks_per_s(port) : LOOKS_PER_S;
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
	if (port->memif && memif_is_quiet(port))
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
		memif_look(port, now);
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

int buslane_dpdk_link(const struct buslane_port *port, uint32_t *ups)
{
	*ups = port->ups;
	return port->up;
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
	bool started = false;
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
		ret = memif_open(first);
	} else if (ret == 0) {
		ret = rte_eth_dev_start(request->port);
		started = ret == 0;
		if (ret == 0)
			ret = steer_all(device, request, facts);
	}
	if (ret != 0)
		goto fail;
	for (k = 0; k < device->count; k++)
		if (!device->ports[k]->relayed)
			note_link(device->ports[k]);
	memcpy(out, device->ports, device->count * sizeof(out[0]));
	return 0;
fail:
	if (started)
		rte_eth_dev_stop(request->port);
	free_device(device);
	return ret;
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
	if (first->memif) {
		memif_close(first);
	} else {
		rte_eth_dev_stop(first->id);
		rte_eth_dev_close(first->id);
	}
	free_device(device);
}
