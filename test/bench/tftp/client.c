// TFTP clients that cost little themselves, so that a server is measured: RFC 1350, 2347, 2348, 7440.
// usage: client ADDRESS PORT NAME COPY BLKSIZE WINDOWSIZE CLIENTS SECONDS LIMIT
// CLIENTS at once fetch NAME again and again for SECONDS (at least once, each to its end) and compare every block with
// the file COPY. After LIMIT seconds all is broken off. Prints one line of JSON; rates are in bytes per second.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_RCVBUFFORCE
#define SO_RCVBUFFORCE 33
#endif

enum { RRQ = 1, DATA = 3, ACK = 4, ERROR = 5, OACK = 6 };
enum { BATCH = 64, RETRIES = 60, RECEIVE_BUFFER = 8 << 20 };
// What curl and busybox wait before they say their last packet again, about.
static const double timeout_s = 1, tick_s = 0.02;

struct client {
  int fd, connected, ended;
  int block_size, window;  // as agreed
  long offset;             // bytes that have come, in order
  long expected;           // the next block, counted from 1 without rollover
  long window_end;         // the block that is acknowledged
  int gap_told, resent;    // a gap was answered already; a window that begins with known blocks is coming in
  int retries;
  double heard, began, end;
  long total;              // bytes of all its transfers
};

static struct sockaddr_in server;
static const char *name;
static const unsigned char *copy;
static long copy_size;
static int wanted_block_size, wanted_window;
static int epoll_fd, running;
static double seconds;
static long repeats, timeouts, transfers;
static char failure[120];
static int agreed_block_size, agreed_window;

static unsigned char *buffers;
static size_t stride;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what) {
  perror(what);
  exit(2);
}

static void finish(struct client *c) {
  close(c->fd);
  c->ended = 1;
  c->end = now();
  running--;
}

static void fail(struct client *c, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  if (failure[0] == 0) vsnprintf(failure, sizeof failure, format, arguments);
  va_end(arguments);
  finish(c);
}

static void request(struct client *c) {
  char packet[600];
  int length = 2;
  packet[0] = 0;
  packet[1] = RRQ;
  length += sprintf(packet + length, "%s", name) + 1;
  length += sprintf(packet + length, "octet") + 1;
  if (wanted_block_size != 512) {
    length += sprintf(packet + length, "blksize") + 1;
    length += sprintf(packet + length, "%d", wanted_block_size) + 1;
  }
  if (wanted_window != 1) {
    length += sprintf(packet + length, "windowsize") + 1;
    length += sprintf(packet + length, "%d", wanted_window) + 1;
  }
  sendto(c->fd, packet, length, 0, (struct sockaddr *)&server, sizeof server);
}

static void acknowledge(struct client *c) {
  long last = c->expected - 1;
  unsigned char packet[4] = {0, ACK, last >> 8, last};
  c->window_end = last + c->window;
  c->resent = 0;
  send(c->fd, packet, sizeof packet, 0);
}

static void begin(struct client *c) {
  double began = c->began;
  long total = c->total;
  memset(c, 0, sizeof *c);
  c->began = began;
  c->total = total;
  c->block_size = 512;
  c->window = 1;
  c->expected = c->window_end = 1;
  c->heard = now();
  c->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (c->fd < 0) die("socket");
  int size = RECEIVE_BUFFER;
  setsockopt(c->fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
  if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0) die("epoll_ctl");
  request(c);
}

static void complete(struct client *c) {
  if (c->offset != copy_size) return fail(c, "%ld bytes instead of %ld", c->offset, copy_size);
  transfers++;
  agreed_block_size = c->block_size;
  agreed_window = c->window;
  if (now() - c->began >= seconds) return finish(c);
  close(c->fd);
  begin(c);
}

static void on_options(struct client *c, char *text, char *end) {
  if (c->expected != 1) return;
  while (text < end) {
    char *key = text, *value = key + strnlen(key, end - key) + 1;
    if (value >= end) break;
    text = value + strnlen(value, end - value) + 1;
    if (text > end) break;
    if (!strcasecmp(key, "blksize")) c->block_size = atoi(value);
    if (!strcasecmp(key, "windowsize")) c->window = atoi(value);
  }
  if (c->block_size < 8 || c->block_size > wanted_block_size || c->window < 1 || c->window > wanted_window)
    return fail(c, "options that nobody asked for");
  c->heard = now();
  acknowledge(c);
}

static void on_data(struct client *c, const unsigned char *packet, int length) {
  uint16_t number = packet[2] << 8 | packet[3];
  long block = c->expected + (int16_t)(number - (uint16_t)c->expected);
  if (block == c->expected) {
    int bytes = length - 4;
    if (bytes > c->block_size || c->offset + bytes > copy_size || memcmp(copy + c->offset, packet + 4, bytes))
      return fail(c, "wrong bytes at %ld", c->offset);
    c->offset += bytes;
    c->total += bytes;
    c->expected++;
    c->gap_told = c->retries = 0;
    if (bytes < c->block_size || block >= c->window_end) acknowledge(c);
    if (bytes < c->block_size) complete(c);
  } else if (block > c->expected) {
    // Once: the rest of the window says nothing new.
    if (!c->gap_told) acknowledge(c);
    c->gap_told = 1;
  } else {
    repeats++;
    // The server did not hear an ACK and sends a window again; its end is counted from where it begins.
    if (!c->resent) c->window_end = block + c->window - 1;
    c->resent = 1;
    c->gap_told = 0;
    if (block >= c->window_end) acknowledge(c);
  }
}

