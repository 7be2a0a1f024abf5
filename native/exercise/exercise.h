/* What the exercises of the shims share. */
#ifndef BUSLANE_EXERCISE_H
#define BUSLANE_EXERCISE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(what)                                                                   \
	do {                                                                          \
		if (!(what)) {                                                        \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);   \
			exit(1);                                                      \
		}                                                                     \
	} while (0)

#define FRAMES_MAX 64

void exercise_ring(void);
void exercise_memif(const char *path);
#ifdef WITH_SPDK
void exercise_disk(const char *transport_id);
#endif

#endif
