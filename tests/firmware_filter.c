/*
 * Lets a test talk to kinedge_wire.c. Requests on stdin: operation u8, body length u32, body. Answers on stdout:
 * result i32, length u32, bytes. All little-endian. Every buffer handed to the library has exactly the size it is said
 * to have, so that the address sanitizer sees a single byte too many.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kinedge_wire.h"

static const uint8_t *in;
static size_t left;
static uint8_t *answer;
static size_t n_answer;

static uint64_t take(int n_bytes) {
    uint64_t value = 0;
    int i;
    if (left < (size_t)n_bytes) {
        fprintf(stderr, "request too short\n");
        exit(2);
    }
    for (i = 0; i < n_bytes; i++) {
        value |= (uint64_t)in[i] << 8 * i;
    }
    in += n_bytes;
    left -= (size_t)n_bytes;
    return value;
}

static float take_float(void) {
    const uint32_t bits = (uint32_t)take(4);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void *exactly(size_t size) {
    void *made = malloc(size ? size : 1);
    if (made == NULL) {
        exit(2);
    }
    return made;
}

static void *take_copy(size_t size) {
    void *made = exactly(size);
    if (left < size) {
        exit(2);
    }
    memcpy(made, in, size);
    in += size;
    left -= size;
    return made;
}

static char *take_text(void) {
    const size_t n = (size_t)take(1);
    char *text = exactly(n + 1);
    char *bytes = take_copy(n);
    memcpy(text, bytes, n);
    text[n] = '\0';
    free(bytes);
    return text;
}

static void give(const void *bytes, size_t n) {
    answer = realloc(answer, n_answer + n + 1);
    if (answer == NULL) {
        exit(2);
    }
    memcpy(answer + n_answer, bytes, n);
    n_answer += n;
}

static void give_number(uint64_t value, int n_bytes) {
    int i;
    for (i = 0; i < n_bytes; i++) {
        const uint8_t byte = (uint8_t)(value >> 8 * i);
        give(&byte, 1);
    }
}

static int encode_hello(uint8_t *out, size_t size) {
    kinedge_channel *channels;
    kinedge_hello hello;
    char *sensor, *serial;
    int n, i;
    hello.stream_id = (uint8_t)take(1);
    hello.boot_id = (uint32_t)take(4);
    hello.interval_ns = (uint32_t)take(4);
    hello.sensor = sensor = take_text();
    hello.serial = serial = take_text();
    hello.n_channels = (uint8_t)take(1);
    hello.channels = channels = exactly(hello.n_channels * sizeof *channels);
    for (i = 0; i < hello.n_channels; i++) {
        channels[i].code = (uint8_t)take(1);
        channels[i].scale = take_float();
        channels[i].full_scale = take_float();
    }
    n = kinedge_encode_hello(out, size, &hello);
    free(channels);
    free(sensor);
    free(serial);
    return n;
}

static int encode_samples(uint8_t *out, size_t size) {
    kinedge_samples samples;
    int16_t *counts;
    size_t n_counts, i;
    int n;
    samples.stream_id = (uint8_t)take(1);
    samples.sequence = (uint16_t)take(2);
    samples.t_us = take(8);
    samples.interval_ns = (uint32_t)take(4);
    samples.count = (uint8_t)take(1);
    samples.n_channels = (uint8_t)take(1);
    samples.flags = (uint8_t)take(1);
    n_counts = left / 2;
    samples.counts = counts = exactly(2 * n_counts);
    for (i = 0; i < n_counts; i++) {
        counts[i] = (int16_t)take(2);
    }
    n = kinedge_encode_samples(out, size, &samples);
    free(counts);
    return n;
}

static int encode_status(uint8_t *out, size_t size) {
    kinedge_status status;
    status.stream_id = (uint8_t)take(1);
    status.boot_id = (uint32_t)take(4);
    status.battery_percent = (uint8_t)take(1);
    status.charging = (uint8_t)take(1);
    status.centi_celsius = (int16_t)take(2);
    status.dropped = (uint32_t)take(4);
    status.uptime_us = take(8);
    return kinedge_encode_status(out, size, &status);
}

static int encode_frame(uint8_t *out, size_t size) {
    const int n = (int)left;
    uint8_t *payload = take_copy(left);
    const int n_frame = kinedge_encode_frame(out, size, payload, n);
    free(payload);
    return n_frame;
}

/* stream id, t2, t3, then a payload from the host: what was understood, and the answer to a TIME_SYNC. */
static int take_request(uint8_t *out, size_t size) {
    const uint8_t stream_id = (uint8_t)take(1);
    const uint64_t t2_us = take(8);
    const uint64_t t3_us = take(8);
    const size_t n = left;
    uint8_t *payload = take_copy(left);
    kinedge_request request;
    const int type = kinedge_parse_request(payload, n, &request);
    free(payload);
    if (type < 0) {
        return type;
    }
    give_number(request.stream_id, 1);
    give_number(request.sequence, 2);
    give_number(request.t1_us, 8);
    give_number((uint64_t)kinedge_request_is_for(&request, stream_id), 1);
    if (type == KINEDGE_TIME_SYNC) {
        const int n_out = kinedge_encode_time_sync(out, size, stream_id, &request, t2_us, t3_us);
        if (n_out < 0) {
            return n_out;
        }
        give(out, (size_t)n_out);
    }
    return type;
}

