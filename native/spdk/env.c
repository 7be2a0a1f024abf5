/* SPDK's environment, transport ids and memory, behind disk_spdk.h. */
#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <spdk/env.h>
#include <spdk/env_dpdk.h>
#include <spdk/log.h>

/* In dpdk/eal.c, where that is built too: whether EAL runs. */
extern int buslane_dpdk_started(void) __attribute__((weak));

cpu_set_t home_cpus;
static int start_result = 1; /* 1: not tried yet */

static int start_env(uint32_t memory_mb, int needs_pci, const cpu_set_t *affinity)
{
	struct spdk_env_opts opts;
	char cores[32];
	int core = 0;

	while (core < CPU_SETSIZE - 1 && !CPU_ISSET(core, affinity))
		core++;
	snprintf(cores, sizeof(cores), "[%d]", core);
	memset(&opts, 0, sizeof(opts));
	opts.opts_size = sizeof(opts);
	spdk_env_opts_init(&opts);
	opts.name = "buslane";
	opts.core_mask = cores;
	opts.mem_size = (int)memory_mb;
	opts.no_pci = !needs_pci;
	/* A vfio-user target maps our memory by its files: one a segment. */
	opts.hugepage_single_segments = !needs_pci;
	return spdk_env_init(&opts);
}

int buslane_spdk_start(uint32_t memory_mb, int needs_pci)
{
	cpu_set_t affinity;
	int out;

	if (start_result != 1)
		return start_result;
	spdk_log_set_print_level(SPDK_LOG_ERROR);
	pthread_getaffinity_np(pthread_self(), sizeof(affinity), &affinity);
	home_cpus = affinity;
	/* Standard output belongs to data. */
	fflush(stdout);
	out = dup(STDOUT_FILENO);
	if (out >= 0)
		dup2(STDERR_FILENO, STDOUT_FILENO);
	if (buslane_dpdk_started != NULL && buslane_dpdk_started())
		start_result = spdk_env_dpdk_post_init(false);
	else
		start_result = start_env(memory_mb, needs_pci, &affinity);
	if (start_result > 0)
		start_result = -start_result;
	if (start_result == -1)
		start_result = -ENOMEM;
	fflush(stdout);
	if (out >= 0) {
		dup2(out, STDOUT_FILENO);
		close(out);
	}
	pthread_setaffinity_np(pthread_self(), sizeof(affinity), &affinity);
	return start_result;
}

int transport_parse(const char *text, struct spdk_nvme_transport_id *trid, uint32_t *ns)
{
	const char *word = text;
	char *end;

	memset(trid, 0, sizeof(*trid));
	spdk_nvme_trid_populate_transport(trid, SPDK_NVME_TRANSPORT_PCIE);
	*ns = 1;
	if (spdk_nvme_transport_id_parse(trid, text) != 0)
		return -EINVAL;
	/* A word of its own: "ns:" may well stand in a name. */
	while (*(word += strspn(word, " \t\n")) != '\0') {
		if (strncasecmp(word, "ns:", 3) == 0) {
			*ns = (uint32_t)strtoul(word + 3, &end, 10);
			if (end == word + 3 || (*end != '\0' && strchr(" \t\n", *end) == NULL))
				return -EINVAL;
		}
		word += strcspn(word, " \t\n");
	}
	/* A transport it does not know is taken for a custom one. */
	if (*ns == 0 || trid->traddr[0] == '\0' || !spdk_nvme_transport_available_by_name(trid->trstring))
		return -EINVAL;
	return 0;
}

int buslane_spdk_check(const char *transport_id, struct buslane_disk_way *way)
{
	struct spdk_nvme_transport_id trid;
	uint32_t ns;
	int result = transport_parse(transport_id, &trid, &ns);

	memset(way, 0, sizeof(*way));
	if (result != 0)
		return result;
	way->needs_pci = trid.trtype == SPDK_NVME_TRANSPORT_PCIE;
	if (trid.trtype == SPDK_NVME_TRANSPORT_VFIOUSER)
		snprintf(way->socket, sizeof(way->socket), "%s/cntrl", trid.traddr);
	return 0;
}

void *buslane_spdk_memory(uint64_t bytes)
{
	return spdk_zmalloc(bytes, 2u << 20, NULL, SPDK_ENV_NUMA_ID_ANY, SPDK_MALLOC_DMA);
}

void buslane_spdk_memory_free(void *memory)
{
	spdk_free(memory);
}
