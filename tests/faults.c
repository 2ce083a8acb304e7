// Lets things that a process does in a folder go wrong, from a given step on: preloaded by tests/tests/faults.rs.
//
// FAULT_ROOT is the folder, FAULT_AT the number of the step, and FAULT what happens there: `kill` ends the process as
// SIGKILL does; `full` is a full disk, which it stays. Steps are what makes, writes or renames a file or folder.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long steps;

static int fails(const char *path) {
  const char *root = getenv("FAULT_ROOT"), *at = getenv("FAULT_AT"), *fault = getenv("FAULT");
  if (!root || !at || !fault || !path || strncmp(path, root, strlen(root)) != 0) return 0;
  long step = atomic_fetch_add(&steps, 1), first = atol(at);
  if (step < first) return 0;
  if (strcmp(fault, "kill") == 0) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
  }
  errno = ENOSPC;
  return 1;
}

static int fails_fd(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return fails(path);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define OPEN(name)                                             \
  int name(const char *path, int flags, ...) {                 \
    REAL(name);                                                \
    va_list list;                                              \
    va_start(list, flags);                                     \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; \
    va_end(list);                                              \
    if ((flags & O_CREAT) && fails(path)) return -1;           \
    return real(path, flags, mode);                            \
  }
OPEN(open)
OPEN(open64)

int mkdir(const char *path, mode_t mode) {
  REAL(mkdir);
  return fails(path) ? -1 : real(path, mode);
}
int rename(const char *from, const char *to) {
  REAL(rename);
  return fails(to) ? -1 : real(from, to);
}
int link(const char *from, const char *to) {
  REAL(link);
  return fails(to) ? -1 : real(from, to);
}
int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags) {
  REAL(linkat);
  return fails(to) ? -1 : real(from_fd, from, to_fd, to, flags);
}
ssize_t write(int fd, const void *bytes, size_t length) {
  REAL(write);
  return fails_fd(fd) ? -1 : real(fd, bytes, length);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(writev);
  return fails_fd(fd) ? -1 : real(fd, parts, count);
}
int fsync(int fd) {
  REAL(fsync);
  return fails_fd(fd) ? -1 : real(fd);
}
