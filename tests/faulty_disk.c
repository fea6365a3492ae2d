/*
 * A disk with faults, loaded before libc by LD_PRELOAD: every sync takes SLOW_SYNC_MS milliseconds, and while the file
 * READ_ONLY_WHILE exists, every write at a position fails with EROFS.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int is_read_only(void) {
    const char *path = getenv("READ_ONLY_WHILE");
    return path && access(path, F_OK) == 0;
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t offset) {
    ssize_t (*real)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    if (is_read_only()) {
        errno = EROFS;
        return -1;
    }
    return real(fd, data, n, offset);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t offset) { return pwrite64(fd, data, n, offset); }

static void wait_for_the_card(void) {
    const char *text = getenv("SLOW_SYNC_MS");
    long ms = text ? atol(text) : 0;
    struct timespec t = {ms / 1000, (ms % 1000) * 1000000L};
    nanosleep(&t, NULL);
}

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_for_the_card();
    return real(fd);
}

int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    wait_for_the_card();
    return real(fd);
}
