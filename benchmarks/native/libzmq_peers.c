/* Clients and workers of libzmq: the clients in one thread, each worker in its own.
 *
 *   libzmq_peers BROKER_PID REQUEST_FILE OUTSTANDING FRONTEND CLIENTS BACKEND WORKERS
 *
 * With one request outstanding in all the client is a REQ and each round trip is timed, else the
 * clients are DEALERs. The workers are REPs. Each worker has a context, and so an I/O thread, of its
 * own, as it would have in real life. See window.h for what is read and printed. */

#define _GNU_SOURCE

#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>

#include "window.h"

/* The little of zmq.h that is needed, so that libzmq itself is enough: it comes with pyzmq. */
enum { ZMQ_REQ = 3, ZMQ_REP = 4, ZMQ_DEALER = 5, ZMQ_RCVTIMEO = 27 };
enum { ZMQ_DONTWAIT = 1, ZMQ_SNDMORE = 2, ZMQ_POLLIN = 1 };
typedef struct {
    void *socket;
    int fd;
    short events, revents;
} zmq_pollitem_t;
void *zmq_ctx_new(void);
void *zmq_socket(void *context, int type);
int zmq_connect(void *socket, const char *endpoint);
int zmq_setsockopt(void *socket, int option, const void *value, size_t size);
int zmq_send(void *socket, const void *data, size_t size, int flags);
int zmq_recv(void *socket, void *data, size_t size, int flags);
int zmq_poll(zmq_pollitem_t *items, int count, long timeout_ms);

static char *request, *reply;
static size_t request_bytes;
static int64_t sent, answered;

static void *connected(void *context, int type, const char *endpoint) {
    void *socket = zmq_socket(context, type);
    if (!socket || zmq_connect(socket, endpoint) != 0)
        fail(endpoint);
    return socket;
}

static void *serve(void *endpoint) {
    char *body = malloc(request_bytes);
    void *rep = connected(zmq_ctx_new(), ZMQ_REP, endpoint);
    for (;;) {
        int size = zmq_recv(rep, body, request_bytes, 0);
        if (size < 0 || zmq_send(rep, body, (size_t)size, 0) < 0)
            fail("a worker");
    }
    return NULL;
}

static void send_body(void *socket) {
    if (zmq_send(socket, request, request_bytes, 0) < 0)
        fail("a client");
    sent++;
}

static void receive_body(void *socket) {
    int size = zmq_recv(socket, reply, request_bytes, 0);
    if (size < 0)
        fail("a request was not answered");
    if ((size_t)size != request_bytes || memcmp(reply, request, request_bytes) != 0)
        complain("a reply is not what was asked");
    answered++;
}

/* -- one REQ ------------------------------------------------------------------------------------- */

static void round_trips_until(void *req, int64_t end) {
    for (int64_t begin = now(), done; begin < end; begin = done) {
        send_body(req);
        receive_body(req);
        done = now();
        note_trip(done - begin);
    }
}

/* -- DEALERs ------------------------------------------------------------------------------------- */

static void ask(void *dealer) {
    if (zmq_send(dealer, "", 0, ZMQ_SNDMORE) < 0)
        fail("a client");
    send_body(dealer);
}

static void take_replies(void *dealer, bool ask_again) {
    while (zmq_recv(dealer, reply, request_bytes, ZMQ_DONTWAIT) == 0) {
        receive_body(dealer);
        if (ask_again)
            ask(dealer);
    }
    if (errno != EAGAIN)
        fail("a client");
}

static void exchange_once(zmq_pollitem_t *dealers, int count, bool ask_again) {
    if (zmq_poll(dealers, count, 100) < 0)
        fail("zmq_poll");
    for (int i = 0; i < count; i++)
        if (dealers[i].revents & ZMQ_POLLIN)
            take_replies(dealers[i].socket, ask_again);
}

static void exchange_until(zmq_pollitem_t *dealers, int count, int64_t end) {
    while (now() < end)
        exchange_once(dealers, count, true);
}

/* -- both ---------------------------------------------------------------------------------------- */

static void run(pid_t broker, int outstanding, zmq_pollitem_t *clients, int count, double warm_up,
                double seconds) {
    bool is_req = count == 1 && outstanding == 1;
    trips.count = 0;
    for (int i = 0; i < count && !is_req; i++)
        for (int j = 0; j < outstanding; j++)
            ask(clients[i].socket);
    int64_t begins = now() + (int64_t)(warm_up * 1e9);
    is_req ? round_trips_until(clients->socket, begins) : exchange_until(clients, count, begins);
    struct sample begin = take_sample(broker);
    int64_t before = answered, ends = begin.time + (int64_t)(seconds * 1e9);
    trips.wanted = true;
    is_req ? round_trips_until(clients->socket, ends) : exchange_until(clients, count, ends);
    trips.wanted = false;
    struct sample end = take_sample(broker);
    double in_window = (double)(answered - before);
    int64_t give_up = now() + LAST_REPLIES_WITHIN * 1000000000LL;
    while (sent > answered && now() < give_up)
        exchange_once(clients, count, false);
    print_result(begin, end, in_window, sent, answered);
}

static void load_request(const char *path) {
    struct stat stat;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &stat) != 0)
        fail(path);
    request_bytes = (size_t)stat.st_size;
    request = malloc(request_bytes);
    reply = malloc(request_bytes);
    if (fread(request, request_bytes, 1, file) != 1)
        fail(path);
    fclose(file);
}

int main(int argc, char **argv) {
    if (argc != 8)
        complain("libzmq_peers BROKER_PID REQUEST_FILE OUTSTANDING FRONTEND CLIENTS BACKEND "
                 "WORKERS");
    pid_t broker = atoi(argv[1]);
    int outstanding = atoi(argv[3]), count = atoi(argv[5]);
    load_request(argv[2]);
    pthread_t thread;
    for (int i = 0; i < atoi(argv[7]); i++)
        pthread_create(&thread, NULL, serve, argv[6]);
    zmq_pollitem_t *clients = calloc((size_t)count, sizeof *clients);
    void *context = zmq_ctx_new();
    int type = count == 1 && outstanding == 1 ? ZMQ_REQ : ZMQ_DEALER;
    int timeout_ms = LAST_REPLIES_WITHIN * 1000;
    for (int i = 0; i < count; i++) {
        clients[i] = (zmq_pollitem_t){connected(context, type, argv[4]), 0, ZMQ_POLLIN, 0};
        zmq_setsockopt(clients[i].socket, ZMQ_RCVTIMEO, &timeout_ms, sizeof timeout_ms);
    }
    double warm_up, seconds;
    while (read_order(&warm_up, &seconds))
        run(broker, outstanding, clients, count, warm_up, seconds);
    exit(0);
}
