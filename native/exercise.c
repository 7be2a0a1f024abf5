/*
 * The shims by themselves, for a build with AddressSanitizer; scripts/check makes one where the libraries are.
 *
 *   exercise ring               two devices of one process, one of them with two ports; bursts of every size
 *   exercise disk TRANSPORT-ID  a namespace that may be overwritten
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef WITH_SPDK
#include "disk_spdk.h"
#endif
#include "port_dpdk.h"

#define CHECK(what)                                                                   \
	do {                                                                          \
		if (!(what)) {                                                        \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);   \
			exit(1);                                                      \
		}                                                                     \
	} while (0)

#define FRAMES_MAX 64
#define ROUNDS 2000

/* Two ports of one device in software, and the other end of its wire: the first carries for the second, both ways. */
static void exercise_two(struct buslane_port *both[2], struct buslane_port *far)
{
	struct buslane_frame out[FRAMES_MAX], in[FRAMES_MAX];
	int round, i;

	/* It learns from the first that the link is up, at one of its looks. */
	for (round = 0; round < 32; round++)
		CHECK(buslane_dpdk_receive(both[1], in, FRAMES_MAX) == 0);
	for (round = 0; round < ROUNDS; round++) {
		uint16_t count = (uint16_t)(1 + round % 32), got = 0;

		CHECK(buslane_dpdk_allocate(both[1], out, count) == 0);
		for (i = 0; i < count; i++) {
			out[i].length = 60;
			memset(out[i].data, i, out[i].length);
		}
		CHECK(buslane_dpdk_transmit(both[1], out, count) == count);
		CHECK(buslane_dpdk_receive(far, in, FRAMES_MAX) == 0);
		CHECK(buslane_dpdk_receive(both[0], in, FRAMES_MAX) == 0);
		CHECK(buslane_dpdk_receive(far, in, FRAMES_MAX) == count);
		for (i = 0; i < count; i++)
			CHECK(in[i].data[59] == (uint8_t)i);
		/* And back, as they came. */
		CHECK(buslane_dpdk_transmit(far, in, count) == count);
		CHECK(buslane_dpdk_receive(both[0], in, FRAMES_MAX) == count);
		CHECK(buslane_dpdk_hand_over(both[0], 2, &in[0]) == -EINVAL);
		for (i = 0; i < count; i++)
			CHECK(buslane_dpdk_hand_over(both[0], 1, &in[i]) == 0);
		buslane_dpdk_free(in, count);
		while (got < count) {
			uint16_t burst = buslane_dpdk_receive(both[1], in, FRAMES_MAX);

			CHECK(burst > 0);
			for (i = 0; i < burst; i++, got++)
				CHECK(in[i].data[59] == (uint8_t)got);
			buslane_dpdk_free(in, burst);
		}
	}
	CHECK(buslane_dpdk_relay_dropped(both[0]) == 0);
}

