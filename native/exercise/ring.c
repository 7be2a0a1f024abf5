/* Devices in memory: two of one process, one of them with two ports. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "exercise.h"
#include "port_dpdk.h"

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

void exercise_ring(void)
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
