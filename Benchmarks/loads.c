/* The programs that Benchmarks/run checkpoints, and the stopwatch it checkpoints them with.
 *
 *   loads LOAD COUNT READY     build a state of COUNT parts, create the file READY, stand still
 *   loads peer FILE            the other end of connections, for the load `connections`; FILE is READY.peer
 *   loads measure RESULT COMMAND...
 *                              run COMMAND; write "nanoseconds peak-KiB wait-status" to the file RESULT
 *
 * A load checks itself on SIGUSR1 and creates READY.good when everything is still as it was built.
 * The stopwatch is a program of its own because exec(2) carries the peak RSS of the address space it leaves over into
 * ru_maxrss (fs/exec.c, exec_mmap): measured from Python, every command would seem to need Python's memory. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { page = 4096 };

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Word i of the pattern that fills memory: no two pages are the same, and none compresses to nothing. */
static uint64_t word(uint64_t i)
{
	i = (i + 1) * UINT64_C(0x9E3779B97F4A7C15);
	return i ^ i >> 29;
}

static uint64_t *words, word_count;

static void fill(size_t bytes)
{
	words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (words == MAP_FAILED) err(1, "mmap %zu bytes", bytes);
	word_count = bytes / sizeof *words;
	for (uint64_t i = 0; i < word_count; i++) words[i] = word(i);
}

static bool filled(void)
{
	for (uint64_t i = 0; i < word_count; i++)
		if (words[i] != word(i)) return false;
	return true;
}

static int parts;

static void build_nothing(void) {}
static bool nothing(void) { return true; }

static void build_memory(void) { fill((size_t)parts << 20); }

/* One page each; neighbours differ in protection, or the kernel would merge them. */
static void build_mappings(void)
{
	fill((size_t)parts * page);
	for (int i = 0; i < parts; i += 2)
		if (mprotect((char *)words + (size_t)i * page, page, PROT_READ)) err(1, "mprotect of page %d", i);
}

static pthread_barrier_t all_threads_run;
static pthread_mutex_t never = PTHREAD_MUTEX_INITIALIZER;

static void *thread(void *unused)
{
	pthread_barrier_wait(&all_threads_run);
	pthread_mutex_lock(&never);
	return unused;
}

static void build_threads(void)
{
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 16 * page);
	pthread_mutex_lock(&never);
	pthread_barrier_init(&all_threads_run, NULL, parts);
	for (int i = 1; i < parts; i++) {
		pthread_t id;
		int error = pthread_create(&id, &small, thread, NULL);
		if (error) errx(1, "pthread_create number %d: %s", i, strerror(error));
	}
	pthread_barrier_wait(&all_threads_run);
}

/* Field 20 of /proc/self/stat, num_threads (proc_pid_stat(5)). */
static bool threads_there(void)
{
	char text[1024] = "";
	int n = 0, fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof text - 1) <= 0) return false;
	close(fd);
	char *rest = strrchr(text, ')');
	return rest && sscanf(rest, ") %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %d", &n) == 1 && n == parts;
}

static int *descriptors;

/* In fifties: the two ends of a pipe, 23 eventfds with a count, 25 open files at an offset. (Few pipes: with 2,000 of them
 * CRIU 4.2 without CAP_SYS_RESOURCE ended its dump with "OOM storing pipe", and there was nothing to compare.) */
enum kind { pipe_end, event_count, open_file };

static enum kind kind_of(int i)
{
	return i % 50 < 2 ? pipe_end : i % 50 < 25 ? event_count : open_file;
}

static void build_descriptors(void)
{
	struct rlimit limit;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit)) err(1, "setrlimit");
	descriptors = calloc(parts, sizeof *descriptors);
	for (int i = 0; i < parts; i++) {
		int *d = descriptors + i;
		enum kind kind = kind_of(i);
		if (kind == pipe_end) {
			if (i % 2 == 0 && pipe(d)) err(1, "pipe number %d", i);
		} else if (kind == event_count) {
			*d = eventfd(i, EFD_NONBLOCK);
		} else {
			*d = open("/proc/self/exe", O_RDONLY);
			lseek(*d, i, SEEK_SET);
		}
		if (*d < 0) err(1, "descriptor number %d", i);
	}
}

