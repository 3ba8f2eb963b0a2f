/* Makes system calls, malloc and mmap fail now and then, but only where the wire engine's modules call them.
 *
 * Loaded into a zqueued with LD_PRELOAD; faults.py maps the file that $ZQUEUE_FAULTS names, too, and
 * says there what fails, how and how often, while the daemon runs. What a fault does besides failing
 * is what the kernel does: where it ends short of what there is, a new edge follows.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define MILLION 1000000
#define DESCRIPTORS 65536
#define CALLERS 1024
#define PARTS 64

/* `error` is an errno; of SEND and RECEIVE 0 is: less than there was. */
struct fault {
    uint32_t a_million;
    int32_t error;
    uint64_t happened;
};

static struct faults {
    uint64_t seed;
    struct fault send, receive, accept, add, wait, allocate, grow;
} *faults;

static struct {
    int epoll;
    struct epoll_event event;
} watched[DESCRIPTORS];

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void map_faults(void)
{
    const char *path = getenv("ZQUEUE_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *mapped;

    if (fd < 0)
        return;
    mapped = mmap(NULL, sizeof(struct faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        faults = mapped;
}

/* Whether this address is in one of the engine's modules; it is looked up once. */
static int is_of_the_engine(void *address)
{
    static uintptr_t known[CALLERS];
    uintptr_t *slot = &known[((uintptr_t) address >> 2) % CALLERS];
    uintptr_t found = __atomic_load_n(slot, __ATOMIC_RELAXED);
    Dl_info where;

    if (found >> 1 != (uintptr_t) address) {
        int is = dladdr(address, &where) && strstr(where.dli_fname, "/engine/wire/") != NULL;
        found = (uintptr_t) address << 1 | is;
        __atomic_store_n(slot, found, __ATOMIC_RELAXED);
    }
    return found & 1;
}

/* The same numbers for the same seed (splitmix64). */
static uint64_t a_number(void)
{
    uint64_t z = __atomic_add_fetch(&faults->seed, 0x9E3779B97F4A7C15, __ATOMIC_RELAXED);

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

static int happens(struct fault *fault, void *caller)
{
    if (!__atomic_load_n(&fault->a_million, __ATOMIC_ACQUIRE) || !is_of_the_engine(caller))
        return 0;
    if (a_number() % MILLION >= fault->a_million)
        return 0;
    __atomic_add_fetch(&fault->happened, 1, __ATOMIC_RELEASE);
    return 1;
}

#define HAPPENS(what) (faults && happens(&faults->what, __builtin_return_address(0)))

static int fails(const struct fault *fault)
{
    errno = fault->error;
    return -1;
}

static void give_an_edge(int fd)
{
    if (fd < DESCRIPTORS && watched[fd].epoll)
        REAL(epoll_ctl)(watched[fd].epoll, EPOLL_CTL_MOD, fd, &watched[fd].event);
}

/* Less than all of these parts, in `less`; how many parts that are. */
static int some_of(const struct iovec *parts, int count, struct iovec *less)
{
    size_t left = 1 + a_number() % 3000;
    int place = 0;

    while (place < count && place < PARTS && left) {
        less[place] = parts[place];
        if (less[place].iov_len > left)
            less[place].iov_len = left;
        left -= less[place++].iov_len;
    }
    return place;
}

static ssize_t send_some(int fd, const struct iovec *parts, int count, int flags)
{
    struct iovec less[PARTS];
    struct msghdr message = {.msg_iov = less, .msg_iovlen = some_of(parts, count, less)};

    return REAL(sendmsg)(fd, &message, flags);
}

static ssize_t sends_badly(int fd, const struct iovec *parts, int count, int flags)
{
    if (!faults->send.error)
        return send_some(fd, parts, count, flags);
    if (faults->send.error == EAGAIN)
        give_an_edge(fd);
    return fails(&faults->send);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    struct iovec all = {(void *) data, size};

    return HAPPENS(send) ? sends_badly(fd, &all, 1, flags) : REAL(send)(fd, data, size, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    if (HAPPENS(send))
        return sends_badly(fd, message->msg_iov, message->msg_iovlen, flags);
    return REAL(sendmsg)(fd, message, flags);
}

static ssize_t receives_badly(int fd, const struct iovec *parts, int count)
{
    struct iovec less[PARTS];
    ssize_t got;

    if (!faults->receive.error) {
        got = REAL(readv)(fd, less, some_of(parts, count, less));
        give_an_edge(fd);
        return got;
    }
    if (faults->receive.error == EAGAIN)
        give_an_edge(fd);
    return fails(&faults->receive);
}

ssize_t recv(int fd, void *into, size_t size, int flags)
{
    struct iovec all = {into, size};

    return HAPPENS(receive) ? receives_badly(fd, &all, 1) : REAL(recv)(fd, into, size, flags);
}

ssize_t readv(int fd, const struct iovec *parts, int count)
{
    return HAPPENS(receive) ? receives_badly(fd, parts, count) : REAL(readv)(fd, parts, count);
}

int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    if (!HAPPENS(accept))
        return REAL(accept4)(fd, address, size, flags);
    if (faults->accept.error == ECONNABORTED)
        close(REAL(accept4)(fd, address, size, flags));
    return fails(&faults->accept);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    if (operation == EPOLL_CTL_ADD && HAPPENS(add))
        return fails(&faults->add);
    if (fd < DESCRIPTORS && event && is_of_the_engine(__builtin_return_address(0))) {
        watched[fd].epoll = epoll;
        watched[fd].event = *event;
    }
    return REAL(epoll_ctl)(epoll, operation, fd, event);
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout)
{
    return HAPPENS(wait) ? fails(&faults->wait) : REAL(epoll_wait)(epoll, events, most, timeout);
}

/* Most of its memory the engine has of the kernel, and cuts it up itself. With large offsets, as Python's
 * headers ask for, this is mmap. */
void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset)
{
    if (HAPPENS(allocate)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return REAL(mmap64)(address, size, protection, flags, fd, offset);
}

void *malloc(size_t size)
{
    return HAPPENS(allocate) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return HAPPENS(allocate) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *block, size_t size)
{
    return HAPPENS(grow) ? NULL : __libc_realloc(block, size);
}
