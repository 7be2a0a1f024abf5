/* A disk: a queue pair, what is submitted to it, and what it completes. */
#include "disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <spdk/env.h>

/* Between two looks at the clock for late operations. */
#define POLLS_A_LOOK 16
#define BEAT_EVERY_S 1

/*
 * Opens a queue pair. Over vfio-user and PCIe SPDK would wait for a controller that has died without end; here it is
 * given ten seconds. One that is lost meanwhile keeps the queue pair, which is freed once the controller was reset.
 */
int queue_open(struct buslane_controller *controller, struct spdk_nvme_io_qpair_opts *opts,
	       struct spdk_nvme_qpair **qpair)
{
	uint64_t until = spdk_get_ticks() + ADMIN_WAIT_S * spdk_get_ticks_hz();
	int result = 0;

	opts->async_mode = !spdk_nvme_ctrlr_is_fabrics(controller->ctrlr);
	*qpair = spdk_nvme_ctrlr_alloc_io_qpair(controller->ctrlr, opts, sizeof(*opts));
	while (*qpair != NULL && result == 0 && !spdk_nvme_qpair_is_connected(*qpair)) {
		if (spdk_nvme_qpair_process_completions(*qpair, 0) < 0)
			result = -EBUSY;
		else if (spdk_get_ticks() > until)
			result = controller_noted(controller, -ETIMEDOUT);
	}
	if (*qpair != NULL && result != -EBUSY)
		return result;
	result = controller_gives_none(controller);
	if (result == -EBUSY) {
		spdk_nvme_ctrlr_free_io_qpair(*qpair);
		*qpair = NULL;
	}
	return result;
}

/* Leaves it to whoever detaches the controller. */
static void abandon(struct buslane_disk *disk)
{
	disk->next = disk->controller->abandoned;
	disk->controller->abandoned = disk;
}

int buslane_spdk_open(struct buslane_controller *controller, struct buslane_disk **opened)
{
	struct spdk_nvme_io_qpair_opts opts;
	struct buslane_disk *disk = calloc(1, sizeof(*disk));
	uint32_t slot;
	int result;

	if (disk == NULL)
		return -ENOMEM;
	disk->controller = controller;
	disk->ns = controller->ns;
	for (slot = 0; slot < OPERATIONS_MAX; slot++)
		disk->operations[slot].disk = disk;
	spdk_nvme_ctrlr_get_default_io_qpair_opts(controller->ctrlr, &opts, sizeof(opts));
	/* Large commands are split, each part takes a place. */
	opts.io_queue_requests = 4 * OPERATIONS_MAX;
	result = queue_open(controller, &opts, &disk->qpair);
	if (result != 0) {
		if (disk->qpair != NULL)
			abandon(disk);
		else
			free(disk);
		return result;
	}
	if (controller->key != 0 && controller->beating == NULL) {
		disk->beat = spdk_zmalloc(sizeof(*disk->beat), 64, NULL, SPDK_ENV_NUMA_ID_ANY, SPDK_MALLOC_DMA);
		if (disk->beat == NULL) {
			spdk_nvme_ctrlr_free_io_qpair(disk->qpair);
			free(disk);
			return -ENOMEM;
		}
		controller->beating = disk;
	}
	*opened = disk;
	return 0;
}

void disk_free(struct buslane_disk *disk)
{
	spdk_nvme_ctrlr_free_io_qpair(disk->qpair);
	spdk_free(disk->beat);
	free(disk);
}

void buslane_spdk_close(struct buslane_disk *disk)
{
	struct buslane_controller *controller = disk->controller;
	uint64_t until = spdk_get_ticks() + spdk_get_ticks_hz() / 10;

	if (controller->beating == disk)
		controller->beating = NULL;
	/* Whether the last sign of life has arrived decides under which key the namespace is given back. */
	while (disk->beat_busy && controller->lost == 0 && spdk_get_ticks() < until)
		if (spdk_nvme_qpair_process_completions(disk->qpair, 0) < 0)
			controller_lose(controller, -ENXIO);
	disk->is_closing = true;
	if (controller->lost != 0)
		abandon(disk);
	else
		disk_free(disk);
}

/* Statuses that say something of the whole controller, not of the blocks: its queue was deleted or its commands
 * aborted, the namespace is gone or not ready, or the way to it is, or another owner has taken it. */
static void look_at(struct buslane_controller *controller, const struct spdk_nvme_cpl *cpl)
{
	int error = controller_error_of(cpl);

	if (error == -ENXIO || error == -EPERM)
		controller_lose(controller, error);
}

