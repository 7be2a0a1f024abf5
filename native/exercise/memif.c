/* A memif server, called in every way. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exercise.h"
#include "port_dpdk.h"

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

/* Says it, with a descriptor so many times, and returns the type of the answer; 0: hung up. */
static int say_with(int fd, const uint8_t *message, size_t bytes, int passed, unsigned int times)
{
	const int twice[2] = { passed, passed };
	union {
		char bytes[CMSG_SPACE(sizeof(twice))];
		struct cmsghdr header;
	} control = { .header = { CMSG_LEN(times * sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	struct iovec iov = { (void *)message, bytes };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
	uint8_t answer[128];
	ssize_t heard;

	memcpy(CMSG_DATA(&control.header), twice, times * sizeof(int));
	if (times > 0) {
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(times * sizeof(int));
	}
	if (sendmsg(fd, &header, MSG_NOSIGNAL) < 0)
		return 0;
	heard = recv(fd, answer, sizeof(answer), 0);
	CHECK(heard >= 0 || errno == ECONNRESET);
	return heard == sizeof(answer) ? answer[0] : 0;
}

/* The same with one descriptor, if that is not negative. */
static int say(int fd, const uint8_t *message, size_t bytes, int passed)
{
	return say_with(fd, message, bytes, passed, passed >= 0);
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

/* All that is said before it connects. */
static void announce(int fd, int memory)
{
	CHECK(say_init(fd, 0x200, 0) == ACK && say_region(fd, 0, REGION_BYTES, memory) == ACK);
	CHECK(say_ring(fd, 1, 0, 0, 0, 4) == ACK && say_ring(fd, 0, 0, 0, 1024, 4) == ACK);
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

/* Calls of the kinds that pass descriptors that are not in order. */
static void pass_badly(int fd, int kind, int memory)
{
	uint8_t init[128] = { INIT, 0, 0, 2 }, region[128] = { ADD_REGION }, connect[128] = { CONNECT },
		disconnect[128] = { DISCONNECT };
	char path[64];
	int i, read_only;

	put(region, 4, REGION_BYTES, 8);
	switch (kind) {
	case 22: /* more than one, or one that nobody has asked for */
	case 23:
		CHECK(say_with(fd, init, sizeof(init), memory, kind == 22 ? 1 : 2) == DISCONNECT);
		break;
	case 24:
		CHECK(say_init(fd, 0x200, 0) == ACK);
		CHECK(say_with(fd, region, sizeof(region), memory, 2) == DISCONNECT);
		break;
	case 25:
		announce(fd, memory);
		CHECK(say_with(fd, connect, sizeof(connect), memory, 1) == DISCONNECT);
		break;
	case 26:
		announce(fd, memory);
		CHECK(say_with(fd, disconnect, sizeof(disconnect), memory, 1) == 0);
		break;
	case 27: /* gone while it connects */
		announce(fd, memory);
		CHECK(send(fd, connect, sizeof(connect), MSG_NOSIGNAL) == sizeof(connect));
		break;
	case 28: /* a region that cannot be mapped, before another */
		announce(fd, memory);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", memory);
		read_only = open(path, O_RDONLY);
		CHECK(say_region(fd, 1, REGION_BYTES, read_only) == ACK && say_region(fd, 2, REGION_BYTES, memory) == ACK);
		CHECK(say_plain(fd, CONNECT) == DISCONNECT);
		close(read_only);
		break;
	case 29: /* as many regions as there can be, and one more */
		CHECK(say_init(fd, 0x200, 0) == ACK);
		for (i = 0; i < 256; i++)
			CHECK(say_region(fd, i, REGION_BYTES, memory) == ACK);
		CHECK(say_region(fd, i, REGION_BYTES, memory) == DISCONNECT);
		break;
	default:
		break;
	}
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
		announce(fd, memory);
		CHECK(say_plain(fd, CONNECT) == CONNECTED && say_plain(fd, CONNECT) == DISCONNECT);
		break;
	default:
		pass_badly(fd, kind, memory);
		break;
	}
	/* The eleventh says nothing, for ever. */
	if (kind != 11)
		close(fd);
}

#define KINDS 30

/* How many this process has open. */
static int descriptors(void)
{
	DIR *all = opendir("/proc/self/fd");
	int count = 0;

	CHECK(all != NULL);
	while (readdir(all) != NULL)
		count++;
	closedir(all);
	return count;
}

/* Receives for so long, or until no more descriptors are open. */
static void look_after(struct buslane_port *port, int milliseconds, int wanted)
{
	struct buslane_frame frames[FRAMES_MAX];

	for (; milliseconds > 0 && descriptors() > wanted; milliseconds--) {
		buslane_dpdk_free(frames, buslane_dpdk_receive(port, frames, FRAMES_MAX));
		usleep(1000);
	}
}

void exercise_memif(const char *path)
{
	char vdev[256], behind[160];
	const char *const arguments[] = { "exercise", "--no-huge", "-m128", "--no-pci", "--no-telemetry",
					  "--file-prefix=buslane-exercise", vdev };
	struct buslane_port_request request = { .frame_bytes = 1514, .buffer_bytes = 2048, .mbufs = 4095,
						.rx_descriptors = 256, .tx_descriptors = 256, .count = 1 };
	struct buslane_port_facts facts;
	struct buslane_frame frames[FRAMES_MAX];
	struct buslane_port *port;
	int status = 0, memory = make_memory(true), open_memory = make_memory(false), open_before, i;
	uint8_t garbage[128], init[128] = { INIT, 0, 0, 2 };
	uint32_t ups;
	pid_t caller;

	snprintf(behind, sizeof(behind), "%s.behind", path);
	snprintf(vdev, sizeof(vdev), "--vdev=net_memif0,role=server,socket=%s,socket-abstract=no", behind);
	CHECK(buslane_dpdk_start(sizeof(arguments) / sizeof(arguments[0]), arguments) == 0);
	CHECK(buslane_dpdk_gate(path, 0, behind) == 0 && access(behind, F_OK) != 0);
	CHECK(buslane_dpdk_find("net_memif0", &request.port) == 0);
	CHECK(buslane_dpdk_open(&request, &facts, &port) == 0);
	/* The gate learns the driver's greeting first. */
	look_after(port, 200, 0);
	open_before = descriptors();
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
	/* Who is gone while it connects may have been seen or not. */
	CHECK(ups >= CALLS / KINDS && ups <= 2 * (CALLS / KINDS));
	/* Of what callers have passed nothing is kept; those that say nothing have five seconds. */
	look_after(port, 10000, open_before);
	CHECK(descriptors() <= open_before);
	/* Closed with one on its way to the driver. */
	i = call_server(path);
	CHECK(recv(i, garbage, sizeof(garbage), 0) == 128 && send(i, init, sizeof(init), 0) == 128);
	usleep(50000);
	buslane_dpdk_close(port);
	CHECK(access(path, F_OK) != 0);
}
