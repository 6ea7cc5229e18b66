// Records the modes of each bound socket and of its directory, immediately after the bind: a line
// of two octal numbers in the file FOREBAY_SHIM_MODES.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

int bind(int fd, const struct sockaddr *address, socklen_t len) {
    static __typeof__(bind) *real;
    if (!real) real = dlsym(RTLD_NEXT, "bind");
    int bound = real(fd, address, len);
    const char *notes = getenv("FOREBAY_SHIM_MODES");
    const char *path = ((const struct sockaddr_un *)address)->sun_path;
    if (bound != 0 || !notes || address->sa_family != AF_UNIX || !path[0]) return bound;
    char dir[256];
    snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    struct stat socket, directory;
    if (slash) *slash = 0;
    if (stat(path, &socket) == 0 && stat(slash ? dir : ".", &directory) == 0) {
        FILE *file = fopen(notes, "a");
        if (file) {
            fprintf(file, "%o %o\n", socket.st_mode & 0777, directory.st_mode & 0777);
            fclose(file);
        }
    }
    return bound;
}