static void on_done(void *argument, const struct spdk_nvme_cpl *cpl)
{
	struct operation *operation = argument;
	struct buslane_disk *disk = operation->disk;
	struct buslane_disk_done *done;

	if (spdk_nvme_cpl_is_error(cpl) && !disk->is_closing)
		look_at(disk->controller, cpl);
	done = &disk->done[(disk->done_from + disk->done_count++) % OPERATIONS_MAX];
	done->slot = (uint32_t)(operation - disk->operations);
	done->status = spdk_nvme_cpl_is_error(cpl) ?
		       (uint16_t)(cpl->status.sct << 8 | cpl->status.sc) : 0;
	operation->busy = false;
	disk->in_flight--;
}

int buslane_spdk_submit(struct buslane_disk *disk, uint32_t kind, uint32_t slot, void *memory,
			uint64_t offset, uint32_t bytes)
{
	struct operation *operation = &disk->operations[slot];
	uint64_t lba = offset / disk->controller->block_bytes;
	uint32_t blocks = bytes / disk->controller->block_bytes;
	uint32_t flags = kind == BUSLANE_DISK_WRITE_THROUGH ? SPDK_NVME_IO_FLAGS_FORCE_UNIT_ACCESS : 0;
	int result = buslane_spdk_lost(disk->controller);

	if (result != 0)
		return result;
	if (kind == BUSLANE_DISK_READ)
		result = spdk_nvme_ns_cmd_read(disk->ns, disk->qpair, memory, lba, blocks, on_done,
					       operation, 0);
	else
		result = spdk_nvme_ns_cmd_write(disk->ns, disk->qpair, memory, lba, blocks, on_done,
						operation, flags);
	if (result == -ENOMEM)
		return -EAGAIN;
	if (result == 0) {
		operation->busy = true;
		operation->started = spdk_get_ticks();
		if (disk->in_flight++ == 0)
			disk->timeout_at = operation->started + disk->controller->timeout;
	}
	return result;
}

static void on_beat(void *argument, const struct spdk_nvme_cpl *cpl)
{
	struct buslane_disk *disk = argument;

	disk->beat_busy = false;
	if (!spdk_nvme_cpl_is_error(cpl))
		disk->controller->key = disk->beat->nrkey;
	else if (!disk->is_closing)
		look_at(disk->controller, cpl);
}

/* Who looks at the reservation sees by a new key that its owner lives. It has no time limit: a slow one is late. */
static void beat(struct buslane_disk *disk, uint64_t now)
{
	struct spdk_nvme_cmd command;
	uint64_t key = disk->controller->key;

	disk->beat_at = now + BEAT_EVERY_S * spdk_get_ticks_hz();
	disk->beat->crkey = key;
	disk->beat->nrkey = (key & ~(uint64_t)BEAT_MASK) | ((key + 1) & BEAT_MASK);
	memset(&command, 0, sizeof(command));
	command.opc = SPDK_NVME_OPC_RESERVATION_REGISTER;
	command.nsid = spdk_nvme_ns_get_id(disk->ns);
	command.cdw10_bits.resv_register.rrega = SPDK_NVME_RESERVE_REPLACE_KEY;
	disk->beat_busy = spdk_nvme_ctrlr_cmd_io_raw(disk->controller->ctrlr, disk->qpair, &command, disk->beat,
						     sizeof(*disk->beat), on_beat, disk) == 0;
}

/* Whether any operation is late; else when the next one can be. */
static void look_for_late(struct buslane_disk *disk, uint64_t now)
{
	uint64_t oldest = now;
	uint32_t slot;

	for (slot = 0; slot < disk->controller->operations_max; slot++)
		if (disk->operations[slot].busy && disk->operations[slot].started < oldest)
			oldest = disk->operations[slot].started;
	disk->timeout_at = oldest + disk->controller->timeout;
	if (disk->timeout_at <= now)
		controller_lose(disk->controller, -ETIMEDOUT);
}

uint32_t buslane_spdk_poll(struct buslane_disk *disk, struct buslane_disk_done *done, uint32_t room)
{
	uint32_t count = 0;
	uint64_t now;

	if (disk->beat != NULL && disk->polls % POLLS_A_LOOK == 0 && !disk->beat_busy &&
	    disk->controller->lost == 0) {
		now = spdk_get_ticks();
		if (now >= disk->beat_at)
			beat(disk, now);
	}
	if (disk->in_flight == 0 && !disk->beat_busy) {
		disk->polls++;
	} else {
		if (spdk_nvme_qpair_process_completions(disk->qpair, 0) < 0)
			controller_lose(disk->controller, -ENXIO);
		if (disk->polls++ % POLLS_A_LOOK == 0) {
			now = spdk_get_ticks();
			if (disk->in_flight > 0 && now >= disk->timeout_at)
				look_for_late(disk, now);
		}
	}
	while (count < room && disk->done_count > 0) {
		done[count++] = disk->done[disk->done_from];
		disk->done_from = (disk->done_from + 1) % OPERATIONS_MAX;
		disk->done_count--;
	}
	return count;
}
