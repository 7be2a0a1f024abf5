/*
 * The gate before a memif server, behind gate.h. net_memif trusts whoever calls: a peer that is gone before it
 * was greeted leaves a closed descriptor registered, over which EAL aborts the process; a ring in a region that was
 * never announced, or announced twice, is memory of somebody else; a region that is announced by a peer that never
 * connects is never closed. So the driver listens where only we reach it; we accept, greet with the driver's own words,
 * take down what is announced, each part once it is found in order, and pass it on when the peer connects: one message
 * at a time, waiting for the answer of the driver before the next, and all of it, even if the peer has gone meanwhile.
 * A peer that goes away goes from us, in an orderly way.
 */
#define _GNU_SOURCE
#include "gate.h"
#include "handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Callers that have not said who they are. The one that has waited longest goes when there is one more. */
#define STRANGERS_MAX 64
/* Time for each thing that a peer has to say before it is connected. */
#define PATIENCE_MS 5000
/* How often the driver's thread is called while it owes something: until it comes, and between its rounds. */
#define CALL_MS 10
#define CALL_AGAIN_MS 1

struct stranger {
	int fd;
	uint64_t until_ms; /* 0: not greeted yet */
};

/* The one that is let through; and at first nobody, while the driver's greeting is learned. */
struct peer {
	int outer, inner; /* -1: none */
	bool owes;	  /* the driver has to answer, or to let go */
	bool connects;	  /* the driver is being told what was announced */
	bool is_behind;	  /* and could not be told the next part of it yet */
	bool up;
	bool leaves;
	uint64_t until_ms;
	struct memory memory;
};

struct memif_gate {
	int listener, behind, ends;
	bool runs, greets;
	bool is_file;
	struct sockaddr_un address;
	struct stat file; /* that of the address */
	atomic_bool *called_for;
	pthread_t thread;
	struct message hello;
	struct peer peer;
	unsigned int strangers;
	struct stranger stranger[STRANGERS_MAX];
};

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void call(struct memif_gate *gate)
{
	atomic_store_explicit(gate->called_for, true, memory_order_release);
}

/* Lets go of the peer's end; the driver hears of it and lets go of the other, until when nobody else is let through. */
static void leave(struct memif_gate *gate)
{
	struct peer *peer = &gate->peer;

	close_fd(&peer->outer);
	peer->leaves = true;
	peer->owes = true;
	/* Where it connects, the driver has regions that it closes once it has mapped them. */
	if (!peer->connects) {
		forget(&peer->memory);
		shutdown(peer->inner, SHUT_WR);
	}
	call(gate);
}

static void refuse(struct memif_gate *gate, const char *reason)
{
	say_goodbye(gate->peer.outer, reason);
	leave(gate);
}

/* Calls the driver. Only one call is on its way at any time, so that its backlog is never full. */
static bool call_driver(struct memif_gate *gate)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct peer *peer = &gate->peer;

	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d", gate->behind);
	*peer = (struct peer){ .outer = -1, .inner = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) };
	if (peer->inner < 0)
		return false;
	if (connect(peer->inner, (struct sockaddr *)&address, sizeof(address)) != 0) {
		close_fd(&peer->inner);
		return false;
	}
	peer->owes = true;
	call(gate);
	return true;
}

/* One that is gone already says so by itself. */
static void greet(struct memif_gate *gate, struct stranger *stranger)
{
	if (!gate->greets)
		return;
	(void)tell(stranger->fd, &gate->hello, -1);
	stranger->until_ms = now_ms() + PATIENCE_MS;
}

static void forget_stranger(struct memif_gate *gate, unsigned int i)
{
	gate->strangers--;
	memmove(&gate->stranger[i], &gate->stranger[i + 1], (gate->strangers - i) * sizeof(gate->stranger[0]));
}

static void take_call(struct memif_gate *gate)
{
	int fd = accept4(gate->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		/* Out of descriptors, it would stay readable. */
		if (errno == EMFILE || errno == ENFILE)
			poll(NULL, 0, CALL_MS);
		return;
	}
	if (gate->strangers == STRANGERS_MAX) {
		close(gate->stranger[0].fd);
		forget_stranger(gate, 0);
	}
	gate->stranger[gate->strangers] = (struct stranger){ .fd = fd };
	greet(gate, &gate->stranger[gate->strangers++]);
}

/* Lets a stranger through to the driver, which owes an answer then. */
static void let_through(struct memif_gate *gate, int fd, const struct message *init)
{
	if (!call_driver(gate)) {
		close(fd);
		return;
	}
	gate->peer.outer = fd;
	if (!tell(gate->peer.inner, init, -1))
		leave(gate);
}

