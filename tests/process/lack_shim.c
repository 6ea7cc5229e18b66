/* Takes from a process what it needs, for tests: preload it. While the file named in
 * FOREBAY_LACK exists:
 * - writes to files whose path holds FOREBAY_FULL fail as on a full disk;
 * - with FOREBAY_NO_FORK set, the process that starts commands can make no other. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int lacks(void) {
    const char *path = getenv("FOREBAY_LACK");
    return path && access(path, F_OK) == 0;
}

static int is_full(int file) {
    const char *part = getenv("FOREBAY_FULL");
    char link[64], path[4096];
    if (!part || !lacks()) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < 0) return 0;
    path[len] = 0;
    return strstr(path, part) != NULL;
}

ssize_t write(int file, const void *bytes, size_t len) {
    static ssize_t (*next)(int, const void *, size_t);
    if (!next) next = dlsym(RTLD_NEXT, "write");
    if (is_full(file)) { errno = ENOSPC; return -1; }
    return next(file, bytes, len);
}

ssize_t pwrite64(int file, const void *bytes, size_t len, off64_t at) {
    static ssize_t (*next)(int, const void *, size_t, off64_t);
    if (!next) next = dlsym(RTLD_NEXT, "pwrite64");
    if (is_full(file)) { errno = ENOSPC; return -1; }
    return next(file, bytes, len, at);
}

static int is_spawner(void) {
    char line[8192] = {0};
    int file = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t len = read(file, line, sizeof line - 1);
    close(file);
    return len > 0 && memmem(line, (size_t)len, "__spawner", 9) != NULL;
}

int clone(int (*run)(void *), void *stack, int flags, void *plan, ...) {
    static int (*next)(int (*)(void *), void *, int, void *, ...);
    if (!next) next = dlsym(RTLD_NEXT, "clone");
    if (getenv("FOREBAY_NO_FORK") && lacks() && is_spawner()) { errno = EAGAIN; return -1; }
    va_list rest;
    va_start(rest, plan);
    void *handle = va_arg(rest, void *);
    va_end(rest);
    return next(run, stack, flags, plan, handle);
}
