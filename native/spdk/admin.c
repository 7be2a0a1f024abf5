/* Admin commands, and what the answers of a controller say of it. */
#include "disk.h"

#include <errno.h>

#include <spdk/env.h>

#define RESET_WAIT_S 2

/* The first reason stays. */
void controller_lose(struct buslane_controller *controller, int why)
{
	int none = 0;

	atomic_compare_exchange_strong(&controller->lost, &none, why);
}

/* What a call that failed says of the controller: one that is gone, or does not answer, is out of service. */
int controller_noted(struct buslane_controller *controller, int result)
{
	if (result == -ENXIO || result == -ETIMEDOUT)
		controller_lose(controller, result);
	return result;
}

/* The command did not fail: its queue, or the way to it, went away. */
static bool is_aborted(const struct spdk_nvme_cpl *cpl)
{
	return cpl->status.sct == SPDK_NVME_SCT_PATH ||
	       (cpl->status.sct == SPDK_NVME_SCT_GENERIC && (cpl->status.sc == SPDK_NVME_SC_ABORTED_BY_REQUEST ||
							     cpl->status.sc == SPDK_NVME_SC_ABORTED_SQ_DELETION));
}

/* An error as errno: 0, -ENXIO where the controller or its namespace is not there, -EPERM at a reservation conflict,
 * else -EIO. */
int controller_error_of(const struct spdk_nvme_cpl *cpl)
{
	if (!spdk_nvme_cpl_is_error(cpl))
		return 0;
	if (is_aborted(cpl))
		return -ENXIO;
	if (cpl->status.sct != SPDK_NVME_SCT_GENERIC)
		return -EIO;
	switch (cpl->status.sc) {
	case SPDK_NVME_SC_INVALID_NAMESPACE_OR_FORMAT:
	case SPDK_NVME_SC_NAMESPACE_NOT_READY:
		return -ENXIO;
	case SPDK_NVME_SC_RESERVATION_CONFLICT:
		return -EPERM;
	default:
		return -EIO;
	}
}

void on_answer(void *argument, const struct spdk_nvme_cpl *cpl)
{
	struct answer *answer = argument;

	answer->cpl = *cpl;
	answer->done = true;
}

/* Waits for it. One that never comes is left to a static place to arrive at. */
static int wait_for(struct spdk_nvme_ctrlr *ctrlr, struct answer *answer, int submitted)
{
	uint64_t until = spdk_get_ticks() + ADMIN_WAIT_S * spdk_get_ticks_hz();

	if (submitted != 0)
		return submitted;
	while (!answer->done) {
		if (spdk_nvme_ctrlr_process_admin_completions(ctrlr) < 0)
			return -ENXIO;
		if (spdk_get_ticks() > until)
			return -ETIMEDOUT;
	}
	/* What a controller says of a namespace to a command that is for all of them is an error like others. */
	if (spdk_nvme_cpl_is_error(&answer->cpl))
		return is_aborted(&answer->cpl) || spdk_nvme_ctrlr_is_failed(ctrlr) ? -ENXIO : -EIO;
	return 0;
}

/* There is no queue pair: the controller gives none, if it answers still. */
int controller_gives_none(struct buslane_controller *controller)
{
	static struct answer answer;
	int result;

	answer.done = false;
	result = wait_for(controller->ctrlr, &answer,
			  spdk_nvme_ctrlr_cmd_get_feature(controller->ctrlr, SPDK_NVME_FEAT_NUMBER_OF_QUEUES, 0,
							  NULL, 0, on_answer, &answer));
	controller_noted(controller, result);
	return controller->lost != 0 ? controller->lost : -EBUSY;
}

int controller_read_cache(struct spdk_nvme_ctrlr *ctrlr, uint8_t *enabled)
{
	static struct answer answer;
	int result;

	answer.done = false;
	result = wait_for(ctrlr, &answer,
			  spdk_nvme_ctrlr_cmd_get_feature(ctrlr, SPDK_NVME_FEAT_VOLATILE_WRITE_CACHE, 0,
							  NULL, 0, on_answer, &answer));
	if (result == 0)
		*enabled = answer.cpl.cdw0 & 1;
	return result;
}

int buslane_spdk_cache_off(struct buslane_controller *controller, struct buslane_disk_facts *facts)
{
	static struct answer answer;
	int result;

	answer.done = false;
	result = wait_for(controller->ctrlr, &answer,
			  spdk_nvme_ctrlr_cmd_set_feature(controller->ctrlr, SPDK_NVME_FEAT_VOLATILE_WRITE_CACHE,
							  0, 0, NULL, 0, on_answer, &answer));
	if (result == 0)
		result = controller_read_cache(controller->ctrlr, &facts->cache_enabled);
	if (result != 0)
		return controller_noted(controller, result);
	return facts->cache_enabled ? -ENOTSUP : 0;
}

int buslane_spdk_health(struct buslane_controller *controller, struct buslane_disk_health *health)
{
	static struct answer answer;
	struct spdk_nvme_health_information_page *page;
	int result;

	page = spdk_zmalloc(sizeof(*page), 4096, NULL, SPDK_ENV_NUMA_ID_ANY, SPDK_MALLOC_DMA);
	if (page == NULL)
		return -ENOMEM;
	answer.done = false;
	result = wait_for(controller->ctrlr, &answer,
			  spdk_nvme_ctrlr_cmd_get_log_page(controller->ctrlr, SPDK_NVME_LOG_HEALTH_INFORMATION,
							   SPDK_NVME_GLOBAL_NS_TAG, page, sizeof(*page), 0,
							   on_answer, &answer));
	if (result == 0) {
		memset(health, 0, sizeof(*health));
		health->media_errors = page->media_errors[0];
		health->unsafe_shutdowns = page->unsafe_shutdowns[0];
		health->power_on_hours = page->power_on_hours[0];
		health->kelvin = page->temperature;
		health->critical_warnings = page->critical_warning.raw;
		health->spare_percent = page->available_spare;
		health->used_percent = page->percentage_used;
	}
	/* A page that may still be written to is not given back. */
	if (result != -ETIMEDOUT)
		spdk_free(page);
	return controller_noted(controller, result);
}

/* One that does not answer is not asked to delete its queues: that takes half a minute to fail. It is
 * disabled, which ends all it does to memory, if it can be reached at all. */
void controller_reset(struct spdk_nvme_ctrlr *ctrlr)
{
	uint64_t until = spdk_get_ticks() + RESET_WAIT_S * spdk_get_ticks_hz();

	if (spdk_nvme_ctrlr_disconnect(ctrlr) != 0)
		return;
	while (spdk_nvme_ctrlr_process_admin_completions(ctrlr) >= 0 && spdk_get_ticks() < until)
		;
}
