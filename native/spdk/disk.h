/* What the files behind disk_spdk.h share: the only ones that know spdk_ names. SPDK 25.09 to 26.x. */
#ifndef BUSLANE_SPDK_DISK_H
#define BUSLANE_SPDK_DISK_H

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <spdk/nvme.h>

#include "../disk_spdk.h"

#define OPERATIONS_MAX 256
#define ADMIN_WAIT_S 10
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

/* An admin command and its answer, which may come on either thread. */
struct answer {
	atomic_bool done;
	struct spdk_nvme_cpl cpl;
};

/* env.c: where whoever started the environment could run; a transport id and its namespace, or -EINVAL. */
extern cpu_set_t home_cpus;
int transport_parse(const char *text, struct spdk_nvme_transport_id *trid, uint32_t *ns);

/* admin.c */
/* The controller is out of service. The first reason stays. */
void controller_lose(struct buslane_controller *controller, int why);
int controller_noted(struct buslane_controller *controller, int result);
int controller_error_of(const struct spdk_nvme_cpl *cpl);
/* Why there is no queue pair. */
int controller_gives_none(struct buslane_controller *controller);
int controller_read_cache(struct spdk_nvme_ctrlr *ctrlr, uint8_t *enabled);
void controller_reset(struct spdk_nvme_ctrlr *ctrlr);
void on_answer(void *argument, const struct spdk_nvme_cpl *cpl);

/* queue.c: a queue pair opened, and a disk that is closed. */
int queue_open(struct buslane_controller *controller, struct spdk_nvme_io_qpair_opts *opts,
	       struct spdk_nvme_qpair **qpair);
void disk_free(struct buslane_disk *disk);

/* reserve.c */
void reserve_give_back(struct buslane_controller *controller);

#endif
