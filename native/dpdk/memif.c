/* net_memif, which needs more than other devices: its peer comes and goes, and it trusts whoever calls. */
#define _GNU_SOURCE
/* Interrupt handles of our own, which were called so in DPDK 22.11. */
#define ALLOW_EXPERIMENTAL_API
#include "port.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_interrupts.h>
#include <rte_log.h>

#include "gate.h"

#define MEMIF_LOG "pmd.net.memif"

/* How often a memif that is down is looked after at most, one that is up, and how often a server that is away is
 * called. A look costs a client a look at every open file, and two switches of threads. */
#define LOOKS_DOWN_PER_S 5000
#define LOOKS_UP_PER_S 100
#define CONNECT_PER_S 100

/* What is ready is handled within two rounds, and what that has registered within two more. */
#define ROUNDS_AT_CLOSE 4

/*
 * Rounds. net_memif handles its control socket on EAL's interrupt thread, and when the peer goes away it
 * unmaps the rings there, while our thread may be reading them: that would be a segmentation fault. So
 * with memif the interrupt thread is parked in a callback of ours, whose descriptor is always ready, and let go until
 * it comes there again, while our thread waits, outside any burst. What is ready on other sockets is handled within
 * two rounds. (An alarm that sets itself anew, as was here before, is due at once on a busy machine, and its loop then
 * never returns to the sockets.)
 */
static sem_t round_begins, round_ended;
static bool parks, taken;

static void park(void *unused)
{
	(void)unused;
	sem_post(&round_ended);
	while (sem_wait(&round_begins) != 0)
		;
}

static void wait_until_parked(void)
{
	while (sem_wait(&round_ended) != 0)
		;
}

static int start_parking(void)
{
	struct rte_intr_handle *handle = rte_intr_instance_alloc(RTE_INTR_INSTANCE_F_PRIVATE);
	int fd = eventfd(1, EFD_CLOEXEC);

	if (handle == NULL || fd < 0 || rte_intr_fd_set(handle, fd) != 0 ||
	    rte_intr_type_set(handle, RTE_INTR_HANDLE_EXT) != 0)
		return -ENOMEM;
	sem_init(&round_begins, 0, 0);
	sem_init(&round_ended, 0, 0);
	return rte_intr_callback_register(handle, park, NULL);
}

/* One port a process: a round for one would let the interrupt thread at the rings of another. */
static int take_rounds(void)
{
	int ret;

	if (taken)
		return -EBUSY;
	if (!parks) {
		ret = start_parking();
		if (ret < 0)
			return ret;
		wait_until_parked();
		parks = true;
	}
	taken = true;
	return 0;
}

/* Lets the interrupt thread handle what is ready, and waits until it is parked again. */
static void let_round(void)
{
	sem_post(&round_begins);
	wait_until_parked();
}

static void be_quiet(bool quiet)
{
	rte_log_set_level_pattern(MEMIF_LOG, quiet ? RTE_LOG_CRIT : RTE_LOG_WARNING);
}

/* The sockets of memif: the only sequenced-packet sockets of the Unix domain in this process. */
static void find_control_fds(struct buslane_port *port)
{
	struct dirent *entry;
	DIR *dir = opendir("/proc/self/fd");

	port->control_fds = 0;
	if (dir == NULL)
		return;
	while ((entry = readdir(dir)) != NULL && port->control_fds < CONTROL_FDS_MAX) {
		int domain = 0, type = 0, fd = atoi(entry->d_name);
		socklen_t bytes = sizeof(int);

		if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) != 0 || domain != AF_UNIX)
			continue;
		bytes = sizeof(int);
		if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) != 0 || type != SOCK_SEQPACKET)
			continue;
		port->control[port->control_fds++] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
	closedir(dir);
}

/*
 * A memif client connects when it is started, and only then; failing is normal: the server is away. While
 * a connection stands it is left alone, however long the other side takes: starting over would fill the
 * server's backlog, and then connecting blocks. A server is started once, since its listener stands.
 */
static void call_server(struct buslane_port *port, uint64_t now)
{
	if (now < port->connect_at)
		return;
	port->connect_at = now + rte_get_tsc_hz() / CONNECT_PER_S;
	if (port->called) {
		find_control_fds(port);
		port->called = port->control_fds > 0;
		if (port->called)
			return;
	}
	be_quiet(true);
	rte_eth_dev_stop(port->id);
	port->called = rte_eth_dev_start(port->id) == 0;
	be_quiet(false);
}

