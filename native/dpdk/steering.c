/* How frames come to the port they are for, where a device has several. */
#include "port.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>

#include <rte_cycles.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>

/* How long the port that transmits for the others waits for them when it is closed. */
#define RELAY_AT_CLOSE_S 5

/*
 * The rings over which ports hand frames to each other. Of several producers one may be preempted where shards are
 * not pinned; the others then do not wait for it (RTS).
 */
int make_rings(struct buslane_device *device, const struct buslane_port_request *request)
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

int steer_all(const struct buslane_device *device, const struct buslane_port_request *request,
		     struct buslane_port_facts *facts)
{
	uint16_t k;
	int ret = 0;

	if (device->count > 1 && request->steering == BUSLANE_STEERING_FLOW)
		for (k = 0; k < device->count && ret == 0; k++)
			ret = steer(request, k, facts);
	return ret;
}

/* Transmits what the other ports want sent. What the device does not take waits; with the link down it is dropped. */
void relay(struct buslane_port *port)
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

uint64_t buslane_dpdk_relay_dropped(const struct buslane_port *port)
{
	return port->relay_dropped;
}

/* So that what the others send when they end still leaves. */
void relay_until_alone(struct buslane_port *port)
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
void drain(struct rte_ring *ring)
{
	struct rte_mbuf *mbuf;

	while (ring != NULL && rte_ring_dequeue(ring, (void **)&mbuf) == 0)
		rte_pktmbuf_free(mbuf);
}