/* A buffer of size bytes and what comes over a line: every result that is not 0, with its payload; then the counts. */
static int decode(size_t size) {
    uint8_t *buffer = exactly(size);
    kinedge_decoder decoder;
    int n_results = 0;
    kinedge_decoder_init(&decoder, buffer, size);
    while (left > 0) {
        const int result = kinedge_decoder_push(&decoder, (uint8_t)take(1));
        if (result != 0) {
            give_number((uint64_t)(int64_t)result, 4);
            give(buffer, result > 0 ? (size_t)result : 0);
            n_results++;
        }
    }
    give_number(decoder.n_frames, 4);
    give_number(decoder.n_bad, 4);
    free(buffer);
    return n_results;
}

int main(void) {
    uint8_t head[5];
    while (fread(head, 1, sizeof head, stdin) == sizeof head) {
        const size_t n = (size_t)head[1] | (size_t)head[2] << 8 | (size_t)head[3] << 16 | (size_t)head[4] << 24;
        uint8_t *body = exactly(n);
        uint8_t *out;
        uint8_t written[8];
        size_t size;
        int result, i;
        if (fread(body, 1, n, stdin) != n) {
            return 2;
        }
        in = body;
        left = n;
        n_answer = 0;
        size = (size_t)take(2);
        out = exactly(size);
        switch (head[0]) {
        case 'h': result = encode_hello(out, size); break;
        case 's': result = encode_samples(out, size); break;
        case 't': result = encode_status(out, size); break;
        case 'f': result = encode_frame(out, size); break;
        case 'r': result = take_request(out, size); break;
        case 'd': result = decode(size); break;
        case 'c': result = kinedge_crc16(KINEDGE_CRC_START, in, left); break;
        default: return 2;
        }
        if (head[0] != 'r' && head[0] != 'd' && head[0] != 'c' && result > 0) {
            give(out, (size_t)result);
        }
        for (i = 0; i < 4; i++) {
            written[i] = (uint8_t)((uint32_t)result >> 8 * i);
            written[4 + i] = (uint8_t)((uint32_t)n_answer >> 8 * i);
        }
        fwrite(written, 1, sizeof written, stdout);
        if (n_answer > 0) { /* before the first answer there is no room for one */
            fwrite(answer, 1, n_answer, stdout);
        }
        fflush(stdout);
        free(out);
        free(body);
    }
    free(answer);
    return 0;
}