static bool descriptors_there(void)
{
	char byte = 0;
	for (int i = 0; i < parts; i++) {
		enum kind kind = kind_of(i);
		int d = descriptors[i];
		uint64_t count = 0;
		if (kind == pipe_end) {
			if (i % 2 == 0) continue;
			if (write(d, "x", 1) != 1 || read(descriptors[i - 1], &byte, 1) != 1 || byte != 'x') return false;
		} else if (kind == event_count) {
			if (read(d, &count, sizeof count) != sizeof count || count != (uint64_t)i) return false;
			if (write(d, &count, sizeof count) != sizeof count) return false;
		} else if (lseek(d, 0, SEEK_CUR) != i) {
			return false;
		}
	}
	return true;
}

static int *connections, connection_count;
static char *ready;

/* Connections over loopback to a peer outside (`loads peer`), beside five times as many other descriptors. The echo of what was said waits in each to be read. */
static void build_connections(void)
{
	char path[4096];
	struct sockaddr_in name;
	snprintf(path, sizeof path, "%s.peer", ready);
	FILE *file = fopen(path, "r");
	if (!file || fread(&name, sizeof name, 1, file) != 1) err(1, "%s", path);
	fclose(file);
	connection_count = parts;
	parts *= 5;
	build_descriptors();
	connections = calloc(connection_count, sizeof *connections);
	for (int i = 0; i < connection_count; i++) {
		connections[i] = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(connections[i], (struct sockaddr *)&name, sizeof name)) err(1, "connection number %d", i);
		if (write(connections[i], &i, sizeof i) != sizeof i) err(1, "write to connection number %d", i);
	}
	for (int i = 0; i < connection_count; i++) {
		struct pollfd echo = {connections[i], POLLIN, 0};
		if (poll(&echo, 1, -1) != 1) err(1, "echo of connection number %d", i);
	}
}

/* What waited is there, and the peer still answers. */
static bool connections_there(void)
{
	for (int i = 0; i < connection_count; i++) {
		int got = -1;
		if (read(connections[i], &got, sizeof got) != sizeof got || got != i) return false;
		if (write(connections[i], &got, sizeof got) != sizeof got) return false;
	}
	for (int i = 0; i < connection_count; i++) {
		struct pollfd echo = {connections[i], POLLIN, 0};
		if (poll(&echo, 1, 10000) != 1 || !(echo.revents & POLLIN)) return false;
	}
	return descriptors_there();
}

/* The other end of such connections: gives back what it gets; says in the file where it listens. */
static int be_peer(const char *path)
{
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof name;
	char bytes[4096], part[4096];
	int listener = socket(AF_INET, SOCK_STREAM, 0), waiting = epoll_create1(0);
	if (bind(listener, (struct sockaddr *)&name, length) || listen(listener, 128) || getsockname(listener, (struct sockaddr *)&name, &length)) err(1, "listener");
	struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
	if (epoll_ctl(waiting, EPOLL_CTL_ADD, listener, &event)) err(1, "epoll_ctl");
	snprintf(part, sizeof part, "%s.part", path);
	FILE *file = fopen(part, "w");
	if (!file || fwrite(&name, sizeof name, 1, file) != 1 || fclose(file) || rename(part, path)) err(1, "%s", path);
	for (;;) {
		if (epoll_wait(waiting, &event, 1, -1) != 1) continue;
		int from = event.data.fd;
		if (from == listener) {
			event.data.fd = accept(listener, NULL, NULL);
			if (event.data.fd < 0 || epoll_ctl(waiting, EPOLL_CTL_ADD, event.data.fd, &event)) err(1, "accept");
			continue;
		}
		ssize_t got = read(from, bytes, sizeof bytes);
		if (got <= 0 || write(from, bytes, got) != got) close(from);
	}
}

static void build_processes(void)
{
	for (int i = 1; i < parts; i++) {
		pid_t child = fork();
		if (child < 0) err(1, "fork number %d", i);
		if (child == 0)
			for (;;) pause();
	}
}