static void exercise_ring(void)
{
	static const char *const arguments[] = { "exercise", "--no-huge", "-m128", "--no-pci", "--no-telemetry",
						 "--file-prefix=buslane-exercise" };
	struct buslane_port_request request = { .frame_bytes = 1514, .buffer_bytes = 2048, .mbufs = 4095,
						.rx_descriptors = 256, .tx_descriptors = 256 };
	struct buslane_port_facts facts;
	struct buslane_port *port[2], *both[2];
	struct buslane_frame out[FRAMES_MAX], in[FRAMES_MAX];
	uint32_t ups;
	int round, i;

	CHECK(buslane_dpdk_start(sizeof(arguments) / sizeof(arguments[0]), arguments) == 0);
	CHECK(buslane_dpdk_start(1, arguments) == 0 && buslane_dpdk_started());
	CHECK(buslane_dpdk_find("net_nobody", &request.port) == -ENODEV);
	CHECK(buslane_dpdk_ring_pair() == 0 && buslane_dpdk_ring_pair() == 0);
	CHECK(buslane_dpdk_find("net_ring_buslane1", &request.port) == 0);
	CHECK(buslane_dpdk_open(&request, &facts, &port[1]) == -EINVAL);
	request.count = 1;
	CHECK(buslane_dpdk_open(&request, &facts, &port[1]) == 0);
	/* Two ports on the other device, which has one queue pair. */
	CHECK(buslane_dpdk_find("net_ring_buslane0", &request.port) == 0);
	request.count = 2;
	CHECK(buslane_dpdk_open(&request, &facts, both) == -ERANGE && facts.queues_max == 1);
	request.steering = BUSLANE_STEERING_SOFTWARE;
	CHECK(buslane_dpdk_open(&request, &facts, both) == 0);
	port[0] = both[0];
	for (round = 0; round < ROUNDS; round++) {
		uint16_t count = (uint16_t)(1 + round % FRAMES_MAX);
		uint16_t sent, got = 0, burst;
		struct buslane_port *from = port[round & 1], *to = port[~round & 1];

		CHECK(buslane_dpdk_allocate(from, out, count) == 0);
		for (i = 0; i < count; i++) {
			out[i].length = (uint32_t)(60 + (round * 7 + i * 13) % 1400);
			out[i].flags = 0;
			memset(out[i].data, i, out[i].length);
		}
		sent = buslane_dpdk_transmit(from, out, count);
		buslane_dpdk_free(out + sent, (uint16_t)(count - sent));
		while (got < sent && (burst = buslane_dpdk_receive(to, in, FRAMES_MAX)) > 0) {
			for (i = 0; i < burst; i++, got++)
				CHECK(in[i].data[0] == (uint8_t)got && in[i].data[in[i].length - 1] == (uint8_t)got);
			buslane_dpdk_free(in, burst);
		}
		CHECK(sent > 0 && got == sent);
	}
	CHECK(buslane_dpdk_link(port[0], &ups) == 1);
	exercise_two(both, port[1]);
	/* Closed with frames on their way from one to the other. */
	CHECK(buslane_dpdk_allocate(both[1], out, 2) == 0 && buslane_dpdk_transmit(both[1], out, 2) == 2);
	CHECK(buslane_dpdk_allocate(port[1], out, 2) == 0 && buslane_dpdk_transmit(port[1], out, 2) == 2);
	CHECK(buslane_dpdk_receive(both[0], in, FRAMES_MAX) == 2);
	CHECK(buslane_dpdk_hand_over(both[0], 1, &in[0]) == 0 && buslane_dpdk_hand_over(both[0], 1, &in[1]) == 0);
	buslane_dpdk_free(in, 2);
	buslane_dpdk_close(both[1]);
	buslane_dpdk_close(both[0]);
	buslane_dpdk_close(port[1]);
}

#ifdef WITH_SPDK
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

static void exercise_disk(const char *transport_id)
{
	struct buslane_disk_request request = { transport_id, 2, SLOTS, 5000 };
	struct buslane_disk_health health;
	struct buslane_disk_facts facts;
	struct buslane_controller *controller;
	struct buslane_disk *both[2], *disk;
	uint8_t *memory;
	int needs_pci, round;
	uint32_t slot;

	CHECK(buslane_spdk_check("trtype:SCSI traddr:x", &needs_pci) == -EINVAL);
	CHECK(buslane_spdk_check("nonsense", &needs_pci) == -EINVAL);
	CHECK(buslane_spdk_check(transport_id, &needs_pci) == 0);
	CHECK(buslane_spdk_start(128, needs_pci) == 0 && buslane_spdk_start(128, needs_pci) == 0);
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
#endif

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "ring") == 0)
		exercise_ring();
#ifdef WITH_SPDK
	else if (argc == 3 && strcmp(argv[1], "disk") == 0)
		exercise_disk(argv[2]);
#endif
	else
		return 2;
	puts("ok");
	return 0;
}
