/*
 * A whole device on a POSIX host: a wrist that swings, at 100 Hz, ten samples a packet. What a firmware has to add to
 * kinedge_wire.c is what is in here, with a UART or BLE driver in place of read and write.
 *
 *     cc -std=c99 -O2 example_main.c kinedge_wire.c -lm -o kinedge_example
 *     ./kinedge_example | xxd | head             frames to stdout, requests from stdin
 *     ./kinedge_example /tmp/wrist_left          the same on a tty of its own, linked at this path
 *     ./kinedge_example /tmp/wrist_right wrist_right
 */
#define _XOPEN_SOURCE 600

#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "kinedge_wire.h"

#define STREAM_ID 1
#define INTERVAL_NS 10000000u
#define INTERVAL_US (INTERVAL_NS / 1000)
#define PACKET_SAMPLES 10
#define N_CHANNELS 6
#define PAYLOAD_SIZE 192
#define GRAVITY 9.80665
#define PI 3.14159265358979
#define ACC_RANGE (16 * GRAVITY)      /* m/s^2 */
#define GYR_RANGE (2000 * PI / 180.0) /* rad/s */
#define ACC_SCALE ((float)(ACC_RANGE / 32768))
#define GYR_SCALE ((float)(GYR_RANGE / 32768))

static const kinedge_channel CHANNELS[N_CHANNELS] = {
    {KINEDGE_CHANNEL(KINEDGE_ACC, KINEDGE_X), ACC_SCALE, (float)ACC_RANGE},
    {KINEDGE_CHANNEL(KINEDGE_ACC, KINEDGE_Y), ACC_SCALE, (float)ACC_RANGE},
    {KINEDGE_CHANNEL(KINEDGE_ACC, KINEDGE_Z), ACC_SCALE, (float)ACC_RANGE},
    {KINEDGE_CHANNEL(KINEDGE_GYR, KINEDGE_X), GYR_SCALE, (float)GYR_RANGE},
    {KINEDGE_CHANNEL(KINEDGE_GYR, KINEDGE_Y), GYR_SCALE, (float)GYR_RANGE},
    {KINEDGE_CHANNEL(KINEDGE_GYR, KINEDGE_Z), GYR_SCALE, (float)GYR_RANGE},
};

/* ---- the board: a clock, a line, a sensor ---- */

static uint64_t start_us;
static int line_in = STDIN_FILENO;
static int line_out = STDOUT_FILENO;
static int cut_short; /* the last frame was not taken whole */

static uint64_t monotonic_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static uint64_t now_us(void) {
    return monotonic_us() - start_us;
}

/* Make a tty and a link to it; both sides stay open here, so that a host may come and go. */
static int open_tty(const char *link_path) {
    const int master = posix_openpt(O_RDWR | O_NOCTTY);
    struct termios raw;
    const char *name;
    int slave;
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0 || (name = ptsname(master)) == NULL) {
        return -1;
    }
    slave = open(name, O_RDWR | O_NOCTTY);
    if (slave < 0 || tcgetattr(slave, &raw) != 0) {
        return -1;
    }
    raw.c_iflag = 0;
    raw.c_oflag = 0;
    raw.c_lflag = 0;
    raw.c_cflag = CS8 | CREAD | CLOCAL;
    if (tcsetattr(slave, TCSANOW, &raw) != 0 || fcntl(master, F_SETFL, O_NONBLOCK) != 0) {
        return -1;
    }
    unlink(link_path);
    if (symlink(name, link_path) != 0) {
        return -1;
    }
    line_in = line_out = master;
    return 0;
}

/* Frame a payload and send it without waiting; returns whether the line took it. */
static int send_payload(const uint8_t *payload, int n) {
    uint8_t frame[1 + KINEDGE_FRAME_SIZE(PAYLOAD_SIZE)];
    ssize_t sent;
    frame[0] = 0; /* ends a frame that was cut short before; otherwise left out */
    n = kinedge_encode_frame(frame + 1, sizeof frame - 1, payload, n);
    if (n < 0) {
        fprintf(stderr, "encoder refuses: %d\n", n);
        exit(1);
    }
    sent = cut_short ? write(line_out, frame, (size_t)n + 1) : write(line_out, frame + 1, (size_t)n);
    if (sent < 0) {
        return 0;
    }
    n += cut_short;
    cut_short = sent != n;
    return !cut_short;
}

static int16_t to_count(double value, double scale) {
    const double count = value / scale;
    return count >= 32767 ? 32767 : count <= -32767 ? -32767 : (int16_t)lrint(count);
}

