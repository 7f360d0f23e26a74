/*
 * A clock that is SHIFT seconds fast, for programs that have it from the C library;
 * /etc/ld.so.preload puts it into all of them, see ld.so(8). The times that the
 * kernel gives to files stay as they are, since what builds compare is files with
 * files. Without libc, so that it fits the target's as well as the SDK's.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#pragma weak dlsym

static int is_wall(clockid_t id) {
	return id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE || id == CLOCK_TAI;
}

int clock_gettime(clockid_t id, struct timespec *t) {
	int r = syscall(SYS_clock_gettime, id, t);
	if (r == 0 && is_wall(id))
		t->tv_sec += SHIFT;
	return r;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
	struct timespec t;
	int r = clock_gettime(CLOCK_REALTIME, &t);
	(void)zone; /* obsolete, see gettimeofday(2) */
	tv->tv_sec = t.tv_sec;
	tv->tv_usec = t.tv_nsec / 1000;
	return r;
}

time_t time(time_t *to) {
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	if (to)
		*to = t.tv_sec;
	return t.tv_sec;
}

int timespec_get(struct timespec *t, int base) {
	return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, t) == 0 ? base : 0;
}

/*
 * The kernel waits by its own clock, so what waits until a moment has that moment
 * shifted back. Moments of the clocks that count from the machine's start are told
 * by being long ago.
 */
static const struct timespec *back(const struct timespec *until, struct timespec *room) {
	struct timespec now;
	if (!until || syscall(SYS_clock_gettime, CLOCK_REALTIME, &now) || until->tv_sec < now.tv_sec + SHIFT / 2)
		return until;
	*room = *until;
	room->tv_sec -= SHIFT;
	return room;
}

#define WAIT(name, parameters, arguments)                             \
	int name parameters {                                          \
		struct timespec room;                                  \
		int(*next) parameters = dlsym(RTLD_NEXT, #name);       \
		return next arguments;                                 \
	}
WAIT(pthread_cond_timedwait, (pthread_cond_t *restrict c, pthread_mutex_t *restrict m, const struct timespec *restrict t), (c, m, back(t, &room)))
WAIT(pthread_cond_clockwait, (pthread_cond_t *restrict c, pthread_mutex_t *restrict m, clockid_t id, const struct timespec *restrict t), (c, m, id, back(t, &room)))
WAIT(pthread_mutex_timedlock, (pthread_mutex_t *restrict m, const struct timespec *restrict t), (m, back(t, &room)))
WAIT(sem_timedwait, (sem_t *restrict s, const struct timespec *restrict t), (s, back(t, &room)))
WAIT(sem_clockwait, (sem_t *restrict s, clockid_t id, const struct timespec *restrict t), (s, id, back(t, &room)))