static bool processes_there(void)
{
	siginfo_t ended = {0};
	return waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == 0;
}

static int64_t longest_pause;

static bool report_pause(void)
{
	char path[4096];
	snprintf(path, sizeof path, "%s.pause", ready);
	FILE *file = fopen(path, "w");
	return file && fprintf(file, "%lld\n", (long long)longest_pause) > 0 && fclose(file) == 0 && filled();
}

static const struct load {
	const char *name;
	void (*build)(void);
	bool (*intact)(void);
	bool ticks; /* looks at the clock all the time and keeps the longest gap that it saw */
	bool writes; /* and writes a tenth of its pages a second, what is there already */
} loads[] = {
	{"smallest", build_nothing, nothing, false},
	{"memory", build_memory, filled, false},
	{"pause", build_memory, report_pause, true},
	{"writer", build_memory, report_pause, true, true},
	{"mappings", build_mappings, filled, false},
	{"threads", build_threads, threads_there, false},
	{"descriptors", build_descriptors, descriptors_there, false},
	{"connections", build_connections, connections_there, false},
	{"processes", build_processes, processes_there, false},
};

static void write_pages(int64_t nanoseconds)
{
	static uint64_t state = 88172645463325252u;
	static double due;
	uint64_t pages = word_count / (page / sizeof *words);
	/* Not what a pause would have taken: the load writes as fast as before. */
	if (nanoseconds > 10000000) nanoseconds = 10000000;
	for (due += 0.1 * pages * nanoseconds / 1e9; due >= 1; due--) {
		state ^= state << 13, state ^= state >> 7, state ^= state << 17;
		volatile uint64_t *first = words + state % pages * (page / sizeof *words);
		*first = *first;
	}
}

/* Waits for SIGUSR1. sigtimedwait may end early when a tracer stops the task (signal(7)): that is no news. */
static void wait_for_question(const sigset_t *question, bool ticks, bool writes)
{
	struct timespec tick = {0, 100 * 1000};
	for (int64_t last = now();;) {
		int got = ticks ? sigtimedwait(question, NULL, &tick) : sigwaitinfo(question, NULL);
		int64_t t = now();
		if (t - last > longest_pause) longest_pause = t - last;
		if (got == SIGUSR1) return;
		if (writes) write_pages(t - last);
		last = t;
	}
}

static void say(const char *path)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0) err(1, "%s", path);
	close(fd);
}

static int run_load(const struct load *load)
{
	char good[4096];
	sigset_t question;
	sigemptyset(&question);
	sigaddset(&question, SIGUSR1);
	sigprocmask(SIG_BLOCK, &question, NULL);
	load->build();
	snprintf(good, sizeof good, "%s.good", ready);
	say(ready);
	for (;;) {
		wait_for_question(&question, load->ticks, load->writes);
		if (!load->intact()) return 1;
		say(good);
	}
}

static int measure(const char *result, char **command)
{
	struct rusage used;
	int status;
	int64_t start = now();
	pid_t child = fork();
	if (child < 0) err(1, "fork");
	if (child == 0) {
		execv(command[0], command);
		err(127, "%s", command[0]);
	}
	while (wait4(child, &status, 0, &used) < 0) continue;
	int64_t spent = now() - start;
	FILE *file = fopen(result, "w");
	if (!file) err(1, "%s", result);
	fprintf(file, "%lld %ld %d\n", (long long)spent, used.ru_maxrss, status);
	return fclose(file) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (argc > 3 && strcmp(argv[1], "measure") == 0) return measure(argv[2], argv + 3);
	if (argc == 3 && strcmp(argv[1], "peer") == 0) return be_peer(argv[2]);
	if (argc != 4) errx(2, "usage: loads LOAD COUNT READY | loads peer FILE | loads measure RESULT COMMAND...");
	parts = atoi(argv[2]);
	ready = argv[3];
	for (size_t i = 0; i < sizeof loads / sizeof *loads; i++)
		if (strcmp(loads[i].name, argv[1]) == 0) return run_load(&loads[i]);
	errx(2, "no load is called '%s'", argv[1]);
}
