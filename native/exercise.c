/*
 * The shims by themselves, for a build with AddressSanitizer; scripts/check makes one where the libraries are.
 *
 *   exercise ring               two devices of one process, one of them with two ports; bursts of every size
 *   exercise memif SOCKET       a memif server, and callers of every kind
 *   exercise disk TRANSPORT-ID  a namespace that may be overwritten
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* Messages of memif, as far as they are said here. */
enum { ACK = 1, HELLO, INIT, ADD_REGION, ADD_RING, CONNECT, CONNECTED, DISCONNECT };
#define CALLS 500
#define REGION_BYTES 65536

static int call_server(const char *socket_path)
{
	const struct timeval patience = { .tv_sec = 10 };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", socket_path);
	CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
	CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0);
	return fd;
}

/* Says it, with a descriptor if that is not negative, and returns the type of the answer; 0: hung up. */
static int say(int fd, const uint8_t *message, size_t bytes, int passed)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr header;
	} control = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	struct iovec iov = { (void *)message, bytes };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
	uint8_t answer[128];
	ssize_t heard;

	memcpy(CMSG_DATA(&control.header), &passed, sizeof(int));
	if (passed >= 0) {
		header.msg_control = &control;
		header.msg_controllen = sizeof(control);
	}
	if (sendmsg(fd, &header, MSG_NOSIGNAL) < 0)
		return 0;
	heard = recv(fd, answer, sizeof(answer), 0);
	CHECK(heard >= 0 || errno == ECONNRESET);
	return heard == sizeof(answer) ? answer[0] : 0;
}

static int put(uint8_t *message, int at, uint64_t value, int bytes)
{
	memcpy(message + at, &value, (size_t)bytes);
	return at + bytes;
}

static int say_init(int fd, int version, int id)
{
	uint8_t message[128] = { INIT };

	put(message, put(message, 2, (uint64_t)version, 2), (uint64_t)id, 4);
	return say(fd, message, sizeof(message), -1);
}

static int say_region(int fd, int index, uint64_t bytes, int memory)
{
	uint8_t message[128] = { ADD_REGION };

	put(message, put(message, 2, (uint64_t)index, 2), bytes, 8);
	return say(fd, message, sizeof(message), memory);
}

static int say_ring(int fd, int flags, int index, int region, uint32_t offset, int log2)
{
	uint8_t message[128] = { ADD_RING };
	int at = put(message, put(message, put(message, 2, (uint64_t)flags, 2), (uint64_t)index, 2), (uint64_t)region, 2);

	put(message, put(message, at, offset, 4), (uint64_t)log2, 1);
	return say(fd, message, sizeof(message), 0);
}

static int say_plain(int fd, uint8_t type)
{
	uint8_t message[128] = { type };

	return say(fd, message, sizeof(message), -1);
}

