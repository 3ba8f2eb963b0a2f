/* What both programs share: the window that is measured, its figures, the orders for it.
 *
 * An order is a line "WARM_UP SECONDS" on standard input, its result one line of JSON. */

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static const int LAST_REPLIES_WITHIN = 20; /* seconds */

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void complain(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static int64_t read_clock(clockid_t clock) {
    struct timespec time;
    if (clock_gettime(clock, &time) != 0)
        fail("the clock of the broker");
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int64_t now(void) { return read_clock(CLOCK_MONOTONIC); }

/* As cpu.Sample: nanoseconds of the clock, of the broker, of this process, and those that the CPUs
 * on which this process may run were not idle. */
struct sample {
    int64_t time, broker, peers, busy;
};

static int64_t busy(void) {
    cpu_set_t ours;
    sched_getaffinity(0, sizeof ours, &ours);
    FILE *stat = fopen("/proc/stat", "r");
    if (!stat)
        fail("/proc/stat");
    char line[512];
    long long ticks = 0;
    while (fgets(line, sizeof line, stat)) {
        int cpu;
        long long user, nice, system, irq, softirq, steal;
        if (line[3] != ' ' && /* the sum of all */
            sscanf(line, "cpu%d %lld %lld %lld %*d %*d %lld %lld %lld", &cpu, &user,
                   &nice, &system, &irq, &softirq, &steal) == 7 &&
            CPU_ISSET(cpu, &ours))
            ticks += user + nice + system + irq + softirq + steal;
    }
    fclose(stat);
    return ticks * (1000000000LL / sysconf(_SC_CLK_TCK));
}

static struct sample take_sample(pid_t broker) {
    clockid_t clock;
    if (clock_getcpuclockid(broker, &clock) != 0)
        complain("the broker has ended");
    return (struct sample){now(), read_clock(clock), read_clock(CLOCK_PROCESS_CPUTIME_ID), busy()};
}

/* Round trips in nanoseconds, of the window only. */
static struct {
    bool wanted;
    size_t count, room;
    int64_t *took;
} trips;

static void note_trip(int64_t took) {
    if (!trips.wanted)
        return;
    if (trips.count == trips.room) {
        trips.room = trips.room ? 2 * trips.room : 1 << 16;
        trips.took = realloc(trips.took, trips.room * sizeof *trips.took);
        if (!trips.took)
            fail("round trips");
    }
    trips.took[trips.count++] = took;
}

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t quantile(double share) {
    size_t at = (size_t)(share * (double)trips.count);
    return trips.took[at < trips.count ? at : trips.count - 1];
}

static bool read_order(double *warm_up, double *seconds) {
    return scanf("%lf %lf", warm_up, seconds) == 2;
}

/* `answered` is within the window, `sent` and `total_answered` are of the whole run. */
static void print_result(struct sample begin, struct sample end, double answered, int64_t sent,
                         int64_t total_answered) {
    printf("{\"time\": %lld, \"broker\": %lld, \"peers\": %lld, \"busy\": %lld, "
           "\"answered\": %.3f, \"sent\": %lld, \"total_answered\": %lld",
           (long long)(end.time - begin.time), (long long)(end.broker - begin.broker),
           (long long)(end.peers - begin.peers), (long long)(end.busy - begin.busy), answered,
           (long long)sent, (long long)total_answered);
    if (trips.count) {
        qsort(trips.took, trips.count, sizeof *trips.took, compare);
        printf(", \"p50\": %lld, \"p99\": %lld", (long long)quantile(0.5),
               (long long)quantile(0.99));
    }
    printf("}\n");
    fflush(stdout);
}