/* Sample i: the forearm swings by 0.6 rad at 0.9 Hz about its y axis. */
static void measure(uint64_t i, int16_t *counts) {
    const double phase = 2 * PI * 0.9 * (double)i * INTERVAL_NS * 1e-9;
    const double angle = 0.6 * sin(phase);
    counts[0] = to_count(-GRAVITY * sin(angle), ACC_SCALE);
    counts[1] = 0;
    counts[2] = to_count(GRAVITY * cos(angle), ACC_SCALE);
    counts[3] = 0;
    counts[4] = to_count(0.6 * 2 * PI * 0.9 * cos(phase), GYR_SCALE);
    counts[5] = 0;
}

/* ---- the protocol: what stays the same on any board ---- */

static uint8_t payload[PAYLOAD_SIZE];
static uint32_t boot_id;
static uint32_t dropped;
static uint8_t overflowed;

static void send_hello(const char *sensor) {
    kinedge_hello hello = {STREAM_ID, 0, INTERVAL_NS, NULL, "KINEDGE-EXAMPLE", CHANNELS, N_CHANNELS};
    hello.boot_id = boot_id;
    hello.sensor = sensor;
    send_payload(payload, kinedge_encode_hello(payload, sizeof payload, &hello));
}

static void send_status(void) {
    kinedge_status status = {STREAM_ID, 0, KINEDGE_BATTERY_UNKNOWN, 0, KINEDGE_TEMPERATURE_UNKNOWN, 0, 0};
    status.boot_id = boot_id;
    status.dropped = dropped;
    status.uptime_us = now_us();
    send_payload(payload, kinedge_encode_status(payload, sizeof payload, &status));
}

static void send_samples(uint64_t first) {
    int16_t counts[PACKET_SAMPLES * N_CHANNELS];
    kinedge_samples samples = {STREAM_ID, 0, 0, INTERVAL_NS, PACKET_SAMPLES, N_CHANNELS, 0, NULL};
    int i;
    for (i = 0; i < PACKET_SAMPLES; i++) {
        measure(first + (uint64_t)i, counts + i * N_CHANNELS);
    }
    samples.sequence = (uint16_t)first;
    samples.t_us = first * INTERVAL_US;
    samples.flags = overflowed ? KINEDGE_FLAG_OVERFLOWED : 0;
    samples.counts = counts;
    if (send_payload(payload, kinedge_encode_samples(payload, sizeof payload, &samples))) {
        overflowed = 0;
    } else {
        overflowed = 1;
        dropped += PACKET_SAMPLES;
    }
}

static void answer(const uint8_t *request_payload, int n, const char *sensor) {
    const uint64_t t2_us = now_us(); /* as early as the driver can tell */
    kinedge_request request;
    const int type = kinedge_parse_request(request_payload, (size_t)n, &request);
    if (type < 0 || !kinedge_request_is_for(&request, STREAM_ID)) {
        return;
    }
    if (type == KINEDGE_HELLO_REQUEST) {
        send_hello(sensor);
    } else {
        send_payload(payload, kinedge_encode_time_sync(payload, sizeof payload, STREAM_ID, &request, t2_us, now_us()));
    }
}

int main(int argc, char **argv) {
    const char *sensor = argc > 2 ? argv[2] : "wrist_left";
    uint8_t buffer[KINEDGE_REQUEST_BUFFER_SIZE];
    kinedge_decoder decoder;
    uint64_t next_sample = 0, next_hello_us = 0, next_status_us = KINEDGE_STATUS_EVERY_US;
    struct pollfd line;
    if (argc > 1 && open_tty(argv[1]) != 0) {
        perror(argv[1]);
        return 1;
    }
    start_us = monotonic_us();
    boot_id = (uint32_t)start_us ^ (uint32_t)getpid() << 16;
    kinedge_decoder_init(&decoder, buffer, sizeof buffer);
    line.fd = line_in;
    line.events = POLLIN;
    for (;;) {
        /* a packet is due when its last sample has been taken */
        const uint64_t due_us = (next_sample + PACKET_SAMPLES - 1) * INTERVAL_US;
        const uint64_t now = now_us();
        if (now >= next_hello_us) {
            send_hello(sensor);
            next_hello_us += KINEDGE_HELLO_EVERY_US;
        }
        if (now >= next_status_us) {
            send_status();
            next_status_us += KINEDGE_STATUS_EVERY_US;
        }
        if (now >= due_us) {
            send_samples(next_sample);
            next_sample += PACKET_SAMPLES;
            continue;
        }
        line.revents = 0;
        if (poll(&line, 1, (int)((due_us - now) / 1000 + 1)) > 0) {
            uint8_t bytes[64];
            const ssize_t n_read = read(line_in, bytes, sizeof bytes);
            ssize_t i;
            if (n_read <= 0 && argc < 2) {
                line.fd = -1; /* stdin has ended: nobody will ask anything */
            }
            for (i = 0; i < n_read; i++) {
                const int n = kinedge_decoder_push(&decoder, bytes[i]);
                if (n > 0) {
                    answer(buffer, n, sensor);
                }
            }
        }
    }
}
