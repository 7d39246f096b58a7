/* A clock that jumps by twenty years, ahead and back, every few times that it is read: for LD_PRELOAD. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    static unsigned reads;
    static const time_t years = 20L * 365 * 86400;
    int failed = (int)syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_REALTIME) time->tv_sec += years * ((time_t)(reads++ / 25 % 3) - 1);
    return failed;
}
