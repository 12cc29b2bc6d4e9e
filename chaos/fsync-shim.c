/*
 * Preloaded into Valkey by chaos/power-loss.ts: notes what each sync has brought to the disk, so that a test can take away
 * the rest. A SIGKILL alone loses nothing: what was written and never synced is still in the kernel's page cache.
 *
 * SYNCED_FOLDER is the folder that is watched. Into SYNCED_NOTES go a hard link to each synced file, named after its inode,
 * so that a file can be found again under whatever name, or none; and `log`, one line each, written with one write(2) at its
 * end, so that the line is there once the caller may go on:
 *
 *   F INODE LENGTH PATH       the file's first LENGTH bytes are on the disk
 *   D INODE NAME/INODE ...    the folder's names are
 *   T INODE LENGTH            the file was cut to LENGTH
 *   C PID                     a child was forked: it ends with its parent, as it would without power
 *
 * Length and names are those at the sync's start, noted after its success: what is written meanwhile isn't promised. Each
 * sync takes SYNCED_DELAY_US longer: on a disk as quick as memory, nobody would ever be caught before its end.
 * sync_file_range is not here, since it promises nothing by itself (man 2 sync_file_range); Valkey uses no other call.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LINE_BYTES = 16384 };

static const char *folder, *notes;
static int log_fd = -1;
static pid_t parent;
static useconds_t delay_us;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A note that can't be made must not pass for a sync that never was. */
static void fail(const char *what) {
  dprintf(STDERR_FILENO, "fsync-shim: %s: %s\n", what, strerror(errno));
  abort();
}

static void note(const char *format, ...) {
  char line[LINE_BYTES + PATH_MAX + 64];
  va_list args;
  va_start(args, format);
  int length = vsnprintf(line, sizeof line, format, args);
  va_end(args);
  if (length >= (int)sizeof line || write(log_fd, line, (size_t)length) != length) fail("log");
}

static void in_child(void) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) raise(SIGKILL);
  note("C %d\n", (int)getpid());
}

static void begin(void) {
  folder = getenv("SYNCED_FOLDER");
  notes = getenv("SYNCED_NOTES");
  if (folder == NULL || notes == NULL) return;
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/log", notes);
  log_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (log_fd < 0) fail(path);
  parent = getpid();
  const char *delay = getenv("SYNCED_DELAY_US");
  if (delay != NULL) delay_us = (useconds_t)atoi(delay);
  pthread_atfork(NULL, NULL, in_child);
}

/* Whether the open file is watched, and its path. */
static int watched(int fd, struct stat *st, char path[PATH_MAX]) {
  pthread_once(&once, begin);
  if (log_fd < 0 || fstat(fd, st) != 0) return 0;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length < 0) fail(link);
  path[length] = '\0';
  size_t root = strlen(folder);
  return strncmp(path, folder, root) == 0 && (path[root] == '/' || path[root] == '\0');
}

static void keep_link(int fd, const struct stat *st) {
  char link[64], kept[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  snprintf(kept, sizeof kept, "%s/%llu", notes, (unsigned long long)st->st_ino);
  if (linkat(AT_FDCWD, link, AT_FDCWD, kept, AT_SYMLINK_FOLLOW) == 0) return;
  /* ENOENT: it has no name any more, and had none when it was first synced. */
  if (errno != EEXIST && errno != ENOENT) fail(kept);
}

static void list_names(int fd, char names[LINE_BYTES]) {
  int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = own < 0 ? NULL : fdopendir(own);
  if (dir == NULL) fail("opendir");
  size_t used = 0;
  names[0] = '\0';
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    struct stat st;
    if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode)) continue;
    used += (size_t)snprintf(names + used, LINE_BYTES - used, " %s/%llu", entry->d_name, (unsigned long long)st.st_ino);
    if (used >= LINE_BYTES) fail("too many names");
  }
  closedir(dir);
}

static int sync_and_note(long call, int fd) {
  struct stat st;
  char path[PATH_MAX], names[LINE_BYTES];
  int here = watched(fd, &st, path);
  if (here && S_ISDIR(st.st_mode)) list_names(fd, names);
  if (here && delay_us > 0) usleep(delay_us);
  int result = (int)syscall(call, fd);
  if (!here || result != 0) return result;
  if (S_ISDIR(st.st_mode)) {
    note("D %llu%s\n", (unsigned long long)st.st_ino, names);
  } else if (S_ISREG(st.st_mode)) {
    keep_link(fd, &st);
    note("F %llu %lld %s\n", (unsigned long long)st.st_ino, (long long)st.st_size, path);
  }
  return 0;
}

int fsync(int fd) { return sync_and_note(SYS_fsync, fd); }

int fdatasync(int fd) { return sync_and_note(SYS_fdatasync, fd); }

int ftruncate(int fd, off_t length) {
  struct stat st;
  char path[PATH_MAX];
  int result = (int)syscall(SYS_ftruncate, fd, length);
  if (result == 0 && watched(fd, &st, path)) note("T %llu %lld\n", (unsigned long long)st.st_ino, (long long)length);
  return result;
}

int truncate(const char *path, off_t length) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  int result = ftruncate(fd, length);
  int error = errno;
  close(fd);
  errno = error;
  return result;
}

/* The same ones, where off_t has 64 bits. */
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

int truncate64(const char *path, off64_t length) { return truncate(path, length); }
