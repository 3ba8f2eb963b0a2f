/* Clients and workers over connections that the parent has opened, handshake done: one thread.
 *
 *   raw_peers BROKER_PID REQUEST_FILE OUTSTANDING TOGETHER CLIENTS WORKERS
 *
 * A client begins new requests once it may begin TOGETHER of them, and sends them in one write.
 * CLIENTS and WORKERS are descriptors: 5,6,7. A worker may be slow: 8:1000 is one that takes 1000 µs
 * a request, one request at a time. See window.h for what is read and printed.
 *
 * This knows no more of ZMTP than where a message ends. A client sends the same encoded requests again
 * and again and counts replies by their bytes. A worker sends back what it reads, once a message is
 * whole: routing id, delimiter and body unchanged are a valid reply. */

#define _GNU_SOURCE

#include <sys/stat.h>

#include "connection.h"

enum { READ_AT_MOST = 1 << 18, EVENTS_AT_ONCE = 256, ENVELOPE_AT_MOST = 512 };

static struct peer *clients;
static size_t client_count;
static char *requests; /* as many as a client may have outstanding, one behind the other */
static size_t request_bytes, window_bytes, together_bytes;
static int64_t received_bytes, sent_requests;
static char *checked; /* where the reply that is compared whole goes */
static size_t checked_bytes;
static bool timed; /* one outstanding: each round trip can be told */
static size_t input_room; /* of a worker: twice what may be there at once, so little is moved */
static bool time_is_up;

/* -- clients ------------------------------------------------------------------------------------- */

static void ask(struct peer *client, size_t count) {
    client->unsent = requests;
    client->unsent_bytes = count * request_bytes;
    client->owed += client->unsent_bytes;
    sent_requests += (int64_t)count;
    if (timed)
        client->sent_at = now();
    send_unsent(client);
}

static void ask_all_that_may_be(struct peer *client) {
    if (!client->unsent_bytes && client->owed + together_bytes <= window_bytes)
        ask(client, (window_bytes - client->owed) / request_bytes);
    watch(client, EPOLLIN | (client->unsent_bytes ? EPOLLOUT : 0));
}

static void handle_client(struct peer *client, uint32_t events) {
    /* TCP throws away what MSG_TRUNC asks for, and copies nothing. */
    static char sink[1 << 22];
    if (events & ~EPOLLOUT) {
        size_t count = moved(checked ? recv(client->fd, checked + checked_bytes,
                                            request_bytes - checked_bytes, MSG_DONTWAIT)
                                     : recv(client->fd, sink, sizeof sink,
                                            MSG_DONTWAIT | MSG_TRUNC), true);
        if (count > client->owed)
            complain("more came back than was asked for");
        checked_bytes += checked ? count : 0;
        received_bytes += (int64_t)count;
        client->owed -= count;
        if (timed && count && !client->owed)
            note_trip(now() - client->sent_at);
    }
    send_unsent(client);
    ask_all_that_may_be(client);
}

/* -- workers ------------------------------------------------------------------------------------- */

static char *unanswered(const struct peer *worker) {
    return worker->unsent + worker->unsent_bytes;
}

/* Bytes of the first message that is not answered, 0 if it is not all there. */
static size_t next_message(const struct peer *worker) {
    const unsigned char *input = (const unsigned char *)unanswered(worker);
    size_t at = 0;
    for (bool more = true; more;) {
        bool is_long = at < worker->input_bytes && input[at] & 2;
        size_t header = is_long ? 9 : 2, size = 0;
        if (at + header > worker->input_bytes)
            return 0;
        for (size_t i = 1; i < header; i++)
            size = size << 8 | input[at + i];
        more = input[at] & 1;
        at += header + size;
    }
    return at <= worker->input_bytes ? at : 0;
}

static void answer(struct peer *worker, size_t message) {
    worker->unsent_bytes += message;
    worker->input_bytes -= message;
}

static void send_answers(struct peer *worker) {
    send_unsent(worker);
    watch(worker, EPOLLIN | (worker->unsent_bytes ? EPOLLOUT : 0));
}

/* A worker reads on while it cannot send, as libzmq's do; a broker may rely on that. */
static void read_input(struct peer *worker) {
    size_t kept = worker->unsent_bytes + worker->input_bytes;
    if (!kept || worker->unsent + kept + READ_AT_MOST > worker->input + input_room) {
        memmove(worker->input, worker->unsent, kept);
        worker->unsent = worker->input;
    }
    worker->input_bytes +=
        moved(recv(worker->fd, worker->unsent + kept, READ_AT_MOST, MSG_DONTWAIT), true);
}

static void serve_next(struct peer *worker) {
    if (!worker->serving && next_message(worker)) {
        worker->serving = true;
        set_timer(worker->other->fd, worker->service_ns);
    }
}

static void handle_worker(struct peer *worker, uint32_t events) {
    if (events & ~EPOLLOUT)
        read_input(worker);
    if (worker->service_ns)
        serve_next(worker);
    else
        for (size_t message; (message = next_message(worker));)
            answer(worker, message);
    send_answers(worker);
}

static void handle_served(struct peer *timer, uint32_t events) {
    (void)events;
    struct peer *worker = timer->other;
    uint64_t expirations;
    moved(read(timer->fd, &expirations, sizeof expirations), true);
    answer(worker, next_message(worker));
    send_answers(worker);
    worker->serving = false;
    serve_next(worker);
}

