/*
 * The shims by themselves, for a build with AddressSanitizer; scripts/check makes one where the libraries are.
 *
 *   exercise ring               two devices of one process, one of them with two ports; bursts of every size
 *   exercise memif SOCKET       a memif server, and callers of every kind
 *   exercise disk TRANSPORT-ID  a namespace that may be overwritten
 */
#include <string.h>

#include "exercise.h"

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
