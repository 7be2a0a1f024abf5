/* A controller attached, looked after on a thread of its own, and detached. */
#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <spdk/env.h>
#include <spdk/log.h>
#include <spdk/uuid.h>

#define ADMIN_EVERY_MS 5
#define KEEP_ALIVE_MS 10000

/*
 * The admin queue: events of the controller, keep-alives, resets. Looking at it costs system calls (SPDK asks
 * for the process id), so that it is done on a thread of its own, away from the cores that poll.
 */
static void *control(void *argument)
{
	struct buslane_controller *controller = argument;
	struct timespec until;

	pthread_setname_np(pthread_self(), "buslane-nvme");
	do {
		if (spdk_nvme_ctrlr_process_admin_completions(controller->ctrlr) < 0 ||
		    spdk_nvme_ctrlr_is_failed(controller->ctrlr))
			controller_lose(controller, -ENXIO);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += ADMIN_EVERY_MS * 1000000L;
		until.tv_sec += until.tv_nsec / 1000000000L;
		until.tv_nsec %= 1000000000L;
	} while (sem_timedwait(&controller->control_ends, &until) != 0);
	return NULL;
}

static int start_control(struct buslane_controller *controller)
{
	pthread_attr_t attributes;
	int result;

	sem_init(&controller->control_ends, 0, 0);
	pthread_attr_init(&attributes);
	pthread_attr_setaffinity_np(&attributes, sizeof(home_cpus), &home_cpus);
	result = -pthread_create(&controller->control, &attributes, control, controller);
	pthread_attr_destroy(&attributes);
	return result;
}

static void end_control(struct buslane_controller *controller)
{
	sem_post(&controller->control_ends);
	pthread_join(controller->control, NULL);
	sem_destroy(&controller->control_ends);
}

/* Identify's strings are padded with blanks. */
static void copy_text(char *to, size_t room, const int8_t *from, size_t length)
{
	while (length > 0 && (from[length - 1] == ' ' || from[length - 1] == '\0'))
		length--;
	if (length >= room)
		length = room - 1;
	memcpy(to, from, length);
	to[length] = '\0';
}

static int describe(struct buslane_controller *controller, const struct spdk_nvme_transport_id *trid,
		    struct buslane_disk_facts *facts)
{
	const struct spdk_nvme_ctrlr_data *data = spdk_nvme_ctrlr_get_data(controller->ctrlr);
	const struct spdk_nvme_ns_data *ns_data = spdk_nvme_ns_get_data(controller->ns);
	const uint8_t *nguid = spdk_nvme_ns_get_nguid(controller->ns);
	const struct spdk_uuid *uuid = spdk_nvme_ns_get_uuid(controller->ns);
	uint16_t oncs;

	memset(facts, 0, sizeof(*facts));
	memcpy(&oncs, &data->oncs, sizeof(oncs));
	facts->bytes = spdk_nvme_ns_get_size(controller->ns);
	facts->namespace_id = spdk_nvme_ns_get_id(controller->ns);
	facts->block_bytes = spdk_nvme_ns_get_sector_size(controller->ns);
	facts->transfer_bytes_max = spdk_nvme_ns_get_max_io_xfer_size(controller->ns);
	facts->power_fail_blocks = 1u + (ns_data->nsfeat.ns_atomic_write_unit ? ns_data->nawupf : data->awupf);
	copy_text(facts->model, sizeof(facts->model), data->mn, sizeof(data->mn));
	copy_text(facts->serial, sizeof(facts->serial), data->sn, sizeof(data->sn));
	copy_text(facts->firmware, sizeof(facts->firmware), (const int8_t *)data->fr, sizeof(data->fr));
	if (nguid != NULL)
		memcpy(facts->nguid, nguid, sizeof(facts->nguid));
	if (uuid != NULL)
		memcpy(facts->uuid, uuid, sizeof(facts->uuid));
	if (ns_data->eui64 != 0)
		memcpy(facts->eui64, &ns_data->eui64, sizeof(facts->eui64));
	facts->is_local = trid->trtype == SPDK_NVME_TRANSPORT_PCIE;
	/* A host that is known by 64 bits only is not told from another attachment of the same. */
	facts->can_reserve = !facts->is_local && (oncs & 1u << 5) != 0 && (ns_data->nsrescap.raw & 1u << 1) != 0 &&
			     (data->ctratt.raw & 1u) != 0;
	/* A network delivers for as long as the target keeps the connection; the others are reset by attaching. */
	if (!facts->can_reserve &&
	    (trid->trtype == SPDK_NVME_TRANSPORT_TCP || trid->trtype == SPDK_NVME_TRANSPORT_RDMA))
		facts->settle_ms = KEEP_ALIVE_MS + KEEP_ALIVE_MS / 2;
	facts->cache_present = data->vwc.present;
	if (facts->cache_present &&
	    controller_noted(controller, controller_read_cache(controller->ctrlr, &facts->cache_enabled)) != 0)
		facts->cache_enabled = 1; /* what cannot be read is taken for on */
	if (controller->lost != 0)
		return controller->lost;
	return spdk_nvme_ns_get_md_size(controller->ns) != 0 ? -EBADF : 0;
}

