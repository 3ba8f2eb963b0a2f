"""What the kernel, libc and the compiler offer that Cython does not declare."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.time cimport itimerspec

cdef extern from "<sys/epoll.h>" nogil:
    cdef enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
    cdef uint32_t EPOLLIN
    cdef uint32_t EPOLLOUT
    cdef uint32_t EPOLLERR
    cdef uint32_t EPOLLHUP
    cdef uint32_t EPOLLRDHUP
    cdef uint32_t EPOLLET
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int most, int timeout)

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_NONBLOCK
    int EFD_CLOEXEC
    int eventfd(unsigned int value, int flags)

cdef extern from "<sys/timerfd.h>" nogil:
    int TFD_NONBLOCK
    int TFD_CLOEXEC
    int TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* new, itimerspec* old)

cdef extern from "<sys/ioctl.h>" nogil:
    unsigned long FIONREAD
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "<linux/sockios.h>" nogil:
    unsigned long SIOCOUTQ

# Up to where a tcp peer has room, in bytes since the connection is there: what it has acknowledged and
# its window. 0 where the kernel does not say (before 5.4), or if it is no tcp socket. The C library's
# struct tcp_info is older than these fields; the kernel's cannot stand beside it.
cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <sys/socket.h>
    #define ZQ_BYTES_ACKED 120
    #define ZQ_SND_WND 228
    static inline uint64_t zq_window_edge(int fd)
    {
        unsigned char info[ZQ_SND_WND + 4];
        socklen_t size = sizeof(info);
        uint64_t acked;
        uint32_t window;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) < 0 || size < sizeof(info))
            return 0;
        memcpy(&acked, info + ZQ_BYTES_ACKED, sizeof(acked));
        memcpy(&window, info + ZQ_SND_WND, sizeof(window));
        return acked + window;
    }
    """
    uint64_t zq_window_edge(int fd) nogil

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t readv(int fd, const iovec* parts, int count)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    int AF_INET
    int AF_INET6
    int AF_UNIX
    int SOCK_STREAM
    int SOCK_NONBLOCK
    int SOCK_CLOEXEC
    int SOL_SOCKET
    int SO_ERROR
    int SO_KEEPALIVE
    int SO_PEERCRED
    int SO_RCVBUF
    int SO_SNDBUF
    int MSG_NOSIGNAL
    int MSG_DONTWAIT
    int accept4(int fd, sockaddr* address, socklen_t* size, int flags)
    int socket(int family, int kind, int protocol)
    int connect(int fd, const sockaddr* address, socklen_t size)
    int getsockopt(int fd, int level, int option, void* value, socklen_t* size)
    int setsockopt(int fd, int level, int option, const void* value, socklen_t size)
    ssize_t recv(int fd, void* into, size_t size, int flags)
    ssize_t send(int fd, const void* data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_port
        in6_addr sin6_addr
    int IPPROTO_TCP
    unsigned short ntohs(unsigned short value)

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_KEEPCNT
    int TCP_KEEPIDLE
    int TCP_KEEPINTVL
    int TCP_NODELAY

cdef extern from "<arpa/inet.h>" nogil:
    const char* inet_ntop(int family, const void* source, char* into, socklen_t size)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* mutex, void* attributes)
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)

cdef extern from "<sys/mman.h>" nogil:
    int munmap(void* begin, size_t size)

# Memory from the kernel, NULL if there is none; ``size`` is whole pages, and a power of two where that is
# what it is to be aligned to.
cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/mman.h>
    static inline void *zq_map(size_t size)
    {
        void *begin = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return begin == MAP_FAILED ? NULL : begin;
    }
    static inline void *zq_map_aligned(size_t size)
    {
        uintptr_t begin = (uintptr_t) zq_map(size), aligned;
        /* Mostly it lies next to the one before it. */
        if (!(begin & (size - 1)))
            return (void *) begin;
        munmap((void *) begin, size);
        begin = (uintptr_t) zq_map(2 * size);
        if (!begin)
            return NULL;
        aligned = (begin + size - 1) & ~(size - 1);
        if (aligned > begin)
            munmap((void *) begin, aligned - begin);
        if (aligned < begin + size)
            munmap((void *) (aligned + size), begin + size - aligned);
        return (void *) aligned;
    }
    """
    void* zq_map(size_t size) nogil
    void* zq_map_aligned(size_t size) nogil

# In a debug build (ZQUEUE_WIRE=debug or sanitize) what does not hold ends the process and says where;
# in one for use it is not even looked at. Write nothing in it that does something.
cdef extern from *:
    """
    #ifdef ZQ_CHECKS
    #include <stdio.h>
    #include <stdlib.h>
    #define zq_check(holds) \\
        ((holds) ? (void) 0 : ((void) fprintf(stderr, "%s:%d: zq_check failed: %s\\n", \\
            __FILE__, __LINE__, #holds), abort()))
    #define ZQ_CHECKED 1
    #else
    #define zq_check(holds) ((void) 0)
    #define ZQ_CHECKED 0
    #endif
    """
    void zq_check(bint holds) nogil
    bint CHECKED "ZQ_CHECKED"

cdef extern from *:
    """
    #define zq_get(place) __atomic_load_n((place), __ATOMIC_ACQUIRE)
    #define zq_set(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)
    #define zq_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #define zq_leading_zeros(value) __builtin_clzll(value)
    """
    uint64_t zq_get(uint64_t* place) nogil
    void zq_set(uint64_t* place, uint64_t value) nogil
    void zq_fence() nogil
    int zq_leading_zeros(uint64_t value) nogil
