/* A namespace taken by a reservation, and given back. */
#include "disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <spdk/env.h>

/* A target that waits for the operations of who was preempted gives up after ten seconds. */
#define RESERVE_WAIT_S 15
#define REGISTRANTS_MAX 32

struct report {
	struct spdk_nvme_reservation_status_extended_data head;
	struct spdk_nvme_registered_ctrlr_extended_data of[REGISTRANTS_MAX];
};

/* Reservation commands take a queue pair; this one is there before and after those of the disks. */
struct fence {
	struct buslane_controller *controller;
	struct spdk_nvme_qpair *qpair;
	struct report *report;
	uint32_t registrants;
	struct answer answer; /* may come until the queue pair is freed */
};

/* The same of a command on a queue pair. */
static int wait_on(struct fence *fence, int submitted)
{
	uint64_t until = spdk_get_ticks() + RESERVE_WAIT_S * spdk_get_ticks_hz();

	if (submitted != 0)
		return submitted;
	while (!fence->answer.done) {
		if (spdk_nvme_qpair_process_completions(fence->qpair, 0) < 0)
			return -ENXIO;
		if (spdk_get_ticks() > until)
			return -ETIMEDOUT;
	}
	return controller_error_of(&fence->answer.cpl);
}

static int register_key(struct fence *fence, uint64_t old, uint64_t key)
{
	struct spdk_nvme_reservation_register_data data = {.crkey = old, .nrkey = key};
	fence->answer.done = false;
	return wait_on(fence,
		       spdk_nvme_ns_cmd_reservation_register(fence->controller->ns, fence->qpair, &data, false,
			       key == 0 ? SPDK_NVME_RESERVE_UNREGISTER_KEY : SPDK_NVME_RESERVE_REGISTER_KEY,
			       SPDK_NVME_RESERVE_PTPL_NO_CHANGES, on_answer, &fence->answer));
}

/* Acquires where nobody holds (`theirs` 0), else by taking it from, and ending what is under way of, `theirs`. */
static int acquire(struct fence *fence, uint64_t key, uint64_t theirs)
{
	struct spdk_nvme_reservation_acquire_data data = {.crkey = key, .prkey = theirs};
	fence->answer.done = false;
	return wait_on(fence,
		       spdk_nvme_ns_cmd_reservation_acquire(fence->controller->ns, fence->qpair, &data, false,
			       theirs == 0 ? SPDK_NVME_RESERVE_ACQUIRE : SPDK_NVME_RESERVE_PREEMPT_ABORT,
			       SPDK_NVME_RESERVE_WRITE_EXCLUSIVE, on_answer, &fence->answer));
}

static int report(struct fence *fence)
{
	int result;

	fence->answer.done = false;
	result = wait_on(fence,
			 spdk_nvme_ns_cmd_reservation_report(fence->controller->ns, fence->qpair, fence->report,
				 sizeof(*fence->report), on_answer, &fence->answer));
	fence->registrants = fence->report->head.data.regctl;
	if (fence->registrants > REGISTRANTS_MAX)
		fence->registrants = REGISTRANTS_MAX;
	return result;
}

/* Whether one of those registered, other than from here, changes its key, or appears, while it is watched. */
static int watch(struct fence *fence, uint64_t here, uint32_t watch_ms, uint64_t *other)
{
	uint64_t seen[REGISTRANTS_MAX], until = spdk_get_ticks() + (uint64_t)watch_ms * spdk_get_ticks_hz() / 1000;
	struct timespec pause = {.tv_nsec = 100000000L};
	uint32_t i, j, others = 0;
	int result = report(fence);

	for (i = 0; result == 0 && i < fence->registrants; i++)
		if (fence->report->of[i].rkey >> 32 != here)
			seen[others++] = fence->report->of[i].rkey;
	while (result == 0 && others > 0 && spdk_get_ticks() < until) {
		nanosleep(&pause, NULL);
		result = report(fence);
		for (i = 0; result == 0 && i < fence->registrants; i++) {
			if (fence->report->of[i].rkey >> 32 == here)
				continue;
			for (j = 0; j < others && seen[j] != fence->report->of[i].rkey; j++)
				;
			if (j == others) {
				*other = fence->report->of[i].rkey;
				return -EBUSY;
			}
		}
	}
	return result;
}

/* From here on nobody else may write; who is still registered then is turned out, and its operations ended. */
static int take(struct fence *fence, uint64_t key)
{
	uint64_t holder = 0;
	uint32_t i, count;
	int result = report(fence);

	for (i = 0; i < fence->registrants; i++)
		if (fence->report->of[i].rcsts.status)
			holder = fence->report->of[i].rkey;
	if (result == 0)
		result = register_key(fence, 0, key);
	if (result == 0)
		result = acquire(fence, key, holder);
	if (result == 0)
		result = report(fence);
	count = fence->registrants;
	for (i = 0; result == 0 && i < count; i++)
		if (fence->report->of[i].rkey != key)
			result = acquire(fence, key, fence->report->of[i].rkey);
	if (result == 0)
		result = report(fence);
	if (result == 0 && (fence->registrants != 1 || fence->report->of[0].rkey != key ||
			    !fence->report->of[0].rcsts.status))
		result = -EPERM;
	return result;
}

static int begin_fence(struct buslane_controller *controller, struct fence *fence)
{
	struct spdk_nvme_io_qpair_opts opts;

	memset(fence, 0, sizeof(*fence));
	fence->controller = controller;
	fence->report = calloc(1, sizeof(*fence->report));
	if (fence->report == NULL)
		return -ENOMEM;
	spdk_nvme_ctrlr_get_default_io_qpair_opts(controller->ctrlr, &opts, sizeof(opts));
	return queue_open(controller, &opts, &fence->qpair);
}

static void end_fence(struct fence *fence)
{
	if (fence->qpair != NULL) {
		if (fence->controller->lost != 0)
			controller_reset(fence->controller->ctrlr);
		spdk_nvme_ctrlr_free_io_qpair(fence->qpair);
	}
	free(fence->report);
}

int buslane_spdk_reserve(struct buslane_controller *controller, uint64_t key, uint32_t watch_ms, uint64_t *other)
{
	struct fence fence;
	uint32_t i;
	int result = begin_fence(controller, &fence);

	*other = 0;
	if (result == 0)
		result = watch(&fence, key >> 32, watch_ms, other);
	/* A key that somebody else has would be turned out with theirs. */
	for (i = 0; result == 0 && i < fence.registrants; i++)
		if (((fence.report->of[i].rkey ^ key) & ~(uint64_t)BEAT_MASK) == 0)
			result = -EAGAIN;
	if (result == 0)
		result = take(&fence, key);
	controller_noted(controller, result);
	end_fence(&fence);
	if (result == 0)
		controller->key = key;
	return result;
}

/* In order, so that the next one need not wait. */
void reserve_give_back(struct buslane_controller *controller)
{
	struct fence fence;

	if (begin_fence(controller, &fence) == 0)
		register_key(&fence, controller->key, 0);
	end_fence(&fence);
}
