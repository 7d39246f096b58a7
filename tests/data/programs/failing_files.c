/* Calls that read files fail as a control file says, for tests: LD_PRELOAD this, and name the file in FAULTS.

   Each line of the control file is "call text errno": call is open (for reading), read or list, text a piece of
   the path; in a folder below one that can't be listed all is well. What is opened for writing alone works: scripts go on logging. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(const char *call, const char *path)
{
    const char *control = getenv("FAULTS");
    char text[4096], *line, *rest = NULL;
    if (!control || !path)
        return 0;
    int saved = errno, fd = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        errno = saved;
        return 0;
    }
    ssize_t size = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    errno = saved;
    text[size < 0 ? 0 : size] = 0;
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char what[16], piece[256];
        int number;
        if (sscanf(line, "%15s %255s %d", what, piece, &number) != 3 || strcmp(what, call))
            continue;
        const char *found = strstr(path, piece);
        if (found && (strcmp(call, "list") || !strchr(found + 1, '/')))
            return number;
    }
    return 0;
}

static int fails_behind(const char *call, int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return fails(call, path);
}

static int open_at(int folder, const char *path, int flags, mode_t mode)
{
    int number = (flags & O_ACCMODE) == O_RDONLY && !(flags & O_DIRECTORY) ? fails("open", path) : 0;
    if (number) {
        errno = number;
        return -1;
    }
    return syscall(SYS_openat, folder, path, flags, mode);
}

#define OPEN(name)                                              \
    int name(const char *path, int flags, ...)                  \
    {                                                           \
        va_list rest;                                           \
        va_start(rest, flags);                                  \
        mode_t mode = va_arg(rest, int);                        \
        va_end(rest);                                           \
        return open_at(AT_FDCWD, path, flags, mode);            \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                            \
    int name(int folder, const char *path, int flags, ...)      \
    {                                                           \
        va_list rest;                                           \
        va_start(rest, flags);                                  \
        mode_t mode = va_arg(rest, int);                        \
        va_end(rest);                                           \
        return open_at(folder, path, flags, mode);              \
    }
OPENAT(openat)
OPENAT(openat64)

#define PREAD(name)                                             \
    ssize_t name(int fd, void *data, size_t size, off_t offset) \
    {                                                           \
        int number = fails_behind("read", fd);                  \
        if (number) {                                           \
            errno = number;                                     \
            return -1;                                          \
        }                                                       \
        return syscall(SYS_pread64, fd, data, size, offset);    \
    }
PREAD(pread)
PREAD(pread64)

/* A folder that can't be read to its end: one entry, then the error. */
static struct dirent64 *next(DIR *folder, void *real)
{
    static DIR *begun;
    int number = fails_behind("list", dirfd(folder));
    if (number && begun == folder) {
        begun = NULL;
        errno = number;
        return NULL;
    }
    begun = number ? folder : begun;
    return ((struct dirent64 * (*)(DIR *)) real)(folder);
}

struct dirent *readdir(DIR *folder) { return (struct dirent *) next(folder, dlsym(RTLD_NEXT, "readdir")); }
struct dirent64 *readdir64(DIR *folder) { return next(folder, dlsym(RTLD_NEXT, "readdir64")); }
