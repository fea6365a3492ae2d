/*
 * kinedge reference wire protocol, version 1, for the device's side.
 *
 * C99. Nothing is allocated, nothing is static, nothing of libc is called but memcpy. Bytes are written one by one, so
 * that neither alignment nor the byte order of the processor matters; float must be IEEE 754 single.
 *
 * A payload goes bare over BLE (one notification each) and framed over a serial line:
 *
 *     n = kinedge_encode_samples(payload, sizeof payload, &samples);
 *     n = kinedge_encode_frame(frame, sizeof frame, payload, n);      (serial only)
 *
 * Every encoder returns the number of bytes written, or one of the negative codes below and then writes nothing that
 * may be sent. kinedge_encode_frame hands a negative length on, so that one test at the end is enough.
 *
 * Object-like macros here are read by kinedge itself: write each as one integer.
 */
#ifndef KINEDGE_WIRE_H
#define KINEDGE_WIRE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KINEDGE_VERSION 1

/* Low nibble of the first byte of a payload. */
#define KINEDGE_HELLO 1
#define KINEDGE_SAMPLES 2
#define KINEDGE_TIME_SYNC 3
#define KINEDGE_STATUS 4
#define KINEDGE_HELLO_REQUEST 5

/* Stream id of a request that is meant for every stream behind a link; no stream has it. */
#define KINEDGE_ALL_STREAMS 255

/* The count of a sample that is missing or broken. */
#define KINEDGE_INVALID_COUNT (-32768)
#define KINEDGE_BATTERY_UNKNOWN 255
#define KINEDGE_TEMPERATURE_UNKNOWN (-32768)

/* Flags of SAMPLES and of STATUS. */
#define KINEDGE_FLAG_ACC_CLIPPED 0x01
#define KINEDGE_FLAG_GYR_CLIPPED 0x02
#define KINEDGE_FLAG_OVERFLOWED 0x04 /* the device dropped samples before this packet */
#define KINEDGE_STATUS_CHARGING 0x01

/* What a channel measures, in the high nibble of its code, and along which axis. Units: m/s^2, rad/s, uT. */
#define KINEDGE_ACC 1
#define KINEDGE_GYR 2
#define KINEDGE_MAG 3
#define KINEDGE_X 0
#define KINEDGE_Y 1
#define KINEDGE_Z 2
#define KINEDGE_CHANNEL(quantity, axis) ((uint8_t)((quantity) << 4 | (axis)))

/* Limits. */
#define KINEDGE_MAX_CHANNELS 9
#define KINEDGE_MAX_SAMPLES 255
#define KINEDGE_MAX_SENSOR_BYTES 31
#define KINEDGE_MAX_SERIAL_BYTES 64
#define KINEDGE_MIN_INTERVAL_NS 100000
#define KINEDGE_MAX_INTERVAL_NS 1000000000

/* Send HELLO at start, when asked, and this often. */
#define KINEDGE_HELLO_EVERY_US 2000000
#define KINEDGE_STATUS_EVERY_US 5000000

/* Sizes in bytes. */
#define KINEDGE_SAMPLES_HEADER_SIZE 18
#define KINEDGE_TIME_SYNC_SIZE 30
#define KINEDGE_STATUS_SIZE 22
#define KINEDGE_HELLO_REQUEST_SIZE 2
#define KINEDGE_HELLO_HEADER_SIZE 11
#define KINEDGE_HELLO_CHANNEL_SIZE 10
#define KINEDGE_CRC_SIZE 2
#define KINEDGE_COBS_BLOCK 254
#define KINEDGE_CRC_START 0xFFFF
#define KINEDGE_MAX_PAYLOAD 4608

/* Payload of samples; what fits into a payload of so many bytes; a frame with its final zero, at most. */
#define KINEDGE_SAMPLES_SIZE(n_samples, n_channels) (KINEDGE_SAMPLES_HEADER_SIZE + 2u * (n_samples) * (n_channels))
#define KINEDGE_SAMPLES_THAT_FIT(bytes, n_channels) (((bytes) - KINEDGE_SAMPLES_HEADER_SIZE) / (2u * (n_channels)))
#define KINEDGE_FRAME_SIZE(payload) \
    ((payload) + KINEDGE_CRC_SIZE + ((payload) + KINEDGE_CRC_SIZE) / KINEDGE_COBS_BLOCK + 2)

/* A decoder's buffer that holds every packet a host sends. */
#define KINEDGE_REQUEST_BUFFER_SIZE 32

