/* What the loader asks first. */
#include "kinedge_native.h"

/* Of which sources this was built: the first eight bytes of their SHA-256, in the order of their names (setup.py). */
API uint64_t kinedge_sources(void) { return KINEDGE_SOURCES; }
