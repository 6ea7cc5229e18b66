// Simulates a disk below a directory that is full (FOREBAY_SHIM_ERRNO=28) or read-only (30): files
// below FOREBAY_SHIM_BELOW cannot be created or written. Preloaded into the real binary.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_below(const char *path) {
    const char *below = getenv("FOREBAY_SHIM_BELOW");
    return below && path && strncmp(path, below, strlen(below)) == 0;
}

static int shim_errno(void) {
    const char *number = getenv("FOREBAY_SHIM_ERRNO");
    return number ? atoi(number) : ENOSPC;
}

static int refuses_open(const char *path, int flags) {
    if (!is_below(path)) return 0;
    if (shim_errno() == EROFS) return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
    return (flags & O_CREAT) && access(path, F_OK) != 0;
}

static int refuses_write(int fd) {
    char link[64], path[4096];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    errno = before;
    if (len <= 0) return 0;
    path[len] = 0;
    return is_below(path);
}

#define REFUSE(condition) if (condition) { errno = shim_errno(); return -1; }
#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name);
#define MODE(flags) int mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, int); va_end(more); }

int open(const char *path, int flags, ...) { MODE(flags) REAL(open) REFUSE(refuses_open(path, flags)) return real(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) REAL(open64) REFUSE(refuses_open(path, flags)) return real(path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) REAL(openat) REFUSE(refuses_open(path, flags)) return real(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) REAL(openat64) REFUSE(refuses_open(path, flags)) return real(at, path, flags, mode); }
FILE *fopen(const char *path, const char *mode) {
    REAL(fopen)
    if (is_below(path) && mode[0] != 'r') { errno = shim_errno(); return NULL; }
    return real(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
    REAL(fopen64)
    if (is_below(path) && mode[0] != 'r') { errno = shim_errno(); return NULL; }
    return real(path, mode);
}
int mkdir(const char *path, mode_t mode) { REAL(mkdir) REFUSE(is_below(path)) return real(path, mode); }
int rename(const char *from, const char *to) { REAL(rename) REFUSE(is_below(to) && shim_errno() == EROFS) return real(from, to); }
int unlink(const char *path) { REAL(unlink) REFUSE(is_below(path) && shim_errno() == EROFS) return real(path); }
ssize_t write(int fd, const void *bytes, size_t len) { REAL(write) REFUSE(refuses_write(fd)) return real(fd, bytes, len); }
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { REAL(pwrite) REFUSE(refuses_write(fd)) return real(fd, bytes, len, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) { REAL(pwrite64) REFUSE(refuses_write(fd)) return real(fd, bytes, len, at); }
ssize_t writev(int fd, const struct iovec *parts, int count) { REAL(writev) REFUSE(refuses_write(fd)) return real(fd, parts, count); }
int fallocate(int fd, int mode, off_t at, off_t len) { REAL(fallocate) REFUSE(refuses_write(fd)) return real(fd, mode, at, len); }
int fallocate64(int fd, int mode, off64_t at, off64_t len) { REAL(fallocate64) REFUSE(refuses_write(fd)) return real(fd, mode, at, len); }