/* What goes wrong. */
#define KINEDGE_ERROR_SPACE (-1) /* the buffer is too small */
#define KINEDGE_ERROR_VALUE (-2) /* a field that no host would accept */
#define KINEDGE_ERROR_FRAME (-3) /* no frame, or longer than the decoder's buffer */
#define KINEDGE_ERROR_CRC (-4)
#define KINEDGE_ERROR_PACKET (-5) /* a whole payload, but no request of this version */

typedef struct {
    uint8_t code;     /* KINEDGE_CHANNEL(KINEDGE_ACC, KINEDGE_X) */
    float scale;      /* SI units per count */
    float full_scale; /* end of the range, in SI units */
} kinedge_channel;

typedef struct {
    uint8_t stream_id;    /* 0 to 254 */
    uint32_t boot_id;     /* another one at every start: random, or counted in flash */
    uint32_t interval_ns; /* nominal sample period */
    const char *sensor;   /* where it is worn: "wrist_left"; a-z, 0-9 and _, letter first */
    const char *serial;   /* identity of the hardware, printable ASCII */
    const kinedge_channel *channels;
    uint8_t n_channels;
} kinedge_hello;

typedef struct {
    uint8_t stream_id;
    uint16_t sequence;    /* index of the first sample since boot, modulo 65536; dropped samples count */
    uint64_t t_us;        /* device clock at the first sample */
    uint32_t interval_ns; /* from sample to sample in this packet */
    uint8_t count;        /* samples, 1 to 255 */
    uint8_t n_channels;   /* as in HELLO */
    uint8_t flags;
    const int16_t *counts; /* count * n_channels, interleaved by sample */
} kinedge_samples;

typedef struct {
    uint8_t stream_id;
    uint32_t boot_id;
    uint8_t battery_percent; /* 0 to 100, or KINEDGE_BATTERY_UNKNOWN */
    uint8_t charging;        /* 0 or 1 */
    int16_t centi_celsius;   /* or KINEDGE_TEMPERATURE_UNKNOWN */
    uint32_t dropped;        /* samples dropped on the device since boot */
    uint64_t uptime_us;
} kinedge_status;

/* What a host asks: HELLO_REQUEST, or the first half of a TIME_SYNC. */
typedef struct {
    uint8_t type;
    uint8_t stream_id;
    uint16_t sequence;
    uint64_t t1_us;
} kinedge_request;

int kinedge_encode_hello(uint8_t *out, size_t size, const kinedge_hello *hello);
int kinedge_encode_samples(uint8_t *out, size_t size, const kinedge_samples *samples);
int kinedge_encode_status(uint8_t *out, size_t size, const kinedge_status *status);

/* Answer a TIME_SYNC request: t2 is the device clock when it arrived, t3 right before the answer is sent. */
int kinedge_encode_time_sync(uint8_t *out, size_t size, uint8_t stream_id, const kinedge_request *request,
                             uint64_t t2_us, uint64_t t3_us);

/* Read a payload from the host; returns its type, or KINEDGE_ERROR_PACKET. */
int kinedge_parse_request(const uint8_t *payload, size_t n, kinedge_request *request);

/* Whether a stream should answer: it, or all streams, are meant. */
int kinedge_request_is_for(const kinedge_request *request, uint8_t stream_id);

/* CRC-16/CCITT-FALSE; start with KINEDGE_CRC_START, and go on with what the last call returned. */
uint16_t kinedge_crc16(uint16_t crc, const uint8_t *data, size_t n);

/* COBS(payload + CRC) and the final zero; out and payload must not overlap. */
int kinedge_encode_frame(uint8_t *out, size_t size, const uint8_t *payload, int n);

/*
 * Frames from the host, byte by byte. The buffer is yours and must live as long as the decoder; a frame that does not
 * fit is counted and skipped up to the next zero.
 */
typedef struct {
    uint8_t *buffer;
    size_t size;
    size_t n;
    uint32_t n_frames;
    uint32_t n_bad;
    uint8_t block; /* code byte of the current block, 0 before the first */
    uint8_t left;  /* bytes of it that are still to come */
    uint8_t skipping;
} kinedge_decoder;

void kinedge_decoder_init(kinedge_decoder *decoder, uint8_t *buffer, size_t size);

/*
 * Take one byte in. Returns the length of the payload that it completed (it lies at the start of the buffer until
 * the next call), 0 when there is none yet, KINEDGE_ERROR_FRAME or KINEDGE_ERROR_CRC when it ended a bad frame.
 */
int kinedge_decoder_push(kinedge_decoder *decoder, uint8_t byte);

#ifdef __cplusplus
}
#endif

#endif
