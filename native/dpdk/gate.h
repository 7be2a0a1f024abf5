/*
 * The gate before a memif server: whoever calls is heard here first, and the driver hears only what is in order.
 * Knows no rte_ names: sockets only. Errors are negative errno values.
 */
#ifndef BUSLANE_MEMIF_GATE_H
#define BUSLANE_MEMIF_GATE_H

#include <stdatomic.h>
#include <stdbool.h>

struct memif_gate;

/*
 * Takes the driver's socket at `behind` out of everybody's reach but its own, and listens at `address` in its place:
 * a file, or a name of the abstract kind.
 */
int memif_gate_open(const char *address, bool is_abstract, const char *behind, struct memif_gate **out);

/*
 * From here on a thread of its own serves it. It sets *called_for, again and again, while the driver has something to
 * read or to answer; whoever lets the driver do that clears it before.
 */
int memif_gate_start(struct memif_gate *gate, atomic_bool *called_for);

/* From here on nobody is let through; what is on its way to the driver stays so. */
void memif_gate_end(struct memif_gate *gate);

/* Ends it, hangs up on everybody and removes the socket. */
void memif_gate_close(struct memif_gate *gate);

#endif