static void on_packet(struct client *c, unsigned char *packet, int length) {
  if (length < 4) return;
  int opcode = packet[0] << 8 | packet[1];
  if (opcode == DATA) return on_data(c, packet, length);
  if (opcode == OACK) return on_options(c, (char *)packet + 2, (char *)packet + length);
  if (opcode == ERROR) return fail(c, "ERROR %d %.*s", packet[2] << 8 | packet[3], length - 4, packet + 4);
}

static void receive(struct client *c) {
  static struct mmsghdr messages[BATCH];
  static struct iovec vectors[BATCH];
  struct sockaddr_in from;
  for (int i = 0; i < BATCH; i++) {
    vectors[i] = (struct iovec){buffers + i * stride, stride};
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
  }
  messages[0].msg_hdr.msg_name = &from;
  messages[0].msg_hdr.msg_namelen = sizeof from;
  // The first answer tells the server's port for this transfer.
  int count = recvmmsg(c->fd, messages, c->connected ? BATCH : 1, MSG_DONTWAIT, NULL);
  if (count < 0) {
    if (errno == ECONNREFUSED) fail(c, "the server closed its port after %ld bytes", c->offset);
    return;
  }
  if (!c->connected) {
    if (from.sin_addr.s_addr != server.sin_addr.s_addr) return;
    if (connect(c->fd, (struct sockaddr *)&from, sizeof from) < 0) die("connect");
    c->connected = 1;
  }
  c->heard = now();
  // What follows the end of a transfer is of no use to the next one.
  long before = transfers;
  for (int i = 0; i < count && !c->ended && transfers == before; i++)
    on_packet(c, buffers + i * stride, messages[i].msg_len);
}

static void on_silence(struct client *c) {
  timeouts++;
  if (++c->retries > RETRIES) return fail(c, "silence after %ld bytes", c->offset);
  c->heard = now();
  c->gap_told = 0;
  if (c->connected) acknowledge(c);
  else request(c);
}

int main(int count, char **words) {
  if (count != 10) {
    fprintf(stderr, "usage: client ADDRESS PORT NAME COPY BLKSIZE WINDOWSIZE CLIENTS SECONDS LIMIT\n");
    return 2;
  }
  server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(words[2]))};
  if (inet_pton(AF_INET, words[1], &server.sin_addr) != 1) die("ADDRESS");
  name = words[3];
  int file = open(words[4], O_RDONLY);
  struct stat status;
  if (file < 0 || fstat(file, &status) < 0) die(words[4]);
  copy_size = status.st_size;
  copy = mmap(NULL, copy_size, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
  if (copy == MAP_FAILED) die("mmap");
  wanted_block_size = atoi(words[5]);
  wanted_window = atoi(words[6]);
  int clients = running = atoi(words[7]);
  seconds = atof(words[8]);
  double limit = atof(words[9]);

  stride = (wanted_block_size + 4 + 63) & ~63;
  buffers = malloc(BATCH * stride);
  struct client *all = calloc(clients, sizeof *all);
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  double began = now(), ticked = began;
  for (int i = 0; i < clients; i++) {
    all[i].began = now();
    begin(&all[i]);
  }
  while (running > 0) {
    struct epoll_event events[64];
    int ready = epoll_wait(epoll_fd, events, 64, tick_s * 1000);
    for (int i = 0; i < ready; i++) {
      struct client *c = events[i].data.ptr;
      if (!c->ended) receive(c);
    }
    double time = now();
    if (time - ticked < tick_s) continue;
    ticked = time;
    for (int i = 0; i < clients; i++) {
      if (all[i].ended) continue;
      if (time - began > limit) fail(&all[i], "not done after %.0f s", limit);
      else if (time - all[i].heard > timeout_s) on_silence(&all[i]);
    }
  }
  double end = began, slowest = 1e18, fastest = 0;
  long bytes = 0;
  for (int i = 0; i < clients; i++) {
    double rate = all[i].total / (all[i].end - all[i].began);
    bytes += all[i].total;
    if (all[i].end > end) end = all[i].end;
    if (rate < slowest) slowest = rate;
    if (rate > fastest) fastest = rate;
  }
  for (char *c = failure; *c; c++)
    if (*c < ' ' || *c == '"' || *c == '\\') *c = ' ';
  printf("{\"bytes\":%ld,\"rate\":%.0f,\"slowest\":%.0f,\"fastest\":%.0f,\"transfers\":%ld,\"blksize\":%d,"
         "\"windowsize\":%d,\"repeats\":%ld,\"timeouts\":%ld,\"failure\":\"%s\"}\n",
         bytes, bytes / (end - began), slowest, fastest, transfers, agreed_block_size, agreed_window, repeats, timeouts,
         failure);
  return 0;
}
