/* A namespace: attached, written, read and let go of, again and again. */
#include <errno.h>
#include <string.h>

#include "disk_spdk.h"
#include "exercise.h"

#define SLOTS 32
#define SLOT_BYTES (256u << 10)

static void finish(const struct buslane_controller *controller, struct buslane_disk *disk, uint32_t count)
{
	struct buslane_disk_done done[5];
	uint32_t seen = 0;

	while (seen < count) {
		uint32_t i, n = buslane_spdk_poll(disk, done, 5);

		for (i = 0; i < n; i++)
			CHECK(done[i].slot < SLOTS && done[i].status == 0);
		seen += n;
		CHECK(buslane_spdk_lost(controller) == 0);
	}
}

void exercise_disk(const char *transport_id)
{
	struct buslane_disk_request request = { transport_id, 2, SLOTS, 5000 };
	struct buslane_disk_health health;
	struct buslane_disk_facts facts;
	struct buslane_controller *controller;
	struct buslane_disk *both[2], *disk;
	struct buslane_disk_way way;
	uint8_t *memory;
	int round;
	uint32_t slot;

	CHECK(buslane_spdk_check("trtype:SCSI traddr:x", &way) == -EINVAL);
	CHECK(buslane_spdk_check("nonsense", &way) == -EINVAL);
	CHECK(buslane_spdk_check(transport_id, &way) == 0);
	CHECK(buslane_spdk_start(128, (int)way.needs_pci) == 0 && buslane_spdk_start(128, (int)way.needs_pci) == 0);
	memory = buslane_spdk_memory(SLOTS * SLOT_BYTES);
	CHECK(memory != NULL);
	for (round = 0; round < 4; round++) {
		CHECK(buslane_spdk_attach(&request, &facts, &controller) == 0 && facts.queue_pairs == 2);
		CHECK(buslane_spdk_open(controller, &both[0]) == 0 && buslane_spdk_open(controller, &both[1]) == 0);
		disk = both[round % 2];
		CHECK(buslane_spdk_health(controller, &health) == 0);
		for (slot = 0; slot < SLOTS; slot++) {
			uint32_t bytes = 4096u << slot % 7;

			memset(memory + slot * SLOT_BYTES, (int)slot + round, bytes);
			CHECK(buslane_spdk_submit(disk, slot % 2 ? BUSLANE_DISK_WRITE : BUSLANE_DISK_WRITE_THROUGH, slot,
						  memory + slot * SLOT_BYTES, slot * SLOT_BYTES, bytes) == 0);
		}
		finish(controller, disk, SLOTS);
		memset(memory, 0xff, SLOTS * SLOT_BYTES);
		for (slot = 0; slot < SLOTS; slot++)
			CHECK(buslane_spdk_submit(disk, BUSLANE_DISK_READ, slot, memory + slot * SLOT_BYTES,
						  slot * SLOT_BYTES, 4096u << slot % 7) == 0);
		finish(controller, disk, SLOTS);
		for (slot = 0; slot < SLOTS; slot++)
			CHECK(memory[slot * SLOT_BYTES + (4096u << slot % 7) - 1] == (uint8_t)(slot + (uint32_t)round));
		/* Closed with operations in flight: they are over when it returns. */
		CHECK(buslane_spdk_submit(disk, BUSLANE_DISK_READ, 0, memory, 0, 4096) == 0);
		buslane_spdk_close(both[0]);
		buslane_spdk_close(both[1]);
		buslane_spdk_detach(controller);
	}
	buslane_spdk_memory_free(memory);
}