/*
 * The watch: while a memif is up, a thread of its own waits for something on its sockets, so that the thread
 * that polls makes no system call.
 */
static void *watch(void *argument)
{
	struct buslane_port *port = argument;
	int fds;

	pthread_setname_np(pthread_self(), "buslane-memif");
	for (;;) {
		while (sem_wait(&port->armed) != 0)
			;
		fds = port->control_fds;
		port->control[fds] = (struct pollfd){ .fd = port->watch_ends, .events = POLLIN };
		while (poll(port->control, (nfds_t)fds + 1, -1) < 0 && errno == EINTR)
			;
		if (port->control[fds].revents != 0)
			return NULL;
		atomic_store_explicit(&port->called_for, true, memory_order_release);
	}
}

static int start_watch(struct buslane_port *port)
{
	int result;

	port->watch_ends = eventfd(0, EFD_CLOEXEC);
	if (port->watch_ends < 0)
		return -errno;
	sem_init(&port->armed, 0, 0);
	atomic_init(&port->called_for, true); /* not armed */
	result = -pthread_create(&port->watcher, NULL, watch, port);
	if (result != 0) {
		sem_destroy(&port->armed);
		close(port->watch_ends);
	}
	return result;
}

static void end_watch(struct buslane_port *port)
{
	const uint64_t one = 1;

	if (write(port->watch_ends, &one, sizeof(one)) == sizeof(one)) {
		sem_post(&port->armed);
		pthread_join(port->watcher, NULL);
	}
	sem_destroy(&port->armed);
	close(port->watch_ends);
}

static void look_at_client(struct buslane_port *port, uint64_t now)
{
	let_round();
	note_link(port);
	if (port->up) {
		find_control_fds(port);
		atomic_store_explicit(&port->called_for, false, memory_order_relaxed);
		sem_post(&port->armed);
	} else {
		call_server(port, now);
	}
}

void memif_look(struct buslane_port *port, uint64_t now)
{
	if (port->gate == NULL) {
		look_at_client(port, now);
		return;
	}
	/* Before the round: what the gate has to say meanwhile is for the next. */
	atomic_store_explicit(&port->called_for, false, memory_order_release);
	let_round();
	note_link(port);
}

bool memif_is_quiet(struct buslane_port *port)
{
	return (port->up || port->gate != NULL) && !atomic_load_explicit(&port->called_for, memory_order_acquire);
}

uint64_t memif_looks_per_s(const struct buslane_port *port)
{
	return port->up ? LOOKS_UP_PER_S : LOOKS_DOWN_PER_S;
}

/* The gate before a memif server, until a port takes it. */
static struct memif_gate *gate_made;

int buslane_dpdk_gate(const char *address, int is_abstract, const char *behind)
{
	return gate_made != NULL ? 0 : memif_gate_open(address, is_abstract != 0, behind, &gate_made);
}

static int start(struct buslane_port *port)
{
	int ret;

	if (port->gate == NULL) {
		ret = start_watch(port);
		if (ret == 0)
			call_server(port, rte_rdtsc()); /* the server may come later */
		return ret;
	}
	ret = rte_eth_dev_start(port->id);
	return ret == 0 ? memif_gate_start(port->gate, &port->called_for) : ret;
}

int memif_open(struct buslane_port *port)
{
	int ret = take_rounds();

	if (ret != 0)
		return ret;
	port->gate = gate_made;
	gate_made = NULL;
	ret = start(port);
	if (ret == 0)
		return 0;
	if (port->gate != NULL)
		memif_gate_close(port->gate);
	taken = false;
	return ret;
}

static void let_rounds(int count)
{
	while (count-- > 0)
		let_round();
}

void memif_close(struct buslane_port *port)
{
	if (port->gate == NULL) {
		end_watch(port);
	} else {
		/*
		 * The driver frees its listener and leaves it registered: what it has not accepted then is accepted with
		 * freed memory, and what has hung up before it is accepted aborts. So first it accepts what is on its
		 * way, and then hears that we have hung up.
		 */
		memif_gate_end(port->gate);
		let_rounds(ROUNDS_AT_CLOSE);
		memif_gate_close(port->gate);
		let_rounds(ROUNDS_AT_CLOSE);
	}
	be_quiet(true); /* about the socket that the gate has taken away */
	rte_eth_dev_stop(port->id);
	rte_eth_dev_close(port->id);
	be_quiet(false);
	/* The interrupt thread lets go of the sockets. */
	let_rounds(ROUNDS_AT_CLOSE);
	taken = false;
}