/* Memory with a cookie for two rings of 16; the second one is 1024 bytes in. */
static int make_memory(bool is_sealed)
{
	const uint32_t cookie = 0x3E31F20;
	int fd = memfd_create("exercise", MFD_ALLOW_SEALING);

	CHECK(fd >= 0 && ftruncate(fd, REGION_BYTES) == 0);
	CHECK(pwrite(fd, &cookie, 4, 0) == 4 && pwrite(fd, &cookie, 4, 1024) == 4);
	CHECK(!is_sealed || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
	return fd;
}

/* A call of a kind. Where the server has to go on being polite, its answer is looked at. */
static void call_badly(const char *path, int kind, int memory, int open_memory)
{
	uint8_t garbage[256];
	int fd = call_server(path);

	memset(garbage, 0xff, sizeof(garbage));
	if (kind == 1)
		CHECK(recv(fd, garbage, sizeof(garbage), 0) == 128 && garbage[0] == HELLO);
	if (kind >= 2 && kind != 11)
		CHECK(recv(fd, garbage, 128, MSG_PEEK) == 128 && recv(fd, garbage, 128, 0) == 128);
	switch (kind) {
	case 2:
		CHECK(say(fd, garbage, 10, -1) == DISCONNECT);
		break;
	case 3:
		CHECK(say(fd, garbage, sizeof(garbage), memory) == DISCONNECT);
		break;
	case 4:
		CHECK(say_init(fd, 0x100, 0) == DISCONNECT && say_init(fd, 0x200, 0) == 0);
		break;
	case 5:
		CHECK(say_plain(fd, HELLO) == DISCONNECT);
		break;
	case 6:
		CHECK(say_init(fd, 0x200, 77) == DISCONNECT);
		break;
	case 7: /* the region is nowhere, too large, not the next, one of 2^64 - 1 bytes */
	case 8:
	case 9:
	case 10:
		CHECK(say_init(fd, 0x200, 0) == ACK);
		CHECK(say_region(fd, kind == 9, kind == 8 ? REGION_BYTES + 1 : kind == 10 ? UINT64_MAX : REGION_BYTES,
				 kind == 7 ? -1 : memory) == DISCONNECT);
		break;
	case 12: /* the ring has no cookie, is beyond its region, in none, too large, of another index, may shrink */
	case 13:
	case 14:
	case 15:
	case 16:
	case 17:
		CHECK(say_init(fd, 0x200, 0) == ACK);
		CHECK(say_region(fd, 0, REGION_BYTES, kind == 17 ? open_memory : memory) == ACK);
		CHECK(say_ring(fd, 1, kind == 16, kind == 14, kind == 12 ? 2048 : kind == 13 ? 65000 : 0,
			       kind == 15 ? 15 : 4) == DISCONNECT);
		break;
	case 18: /* twice */
		CHECK(say_init(fd, 0x200, 0) == ACK && say_region(fd, 0, REGION_BYTES, memory) == ACK);
		CHECK(say_ring(fd, 1, 0, 0, 0, 4) == ACK && say_ring(fd, 1, 0, 0, 0, 4) == DISCONNECT);
		break;
	case 19: /* without a ring */
		CHECK(say_init(fd, 0x200, 0) == ACK && say_plain(fd, CONNECT) == DISCONNECT);
		break;
	case 20: /* gone half way */
		CHECK(say_init(fd, 0x200, 0) == ACK && say_region(fd, 0, REGION_BYTES, memory) == ACK);
		break;
	case 21: /* as it should be, and then again */
		CHECK(say_init(fd, 0x200, 0) == ACK && say_region(fd, 0, REGION_BYTES, memory) == ACK);
		CHECK(say_ring(fd, 1, 0, 0, 0, 4) == ACK && say_ring(fd, 0, 0, 0, 1024, 4) == ACK);
		CHECK(say_plain(fd, CONNECT) == CONNECTED && say_plain(fd, CONNECT) == DISCONNECT);
		break;
	default:
		break;
	}
	/* The eleventh says nothing, for ever. */
	if (kind != 11)
		close(fd);
}

#define KINDS 22

static void exercise_memif(const char *path)
{
	char vdev[256], behind[160];
	const char *const arguments[] = { "exercise", "--no-huge", "-m128", "--no-pci", "--no-telemetry",
					  "--file-prefix=buslane-exercise", vdev };
	struct buslane_port_request request = { .frame_bytes = 1514, .buffer_bytes = 2048, .mbufs = 4095,
						.rx_descriptors = 256, .tx_descriptors = 256, .count = 1 };
	struct buslane_port_facts facts;
	struct buslane_frame frames[FRAMES_MAX];
	struct buslane_port *port;
	int status = 0, memory = make_memory(true), open_memory = make_memory(false), i;
	uint8_t garbage[128], init[128] = { INIT, 0, 0, 2 };
	uint32_t ups;
	pid_t caller;

	snprintf(behind, sizeof(behind), "%s.behind", path);
	snprintf(vdev, sizeof(vdev), "--vdev=net_memif0,role=server,socket=%s,socket-abstract=no", behind);
	CHECK(buslane_dpdk_start(sizeof(arguments) / sizeof(arguments[0]), arguments) == 0);
	CHECK(buslane_dpdk_gate(path, 0, behind) == 0 && access(behind, F_OK) != 0);
	CHECK(buslane_dpdk_find("net_memif0", &request.port) == 0);
	CHECK(buslane_dpdk_open(&request, &facts, &port) == 0);
	caller = fork();
	if (caller == 0) {
		for (i = 0; i < CALLS; i++)
			call_badly(path, i % KINDS, memory, open_memory);
		_exit(0);
	}
	while (waitpid(caller, &status, WNOHANG) == 0)
		buslane_dpdk_free(frames, buslane_dpdk_receive(port, frames, FRAMES_MAX));
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	(void)buslane_dpdk_link(port, &ups);
	CHECK(ups == CALLS / KINDS);
	/* Closed with one on its way to the driver. */
	i = call_server(path);
	CHECK(recv(i, garbage, sizeof(garbage), 0) == 128 && send(i, init, sizeof(init), 0) == 128);
	usleep(50000);
	buslane_dpdk_close(port);
	CHECK(access(path, F_OK) != 0);
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
	else if (argc == 3 && strcmp(argv[1], "memif") == 0)
		exercise_memif(argv[2]);
#ifdef WITH_SPDK
	else if (argc == 3 && strcmp(argv[1], "disk") == 0)
		exercise_disk(argv[2]);
#endif
	else
		return 2;
	puts("ok");
	return 0;
}