/* Whether a stranger is to be forgotten: it is gone, says nonsense, or was let through. */
static bool hear_stranger(struct memif_gate *gate, const struct stranger *stranger)
{
	const char *reason = NULL;
	struct message message;
	int fd, heard = hear(stranger->fd, &message, &fd);

	if (heard == 0)
		return false;
	if (heard < 0)
		reason = "Invalid message size";
	else if (message.type != INIT || fd >= 0)
		reason = "Unexpected message";
	else if (message.init.version != VERSION)
		reason = "Incompatible memif version";
	else if (gate->peer.inner >= 0)
		reason = "Already connected";
	close_fd(&fd);
	if (reason == NULL) {
		let_through(gate, stranger->fd, &message);
	} else {
		say_goodbye(stranger->fd, reason);
		close(stranger->fd);
	}
	return true;
}

/* Tells the driver the next part of what the peer has announced, or tries again later. */
static void go_on(struct memif_gate *gate)
{
	struct peer *peer = &gate->peer;

	peer->owes = true;
	peer->is_behind = !tell_next(peer->inner, &peer->memory);
	call(gate);
}

/* The driver hears of what is announced when the peer connects. */
static void answer(struct memif_gate *gate, const struct message *message)
{
	const struct message ack = { .type = ACK };
	struct peer *peer = &gate->peer;

	if (message->type == CONNECT) {
		peer->connects = true;
		go_on(gate);
	} else if (tell(peer->outer, &ack, -1)) {
		peer->until_ms = now_ms() + PATIENCE_MS;
	} else {
		leave(gate);
	}
}

static void hear_peer(struct memif_gate *gate)
{
	struct peer *peer = &gate->peer;
	struct message message;
	const char *reason = NULL;
	int fd, heard = hear(peer->outer, &message, &fd);

	if (heard == 0)
		return;
	if (heard < 0)
		reason = "Invalid message size";
	else if (message.type != DISCONNECT)
		reason = peer->up ? "Unexpected message" : take_down(&peer->memory, &message, &fd);
	close_fd(&fd);
	if (reason != NULL) {
		refuse(gate, reason);
	} else if (message.type != DISCONNECT) {
		answer(gate, &message);
	} else if (tell(peer->inner, &message, -1)) {
		peer->owes = true;
		call(gate);
	} else {
		leave(gate);
	}
}

static void learn_hello(struct memif_gate *gate, const struct message *hello)
{
	unsigned int i;

	if (!gate->greets) {
		gate->hello = *hello;
		gate->greets = true;
		for (i = 0; i < gate->strangers; i++)
			greet(gate, &gate->stranger[i]);
		leave(gate);
	}
}

static void hear_driver(struct memif_gate *gate)
{
	struct peer *peer = &gate->peer;
	struct message message;
	int fd, heard = hear(peer->inner, &message, &fd);

	if (heard == 0)
		return;
	close_fd(&fd);
	if (heard < 0) {
		forget(&peer->memory);
		close_fd(&peer->outer);
		close_fd(&peer->inner);
		*peer = (struct peer){ .outer = -1, .inner = -1 };
		return;
	}
	/* The peer was greeted when it called. */
	if (message.type == HELLO) {
		learn_hello(gate, &message);
		return;
	}
	if (peer->connects && message.type == ACK) {
		go_on(gate);
		return;
	}
	peer->connects = peer->is_behind = false;
	peer->up = message.type == CONNECTED;
	if (peer->leaves || !tell(peer->outer, &message, -1)) {
		leave(gate);
		return;
	}
	peer->owes = message.type == DISCONNECT;
	peer->until_ms = now_ms() + PATIENCE_MS;
}

static bool peer_is_asked(const struct peer *peer)
{
	return peer->outer >= 0 && !peer->owes;
}

/* Who has kept us waiting too long goes. Returns when to look again, at the latest; -1: when something happens. */
static int patience(struct memif_gate *gate)
{
	const uint64_t now = now_ms();
	uint64_t until = UINT64_MAX;

	while (gate->strangers > 0 && gate->stranger[0].until_ms != 0 && gate->stranger[0].until_ms <= now) {
		close(gate->stranger[0].fd);
		forget_stranger(gate, 0);
	}
	if (gate->strangers > 0 && gate->stranger[0].until_ms != 0)
		until = gate->stranger[0].until_ms;
	if (peer_is_asked(&gate->peer) && !gate->peer.up) {
		if (gate->peer.until_ms <= now)
			refuse(gate, "Too slow");
		else if (gate->peer.until_ms < until)
			until = gate->peer.until_ms;
	}
	if (gate->peer.owes) {
		if (gate->peer.is_behind)
			go_on(gate);
		if (atomic_load_explicit(gate->called_for, memory_order_acquire))
			return CALL_MS;
		call(gate);
		return CALL_AGAIN_MS;
	}
	return until == UINT64_MAX ? -1 : (int)(until - now);
}

static void look_at_strangers(struct memif_gate *gate, const struct pollfd *polls, unsigned int count)
{
	/* From the last, so that those before keep their places. */
	while (count-- > 0) {
		const struct stranger *stranger = &gate->stranger[count];

		/* Somebody may have begun to leave just now. */
		if (polls[count].revents == 0 || (gate->peer.leaves && (polls[count].revents & POLLIN) != 0))
			continue;
		if ((polls[count].revents & POLLIN) == 0)
			close(stranger->fd);
		else if (!hear_stranger(gate, stranger))
			continue;
		forget_stranger(gate, count);
	}
}