int buslane_spdk_attach(const struct buslane_disk_request *request, struct buslane_disk_facts *facts,
			struct buslane_controller **attached)
{
	struct spdk_nvme_transport_id trid;
	struct spdk_nvme_ctrlr_opts opts;
	struct buslane_controller *controller;
	uint32_t ns;
	int result = transport_parse(request->transport_id, &trid, &ns);

	if (result != 0)
		return result;
	if (request->operations > OPERATIONS_MAX)
		return -EINVAL;
	controller = calloc(1, sizeof(*controller));
	if (controller == NULL)
		return -ENOMEM;
	spdk_nvme_ctrlr_get_default_ctrlr_opts(&opts, sizeof(opts));
	opts.num_io_queues = request->queue_pairs;
	opts.keep_alive_timeout_ms = KEEP_ALIVE_MS;
	memcpy(opts.extended_host_id, request->host_id, sizeof(opts.extended_host_id));
	/* A command is never sent a second time behind our back. */
	opts.transport_retry_count = 0;
	opts.header_digest = opts.data_digest = trid.trtype == SPDK_NVME_TRANSPORT_TCP;
	controller->ctrlr = spdk_nvme_connect(&trid, &opts, sizeof(opts));
	/* Whoever waits for a device to come back tries often: the driver's lines are said once. */
	spdk_log_set_print_level(controller->ctrlr == NULL ? SPDK_LOG_DISABLED : SPDK_LOG_ERROR);
	if (controller->ctrlr == NULL) {
		free(controller);
		return -ENODEV;
	}
	controller->ns = spdk_nvme_ctrlr_get_ns(controller->ctrlr, ns);
	if (controller->ns == NULL || !spdk_nvme_ns_is_active(controller->ns)) {
		result = spdk_nvme_ctrlr_is_failed(controller->ctrlr) ? -ENXIO : -ENOENT;
		controller_noted(controller, result);
		goto fail;
	}
	result = describe(controller, &trid, facts);
	if (result != 0)
		goto fail;
	/* SPDK lowers it to what the controller grants. */
	facts->queue_pairs = spdk_nvme_ctrlr_get_opts(controller->ctrlr)->num_io_queues;
	controller->block_bytes = facts->block_bytes;
	controller->operations_max = request->operations;
	controller->timeout = request->timeout_ms * spdk_get_ticks_hz() / 1000;
	result = start_control(controller);
	if (result != 0)
		goto fail;
	*attached = controller;
	return 0;
fail:
	if (controller->lost != 0)
		controller_reset(controller->ctrlr);
	spdk_nvme_detach(controller->ctrlr);
	free(controller);
	return result;
}

void buslane_spdk_detach(struct buslane_controller *controller)
{
	struct buslane_disk *disk;

	end_control(controller);
	/* One line for each operation that was in flight tells nobody anything new. */
	if (controller->lost != 0) {
		spdk_log_set_print_level(SPDK_LOG_DISABLED);
		controller_reset(controller->ctrlr);
	}
	while ((disk = controller->abandoned) != NULL) {
		controller->abandoned = disk->next;
		disk_free(disk);
	}
	if (controller->lost == 0 && controller->key != 0)
		reserve_give_back(controller);
	spdk_nvme_detach(controller->ctrlr);
	spdk_log_set_print_level(SPDK_LOG_ERROR);
	free(controller);
}

int buslane_spdk_lost(const struct buslane_controller *controller)
{
	return atomic_load_explicit(&controller->lost, memory_order_relaxed);
}