static void start_worker(struct peer *worker, int64_t service_us) {
    worker->handle = handle_worker;
    worker->unsent = worker->input = malloc(input_room);
    if (!worker->input)
        fail("a worker");
    if (service_us) {
        struct peer *timer = worker->other = calloc(1, sizeof *timer);
        *timer = (struct peer){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK),
                               .handle = handle_served,
                               .other = worker};
        watch(timer, EPOLLIN);
        worker->service_ns = service_us * 1000;
    }
    watch(worker, EPOLLIN);
}

/* -- the loop ------------------------------------------------------------------------------------ */

static void handle_deadline(struct peer *timer, uint32_t events) {
    (void)events;
    uint64_t expirations;
    time_is_up = moved(read(timer->fd, &expirations, sizeof expirations), true) > 0;
}

/* A timerfd, since a timeout of epoll_wait would arm a timer at each wait. */
static void set_deadline(double seconds) {
    static struct peer timer = {.fd = -1, .handle = handle_deadline};
    if (timer.fd < 0) {
        timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        watch(&timer, EPOLLIN);
    }
    time_is_up = false;
    set_timer(timer.fd, (int64_t)(seconds * 1e9) + 1);
}

static void handle_events(void) {
    struct epoll_event events[EVENTS_AT_ONCE];
    int count = epoll_wait(poll_fd, events, EVENTS_AT_ONCE, -1);
    for (int i = 0; i < count; i++) {
        struct peer *peer = events[i].data.ptr;
        peer->handle(peer, events[i].events);
    }
}

static void exchange(double seconds) {
    set_deadline(seconds);
    while (!time_is_up)
        handle_events();
}

static bool take_what_is_owed(struct peer *from, struct peer *end) {
    set_deadline(LAST_REPLIES_WITHIN);
    for (; from < end; from++)
        while (from->owed) {
            if (time_is_up)
                return false;
            handle_events();
        }
    return true;
}

/* One request of each client, the reply compared byte by byte. */
static void check_each(void) {
    checked = malloc(request_bytes);
    for (struct peer *client = clients; client < clients + client_count; client++) {
        checked_bytes = 0;
        ask(client, 1);
        watch(client, EPOLLIN | (client->unsent_bytes ? EPOLLOUT : 0));
        if (!take_what_is_owed(client, client + 1))
            complain("a request was not answered");
        if (memcmp(checked, requests, request_bytes) != 0)
            complain("a reply is not what was asked");
    }
    free(checked);
    checked = NULL;
}

static void run(pid_t broker, size_t outstanding, double warm_up, double seconds) {
    trips.count = 0;
    check_each();
    window_bytes = outstanding * request_bytes;
    for (size_t i = 0; i < client_count; i++)
        ask_all_that_may_be(&clients[i]);
    exchange(warm_up);
    struct sample begin = take_sample(broker);
    int64_t before = received_bytes;
    trips.wanted = true;
    exchange(seconds);
    trips.wanted = false;
    struct sample end = take_sample(broker);
    double answered = (double)(received_bytes - before) / (double)request_bytes;
    window_bytes = 0;
    if (take_what_is_owed(clients, clients + client_count))
        check_each();
    print_result(begin, end, answered, sent_requests, received_bytes / (int64_t)request_bytes);
}

/* -- the start ----------------------------------------------------------------------------------- */

static void load_requests(const char *path, size_t outstanding) {
    struct stat stat;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &stat) != 0)
        fail(path);
    request_bytes = (size_t)stat.st_size;
    requests = malloc(outstanding * request_bytes);
    if (!requests || fread(requests, request_bytes, 1, file) != 1)
        fail(path);
    fclose(file);
    for (size_t i = 1; i < outstanding; i++)
        memcpy(requests + i * request_bytes, requests, request_bytes);
}

static size_t count_of(const char *list) {
    size_t count = 1;
    for (; *list; list++)
        count += *list == ',';
    return count;
}

int main(int argc, char **argv) {
    if (argc != 7)
        complain("raw_peers BROKER_PID REQUEST_FILE OUTSTANDING TOGETHER CLIENTS WORKERS");
    pid_t broker = atoi(argv[1]);
    size_t outstanding = (size_t)atoi(argv[3]);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    timed = outstanding == 1;
    load_requests(argv[2], outstanding);
    together_bytes = (size_t)atoi(argv[4]) * request_bytes;
    clients = calloc(count_of(argv[5]), sizeof *clients);
    for (char *text = strtok(argv[5], ","); text; text = strtok(NULL, ","))
        clients[client_count++] = (struct peer){.fd = atoi(text), .handle = handle_client};
    input_room = 2 * client_count * outstanding * (request_bytes + ENVELOPE_AT_MOST) + READ_AT_MOST;
    struct peer *workers = calloc(count_of(argv[6]), sizeof *workers);
    for (char *text = strtok(argv[6], ","); text; text = strtok(NULL, ",")) {
        int fd = 0;
        long long service_us = 0;
        sscanf(text, "%d:%lld", &fd, &service_us);
        workers->fd = fd;
        start_worker(workers++, service_us);
    }
    double warm_up, seconds;
    while (read_order(&warm_up, &seconds))
        run(broker, outstanding, warm_up, seconds);
    return 0;
}