enum { ENDS, LISTENER, OUTER, INNER, STRANGERS };

static void *serve(void *argument)
{
	struct memif_gate *gate = argument;
	struct pollfd polls[STRANGERS + STRANGERS_MAX];
	struct peer *peer = &gate->peer;
	unsigned int i, count;

	pthread_setname_np(pthread_self(), "buslane-memif");
	for (;;) {
		int wait_ms = patience(gate);
		/* Who calls while another is leaving is answered when that one has left. */
		const short hears = !gate->greets || peer->leaves ? 0 : POLLIN;

		count = gate->strangers;
		polls[ENDS] = (struct pollfd){ .fd = gate->ends, .events = POLLIN };
		polls[LISTENER] = (struct pollfd){ .fd = gate->listener, .events = POLLIN };
		polls[OUTER] = (struct pollfd){ .fd = peer->outer, .events = peer->owes ? 0 : POLLIN };
		polls[INNER] = (struct pollfd){ .fd = peer->inner, .events = POLLIN };
		for (i = 0; i < count; i++)
			polls[STRANGERS + i] = (struct pollfd){ .fd = gate->stranger[i].fd, .events = hears };
		if (poll(polls, STRANGERS + count, wait_ms) <= 0)
			continue;
		if (polls[ENDS].revents != 0)
			return NULL;
		if (polls[OUTER].revents != 0) {
			if (peer_is_asked(peer))
				hear_peer(gate);
			else
				leave(gate);
		}
		if (polls[INNER].revents != 0)
			hear_driver(gate);
		look_at_strangers(gate, polls + STRANGERS, count);
		if (polls[LISTENER].revents != 0)
			take_call(gate);
	}
}

/* Puts our socket where the driver's was asked for, with its owner. */
static int listen_at(struct memif_gate *gate, const char *address, bool is_abstract)
{
	const size_t length = strlen(address) + is_abstract;
	socklen_t bytes = sizeof(gate->address);
	struct stat theirs;

	if (length >= sizeof(gate->address.sun_path))
		return -ENAMETOOLONG;
	gate->address.sun_family = AF_UNIX;
	memcpy(gate->address.sun_path + is_abstract, address, strlen(address));
	/* As net_memif has it. */
	if (is_abstract)
		bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
	gate->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (gate->listener < 0 || bind(gate->listener, (struct sockaddr *)&gate->address, bytes) != 0)
		return -errno;
	gate->is_file = !is_abstract && stat(address, &gate->file) == 0;
	if (gate->is_file && fstat(gate->behind, &theirs) == 0 &&
	    (theirs.st_uid != gate->file.st_uid || theirs.st_gid != gate->file.st_gid) &&
	    chown(address, theirs.st_uid, theirs.st_gid) != 0)
		return -errno;
	return listen(gate->listener, STRANGERS_MAX) != 0 ? -errno : 0;
}

int memif_gate_open(const char *address, bool is_abstract, const char *behind, struct memif_gate **out)
{
	struct memif_gate *gate = calloc(1, sizeof(*gate));
	int result;

	if (gate == NULL)
		return -ENOMEM;
	gate->listener = gate->peer.outer = gate->peer.inner = -1;
	gate->ends = eventfd(0, EFD_CLOEXEC);
	/* A socket is connected to by its inode: without a name it is nobody's but ours. */
	gate->behind = open(behind, O_PATH | O_CLOEXEC);
	if (gate->ends < 0 || gate->behind < 0 || unlink(behind) != 0)
		result = -errno;
	else
		result = listen_at(gate, address, is_abstract);
	if (result == 0)
		*out = gate;
	else
		memif_gate_close(gate);
	return result;
}

int memif_gate_start(struct memif_gate *gate, atomic_bool *called_for)
{
	int result;

	gate->called_for = called_for;
	if (!call_driver(gate))
		return -errno;
	result = -pthread_create(&gate->thread, NULL, serve, gate);
	gate->runs = result == 0;
	return result;
}

void memif_gate_end(struct memif_gate *gate)
{
	const uint64_t one = 1;

	if (gate->runs && write(gate->ends, &one, sizeof(one)) == (ssize_t)sizeof(one)) {
		pthread_join(gate->thread, NULL);
		gate->runs = false;
	}
}

void memif_gate_close(struct memif_gate *gate)
{
	struct stat now;

	memif_gate_end(gate);
	/* Not one that somebody else has put there meanwhile. */
	if (gate->is_file && stat(gate->address.sun_path, &now) == 0 && now.st_ino == gate->file.st_ino &&
	    now.st_dev == gate->file.st_dev)
		unlink(gate->address.sun_path);
	while (gate->strangers > 0) {
		close(gate->stranger[0].fd);
		forget_stranger(gate, 0);
	}
	forget(&gate->peer.memory);
	close_fd(&gate->peer.outer);
	close_fd(&gate->peer.inner);
	close_fd(&gate->listener);
	close_fd(&gate->behind);
	close_fd(&gate->ends);
	free(gate);
}
