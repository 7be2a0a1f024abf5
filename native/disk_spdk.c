/* The SPDK disk behind disk_spdk.h: the only place that knows spdk_ names. SPDK 25.09 to 26.x. */
#define _GNU_SOURCE
#include "disk_spdk.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include <spdk/env.h>
#include <spdk/env_dpdk.h>
#include <spdk/log.h>
#include <spdk/nvme.h>
#include <spdk/uuid.h>

#define OPERATIONS_MAX 256
/* Between two looks at the clock for late operations. */
#define POLLS_A_LOOK 16
#define ADMIN_EVERY_MS 5
#define ADMIN_WAIT_S 10
#define RESET_WAIT_S 2
#define KEEP_ALIVE_MS 10000
/* A target that waits for the operations of who was preempted gives up after ten seconds. */
#define RESERVE_WAIT_S 15
#define REGISTRANTS_MAX 32
#define BEAT_EVERY_S 1
/* The part of a key that beats. */
#define BEAT_MASK 0xffffu

struct operation {
	struct buslane_disk *disk;
	uint64_t started;
	bool busy;
};

struct buslane_controller {
	struct spdk_nvme_ctrlr *ctrlr;
	struct spdk_nvme_ns *ns;
	uint32_t block_bytes;
	uint32_t operations_max;
	uint64_t timeout; /* ticks */
	_Atomic int lost;
	pthread_t control;
	sem_t control_ends;
	/* Closed while the controller was lost: their queue pairs go with it. */
	struct buslane_disk *abandoned;
	uint64_t key; /* it is reserved under; 0: it is not */
	struct buslane_disk *beating;
};

struct buslane_disk {
	struct buslane_controller *controller;
	struct spdk_nvme_ns *ns;
	struct spdk_nvme_qpair *qpair;
	struct buslane_disk *next; /* abandoned */
	uint32_t in_flight;
	uint32_t polls;
	uint64_t timeout_at; /* no operation can be late before */
	/* The sign of life of who reserved the namespace: one command, its data in `beat`. */
	struct spdk_nvme_reservation_register_data *beat;
	uint64_t beat_at;
	bool beat_busy;
	bool is_closing;
	/* Finished operations between the callback and poll. */
	uint32_t done_from;
	uint32_t done_count;
	struct buslane_disk_done done[OPERATIONS_MAX];
	struct operation operations[OPERATIONS_MAX];
};

/* In dpdk/eal.c, where that is built too: whether EAL runs. */
extern int buslane_dpdk_started(void) __attribute__((weak));

static int start_result = 1; /* 1: not tried yet */
static cpu_set_t home;	     /* where whoever started the environment could run */

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
	home = affinity;
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

static int parse(const char *text, struct spdk_nvme_transport_id *trid, uint32_t *ns)
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

int buslane_spdk_check(const char *transport_id, int *needs_pci)
{
	struct spdk_nvme_transport_id trid;
	uint32_t ns;
	int result = parse(transport_id, &trid, &ns);

	*needs_pci = result == 0 && trid.trtype == SPDK_NVME_TRANSPORT_PCIE;
	return result;
}

void *buslane_spdk_memory(uint64_t bytes)
{
	return spdk_zmalloc(bytes, 2u << 20, NULL, SPDK_ENV_NUMA_ID_ANY, SPDK_MALLOC_DMA);
}

void buslane_spdk_memory_free(void *memory)
{
	spdk_free(memory);
}

/* The first reason stays. */
static void lose(struct buslane_controller *controller, int why)
{
	int none = 0;

	atomic_compare_exchange_strong(&controller->lost, &none, why);
}

/* What a call that failed says of the controller: one that is gone, or does not answer, is out of service. */
static int noted(struct buslane_controller *controller, int result)
{
	if (result == -ENXIO || result == -ETIMEDOUT)
		lose(controller, result);
	return result;
}

/* The command did not fail: its queue, or the way to it, went away. */
static bool is_aborted(const struct spdk_nvme_cpl *cpl)
{
	return cpl->status.sct == SPDK_NVME_SCT_PATH ||
	       (cpl->status.sct == SPDK_NVME_SCT_GENERIC && (cpl->status.sc == SPDK_NVME_SC_ABORTED_BY_REQUEST ||
							     cpl->status.sc == SPDK_NVME_SC_ABORTED_SQ_DELETION));
}

/* An error as errno, of a command that asks nothing of the blocks: 0, -ENXIO where the controller or its namespace is not
 * there, -EPERM at a reservation conflict, else -EIO. */
static int error_of(const struct spdk_nvme_cpl *cpl)
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

/* An admin command and its answer, which may come on either thread. */
struct answer {
	atomic_bool done;
	struct spdk_nvme_cpl cpl;
};

static void on_answer(void *argument, const struct spdk_nvme_cpl *cpl)
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
	return error_of(&fence->answer.cpl);
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

