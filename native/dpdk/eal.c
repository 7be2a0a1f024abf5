/* EAL, which starts once a process, and the devices it found. */
#define _GNU_SOURCE
#include "../port_dpdk.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_log.h>
#include <rte_ring.h>

#define RING_FRAMES 1024

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

uint64_t buslane_dpdk_now_ms(void)
{
	return rte_rdtsc() / (rte_get_tsc_hz() / 1000);
}
