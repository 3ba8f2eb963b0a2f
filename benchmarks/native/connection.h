/* A connection of an epoll loop, and what it has yet to send. */

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "window.h"

static int poll_fd;

struct peer {
    int fd;
    uint32_t wanted;
    void (*handle)(struct peer *, uint32_t events);
    char *unsent;
    size_t unsent_bytes;
    /* a client */
    size_t owed;
    int64_t sent_at;
    /* a worker */
    char *input;
    size_t input_bytes; /* read, not yet answered; they follow the unsent */
    int64_t service_ns;
    bool serving;
    struct peer *other; /* a slow worker's timer, the timer's worker */
};

/* A result of recv or send, 0 for "not now". */
static size_t moved(ssize_t result, bool receiving) {
    if (result > 0)
        return (size_t)result;
    if (result == 0 && receiving)
        complain("the broker closed a connection");
    if (result < 0 && errno != EAGAIN)
        fail("a connection to the broker");
    return 0;
}

static void watch(struct peer *peer, uint32_t wanted) {
    struct epoll_event event = {.events = wanted, .data.ptr = peer};
    if (peer->wanted == wanted)
        return;
    if (epoll_ctl(poll_fd, peer->wanted ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, peer->fd, &event) != 0)
        fail("epoll_ctl");
    peer->wanted = wanted;
}

static void set_timer(int fd, int64_t nanoseconds) {
    struct itimerspec due = {.it_value = {nanoseconds / 1000000000, nanoseconds % 1000000000}};
    timerfd_settime(fd, 0, &due, NULL);
}

static void send_unsent(struct peer *peer) {
    while (peer->unsent_bytes) {
        size_t sent = moved(
            send(peer->fd, peer->unsent, peer->unsent_bytes, MSG_DONTWAIT | MSG_NOSIGNAL), false);
        if (!sent)
            break;
        peer->unsent += sent;
        peer->unsent_bytes -= sent;
    }
}
