/* Messages of memif, behind handshake.h. */
#define _GNU_SOURCE
#include "handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define COOKIE 0x3E31F20u
#define LOG2_RING_MAX 14
#define RING_HEADER_BYTES (3 * RTE_CACHE_LINE_SIZE)
#define DESCRIPTOR_BYTES 16
/* Of all regions of a peer: the process has one address space. */
#define MEMORY_BYTES_MAX (UINT64_C(1) << 40)

void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

bool tell(int to, const struct message *message, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)message, .iov_len = sizeof(*message) };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		header.msg_control = &control;
		header.msg_controllen = sizeof(control);
		*CMSG_FIRSTHDR(&header) = (struct cmsghdr){
			.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&header)), &fd, sizeof(int));
	}
	return sendmsg(to, &header, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(*message);
}

int hear(int from, struct message *message, int *fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { .iov_base = message, .iov_len = sizeof(*message) };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
				 /* Without the padding, in which a second descriptor would find room. */
				 .msg_controllen = CMSG_LEN(sizeof(int)) };
	struct cmsghdr *part;
	ssize_t bytes = recvmsg(from, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	*fd = -1;
	if (bytes < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (part = CMSG_FIRSTHDR(&header); part != NULL; part = CMSG_NXTHDR(&header, part))
		if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS &&
		    part->cmsg_len == CMSG_LEN(sizeof(int)))
			memcpy(fd, CMSG_DATA(part), sizeof(int));
	if (bytes == (ssize_t)sizeof(*message) && (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0)
		return 1;
	close_fd(fd);
	return bytes == 0 ? -ECONNRESET : -EPROTO;
}

void say_goodbye(int fd, const char *reason)
{
	struct message message = { .type = DISCONNECT };

	snprintf(message.disconnect.reason, sizeof(message.disconnect.reason), "%s", reason);
	(void)tell(fd, &message, -1);
}

static const char *take_region(struct memory *memory, const struct message *message, int *fd)
{
	const uint64_t bytes = message->region.bytes;
	struct stat file;

	if (*fd < 0)
		return "Missing region fd";
	if (memory->regions == REGIONS_MAX || message->region.index != memory->regions)
		return "Invalid region index";
	if (bytes == 0 || bytes > MEMORY_BYTES_MAX - memory->bytes)
		return "Too much memory";
	if (fstat(*fd, &file) != 0 || file.st_size < 0 || (uint64_t)file.st_size < bytes)
		return "A region is larger than its file";
	memory->region[memory->regions++] = (struct region){ .fd = *fd, .bytes = bytes };
	memory->bytes += bytes;
	*fd = -1;
	return NULL;
}

static const char *take_ring(struct memory *memory, const struct message *message, int *fd)
{
	const bool to_client = (message->ring.to_client & 1) == 0;
	const struct region *region;
	uint32_t cookie = 0;
	uint64_t bytes;
	int seals;

	if (*fd < 0)
		return "Missing interrupt fd";
	if (message->ring.index != 0 || memory->rings[to_client] || message->ring.log2_size > LOG2_RING_MAX)
		return "Invalid ring index or size";
	if (message->ring.region >= memory->regions)
		return "A ring is in no region";
	region = &memory->region[message->ring.region];
	bytes = RING_HEADER_BYTES + ((uint64_t)DESCRIPTOR_BYTES << message->ring.log2_size);
	if (message->ring.offset % sizeof(uint64_t) != 0 || message->ring.offset + bytes > region->bytes)
		return "A ring is not within its region";
	/* Else it could shrink under us. */
	seals = fcntl(region->fd, F_GET_SEALS);
	if (seals < 0 || (seals & F_SEAL_SHRINK) == 0)
		return "The region of a ring is not sealed against shrinking";
	if (pread(region->fd, &cookie, sizeof(cookie), message->ring.offset) != sizeof(cookie) || cookie != COOKIE)
		return "Wrong cookie";
	memory->ring[to_client] = (struct ring){ .fd = *fd, .message = *message };
	memory->rings[to_client] = true;
	*fd = -1;
	return NULL;
}

/* Whether all regions can be mapped, and that stays so: the driver, where it cannot map one, never closes the others. */
static bool can_be_mapped(const struct memory *memory)
{
	void *mapped[REGIONS_MAX];
	uint16_t i, count;

	for (count = 0; count < memory->regions; count++) {
		const struct region *region = &memory->region[count];

		/* A file without seals cannot be sealed against writing either. */
		(void)fcntl(region->fd, F_ADD_SEALS, F_SEAL_SEAL);
		mapped[count] = mmap(NULL, region->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, region->fd, 0);
		if (mapped[count] == MAP_FAILED)
			break;
	}
	for (i = 0; i < count; i++)
		munmap(mapped[i], memory->region[i].bytes);
	return count == memory->regions;
}

const char *take_down(struct memory *memory, const struct message *message, int *fd)
{
	switch (message->type) {
	case ADD_REGION:
		return take_region(memory, message, fd);
	case ADD_RING:
		return take_ring(memory, message, fd);
	case CONNECT:
		if (*fd >= 0)
			return "Unexpected descriptor";
		if (!memory->rings[0] || !memory->rings[1])
			return "A ring is missing";
		memory->connect = *message;
		return can_be_mapped(memory) ? NULL : "A region cannot be mapped";
	default:
		return "Unexpected message";
	}
}

bool tell_next(int to, struct memory *memory)
{
	struct message message = memory->connect;
	int none = -1, *fd = &none;

	if (memory->told < memory->regions) {
		struct region *region = &memory->region[memory->told];

		message = (struct message){ .type = ADD_REGION,
					    .region = { .index = memory->told, .bytes = region->bytes } };
		fd = &region->fd;
	} else if (memory->told - memory->regions < 2) {
		struct ring *ring = &memory->ring[memory->told - memory->regions];

		message = ring->message;
		fd = &ring->fd;
	}
	if (!tell(to, &message, *fd))
		return false;
	/* The driver has its own. */
	close_fd(fd);
	memory->told++;
	return true;
}

void forget(struct memory *memory)
{
	uint16_t i;

	for (i = 0; i < memory->regions; i++)
		close_fd(&memory->region[i].fd);
	for (i = 0; i < 2; i++)
		if (memory->rings[i])
			close_fd(&memory->ring[i].fd);
}