/* There is no queue pair: the controller gives none, if it answers still. */
static int no_queue_pair(struct buslane_controller *controller)
{
	static struct answer answer;
	int result;

	answer.done = false;
	result = wait_for(controller->ctrlr, &answer,
			  spdk_nvme_ctrlr_cmd_get_feature(controller->ctrlr, SPDK_NVME_FEAT_NUMBER_OF_QUEUES, 0,
							  NULL, 0, on_answer, &answer));
	noted(controller, result);
	return controller->lost != 0 ? controller->lost : -EBUSY;
}

/*
 * Opens a queue pair. Over vfio-user and PCIe SPDK would wait for a controller that has died without end; here it is
 * given ten seconds. One that is lost meanwhile keeps the queue pair, which is freed once the controller was reset.
 */
static int open_queue(struct buslane_controller *controller, struct spdk_nvme_io_qpair_opts *opts,
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
			result = noted(controller, -ETIMEDOUT);
	}
	if (*qpair != NULL && result != -EBUSY)
		return result;
	result = no_queue_pair(controller);
	if (result == -EBUSY) {
		spdk_nvme_ctrlr_free_io_qpair(*qpair);
		*qpair = NULL;
	}
	return result;
}

/* One that does not answer is not asked to delete its queues: that takes half a minute to fail. It is
 * disabled, which ends all it does to memory, if it can be reached at all. */
static void reset(struct spdk_nvme_ctrlr *ctrlr)
{
	uint64_t until = spdk_get_ticks() + RESET_WAIT_S * spdk_get_ticks_hz();

	if (spdk_nvme_ctrlr_disconnect(ctrlr) != 0)
		return;
	while (spdk_nvme_ctrlr_process_admin_completions(ctrlr) >= 0 && spdk_get_ticks() < until)
		;
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
	return open_queue(controller, &opts, &fence->qpair);
}

static void end_fence(struct fence *fence)
{
	if (fence->qpair != NULL) {
		if (fence->controller->lost != 0)
			reset(fence->controller->ctrlr);
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
	noted(controller, result);
	end_fence(&fence);
	if (result == 0)
		controller->key = key;
	return result;
}

/* In order, so that the next one need not wait. */
static void give_back(struct buslane_controller *controller)
{
	struct fence fence;

	if (begin_fence(controller, &fence) == 0)
		register_key(&fence, controller->key, 0);
	end_fence(&fence);
}

static int read_cache(struct spdk_nvme_ctrlr *ctrlr, uint8_t *enabled)
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
		result = read_cache(controller->ctrlr, &facts->cache_enabled);
	if (result != 0)
		return noted(controller, result);
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
	return noted(controller, result);
}

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
			lose(controller, -ENXIO);
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
	pthread_attr_setaffinity_np(&attributes, sizeof(home), &home);
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
	    noted(controller, read_cache(controller->ctrlr, &facts->cache_enabled)) != 0)
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
	int result = parse(request->transport_id, &trid, &ns);

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
		noted(controller, result);
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
		reset(controller->ctrlr);
	spdk_nvme_detach(controller->ctrlr);
	free(controller);
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
	result = open_queue(controller, &opts, &disk->qpair);
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

static void free_disk(struct buslane_disk *disk)
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
			lose(controller, -ENXIO);
	disk->is_closing = true;
	if (controller->lost != 0)
		abandon(disk);
	else
		free_disk(disk);
}

void buslane_spdk_detach(struct buslane_controller *controller)
{
	struct buslane_disk *disk;

	end_control(controller);
	/* One line for each operation that was in flight tells nobody anything new. */
	if (controller->lost != 0) {
		spdk_log_set_print_level(SPDK_LOG_DISABLED);
		reset(controller->ctrlr);
	}
	while ((disk = controller->abandoned) != NULL) {
		controller->abandoned = disk->next;
		free_disk(disk);
	}
	if (controller->lost == 0 && controller->key != 0)
		give_back(controller);
	spdk_nvme_detach(controller->ctrlr);
	spdk_log_set_print_level(SPDK_LOG_ERROR);
	free(controller);
}

/* Statuses that say something of the whole controller, not of the blocks: its queue was deleted or its commands
 * aborted, the namespace is gone or not ready, or the way to it is, or another owner has taken it. */
static void look_at(struct buslane_controller *controller, const struct spdk_nvme_cpl *cpl)
{
	int error = error_of(cpl);

	if (error == -ENXIO || error == -EPERM)
		lose(controller, error);
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
		lose(disk->controller, -ETIMEDOUT);
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
			lose(disk->controller, -ENXIO);
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

int buslane_spdk_lost(const struct buslane_controller *controller)
{
	return atomic_load_explicit(&controller->lost, memory_order_relaxed);
}
