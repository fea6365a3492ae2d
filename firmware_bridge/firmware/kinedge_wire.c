#include "kinedge_wire.h"

#include <string.h>

#define AXES 3

/* Bytes into a buffer that may end; where it did, at is beyond size. */
typedef struct {
    uint8_t *out;
    size_t size;
    size_t at;
} writer;

static void put_u8(writer *w, uint8_t value) {
    if (w->at < w->size) {
        w->out[w->at] = value;
    }
    w->at++;
}

static void put_u16(writer *w, uint16_t value) {
    put_u8(w, (uint8_t)value);
    put_u8(w, (uint8_t)(value >> 8));
}

static void put_u32(writer *w, uint32_t value) {
    put_u16(w, (uint16_t)value);
    put_u16(w, (uint16_t)(value >> 16));
}

static void put_u64(writer *w, uint64_t value) {
    put_u32(w, (uint32_t)value);
    put_u32(w, (uint32_t)(value >> 32));
}

static void put_float(writer *w, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_u32(w, bits);
}

static void put_text(writer *w, const char *text, size_t n) {
    size_t i;
    put_u8(w, (uint8_t)n);
    for (i = 0; i < n; i++) {
        put_u8(w, (uint8_t)text[i]);
    }
}

static void put_first_bytes(writer *w, uint8_t type, uint8_t stream_id) {
    put_u8(w, (uint8_t)(KINEDGE_VERSION << 4 | type));
    put_u8(w, stream_id);
}

static int written(const writer *w) {
    return w->at <= w->size ? (int)w->at : KINEDGE_ERROR_SPACE;
}

static uint16_t get_u16(const uint8_t *in) {
    return (uint16_t)(in[0] | (uint16_t)(in[1] << 8));
}

static uint64_t get_u64(const uint8_t *in) {
    uint64_t value = 0;
    int i;
    for (i = 7; i >= 0; i--) {
        value = value << 8 | in[i];
    }
    return value;
}

/* Length of a text, or limit + 1 where it is longer. */
static size_t text_length(const char *text, size_t limit) {
    size_t n = 0;
    while (n <= limit && text[n] != '\0') {
        n++;
    }
    return n;
}

static int is_sensor_name(const char *text, size_t n) {
    size_t i;
    if (n < 1 || n > KINEDGE_MAX_SENSOR_BYTES || text[0] < 'a' || text[0] > 'z') {
        return 0;
    }
    for (i = 1; i < n; i++) {
        const char c = text[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_')) {
            return 0;
        }
    }
    return 1;
}

static int is_serial(const char *text, size_t n) {
    size_t i;
    if (n < 1 || n > KINEDGE_MAX_SERIAL_BYTES) {
        return 0;
    }
    for (i = 0; i < n; i++) {
        if (text[i] < 0x20 || text[i] > 0x7E) {
            return 0;
        }
    }
    return 1;
}

/* The host's limits are 1e-12 and 1e12; as floats both lie just below. Not a number fails every comparison. */
static int is_scale(float value) {
    return value > 1e-12f && value <= 1e12f;
}

static int is_hello(const kinedge_hello *hello) {
    uint16_t seen = 0;
    uint8_t i;
    if (hello->stream_id == KINEDGE_ALL_STREAMS || hello->n_channels < 1 || hello->n_channels > KINEDGE_MAX_CHANNELS ||
        hello->interval_ns < KINEDGE_MIN_INTERVAL_NS || hello->interval_ns > KINEDGE_MAX_INTERVAL_NS) {
        return 0;
    }
    for (i = 0; i < hello->n_channels; i++) {
        const kinedge_channel *channel = &hello->channels[i];
        const uint8_t quantity = channel->code >> 4;
        const uint8_t axis = channel->code & 0x0F;
        uint16_t bit;
        if (quantity < KINEDGE_ACC || quantity > KINEDGE_MAG || axis >= AXES) {
            return 0;
        }
        bit = (uint16_t)(1u << ((quantity - 1u) * AXES + axis));
        if ((seen & bit) != 0 || !is_scale(channel->scale) || !is_scale(channel->full_scale)) {
            return 0;
        }
        seen |= bit;
    }
    return 1;
}

int kinedge_encode_hello(uint8_t *out, size_t size, const kinedge_hello *hello) {
    writer w = {out, size, 0};
    const size_t n_sensor = text_length(hello->sensor, KINEDGE_MAX_SENSOR_BYTES);
    const size_t n_serial = text_length(hello->serial, KINEDGE_MAX_SERIAL_BYTES);
    uint8_t i;
    if (!is_hello(hello) || !is_sensor_name(hello->sensor, n_sensor) || !is_serial(hello->serial, n_serial)) {
        return KINEDGE_ERROR_VALUE;
    }
    put_first_bytes(&w, KINEDGE_HELLO, hello->stream_id);
    put_u32(&w, hello->boot_id);
    put_u32(&w, hello->interval_ns);
    put_u8(&w, hello->n_channels);
    put_text(&w, hello->sensor, n_sensor);
    put_text(&w, hello->serial, n_serial);
    for (i = 0; i < hello->n_channels; i++) {
        const kinedge_channel *channel = &hello->channels[i];
        put_u8(&w, channel->code);
        put_u8(&w, channel->code >> 4); /* the code of a unit is that of its quantity */
        put_float(&w, channel->scale);
        put_float(&w, channel->full_scale);
    }
    return written(&w);
}

int kinedge_encode_samples(uint8_t *out, size_t size, const kinedge_samples *samples) {
    writer w = {out, size, 0};
    const size_t n = (size_t)samples->count * samples->n_channels;
    size_t i;
    if (samples->stream_id == KINEDGE_ALL_STREAMS || n == 0 || samples->n_channels > KINEDGE_MAX_CHANNELS) {
        return KINEDGE_ERROR_VALUE;
    }
    put_first_bytes(&w, KINEDGE_SAMPLES, samples->stream_id);
    put_u16(&w, samples->sequence);
    put_u64(&w, samples->t_us);
    put_u32(&w, samples->interval_ns);
    put_u8(&w, samples->count);
    put_u8(&w, samples->flags);
    if (size < KINEDGE_SAMPLES_SIZE(samples->count, samples->n_channels)) {
        return KINEDGE_ERROR_SPACE; /* before the loop: it is the long one */
    }
    for (i = 0; i < n; i++) {
        put_u16(&w, (uint16_t)samples->counts[i]);
    }
    return written(&w);
}

int kinedge_encode_status(uint8_t *out, size_t size, const kinedge_status *status) {
    writer w = {out, size, 0};
    if (status->stream_id == KINEDGE_ALL_STREAMS || status->charging > 1 ||
        (status->battery_percent > 100 && status->battery_percent != KINEDGE_BATTERY_UNKNOWN)) {
        return KINEDGE_ERROR_VALUE;
    }
    put_first_bytes(&w, KINEDGE_STATUS, status->stream_id);
    put_u32(&w, status->boot_id);
    put_u8(&w, status->battery_percent);
    put_u8(&w, status->charging ? KINEDGE_STATUS_CHARGING : 0);
    put_u16(&w, (uint16_t)status->centi_celsius);
    put_u32(&w, status->dropped);
    put_u64(&w, status->uptime_us);
    return written(&w);
}

int kinedge_encode_time_sync(uint8_t *out, size_t size, uint8_t stream_id, const kinedge_request *request,
                             uint64_t t2_us, uint64_t t3_us) {
    writer w = {out, size, 0};
    if (stream_id == KINEDGE_ALL_STREAMS || request->type != KINEDGE_TIME_SYNC || t3_us < t2_us) {
        return KINEDGE_ERROR_VALUE;
    }
    put_first_bytes(&w, KINEDGE_TIME_SYNC, stream_id);
    put_u8(&w, 1); /* an answer */
    put_u8(&w, 0);
    put_u16(&w, request->sequence);
    put_u64(&w, request->t1_us);
    put_u64(&w, t2_us);
    put_u64(&w, t3_us);
    return written(&w);
}

int kinedge_parse_request(const uint8_t *payload, size_t n, kinedge_request *request) {
    kinedge_request found = {0, 0, 0, 0};
    if (n < KINEDGE_HELLO_REQUEST_SIZE || payload[0] >> 4 != KINEDGE_VERSION) {
        return KINEDGE_ERROR_PACKET;
    }
    found.type = payload[0] & 0x0F;
    found.stream_id = payload[1];
    if (found.type == KINEDGE_TIME_SYNC && n == KINEDGE_TIME_SYNC_SIZE && payload[2] == 0) {
        found.sequence = get_u16(payload + 4);
        found.t1_us = get_u64(payload + 6);
    } else if (found.type != KINEDGE_HELLO_REQUEST || n != KINEDGE_HELLO_REQUEST_SIZE) {
        return KINEDGE_ERROR_PACKET;
    }
    *request = found;
    return found.type;
}

int kinedge_request_is_for(const kinedge_request *request, uint8_t stream_id) {
    return request->stream_id == stream_id || request->stream_id == KINEDGE_ALL_STREAMS;
}

uint16_t kinedge_crc16(uint16_t crc, const uint8_t *data, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) {
        /* eight steps of x^16 + x^12 + x^5 + 1 at once: no table, no loop over bits */
        uint8_t x = (uint8_t)(crc >> 8 ^ data[i]);
        x ^= x >> 4;
        crc = (uint16_t)((uint16_t)(crc << 8) ^ (uint16_t)(x << 12) ^ (uint16_t)(x << 5) ^ x);
    }
    return crc;
}

int kinedge_encode_frame(uint8_t *out, size_t size, const uint8_t *payload, int n) {
    writer w = {out, size, 0};
    uint8_t crc_bytes[KINEDGE_CRC_SIZE];
    uint16_t crc;
    size_t code_at = 0;
    uint8_t code = 1;
    size_t i, end;
    if (n <= 0) {
        return n < 0 ? n : KINEDGE_ERROR_VALUE;
    }
    if (n > KINEDGE_MAX_PAYLOAD) {
        return KINEDGE_ERROR_VALUE;
    }
    if (size == 0) {
        return KINEDGE_ERROR_SPACE;
    }
    crc = kinedge_crc16(KINEDGE_CRC_START, payload, (size_t)n);
    crc_bytes[0] = (uint8_t)crc;
    crc_bytes[1] = (uint8_t)(crc >> 8);
    end = (size_t)n + KINEDGE_CRC_SIZE;
    put_u8(&w, 0); /* where the code of the first block goes */
    for (i = 0; i < end; i++) {
        const uint8_t byte = i < (size_t)n ? payload[i] : crc_bytes[i - (size_t)n];
        if (byte != 0) {
            put_u8(&w, byte);
            code++;
        }
        if (w.at >= size) {
            return KINEDGE_ERROR_SPACE; /* the final zero would not fit */
        }
        if (byte == 0 || (code == KINEDGE_COBS_BLOCK + 1 && i + 1 < end)) {
            out[code_at] = code;
            code_at = w.at;
            code = 1;
            put_u8(&w, 0);
        }
    }
    out[code_at] = code;
    put_u8(&w, 0);
    return written(&w);
}

void kinedge_decoder_init(kinedge_decoder *decoder, uint8_t *buffer, size_t size) {
    const kinedge_decoder fresh = {buffer, size, 0, 0, 0, 0, 0, 0};
    *decoder = fresh;
}

static void store(kinedge_decoder *decoder, uint8_t byte) {
    if (decoder->n < decoder->size) {
        decoder->buffer[decoder->n++] = byte;
    } else {
        decoder->skipping = 1;
    }
}

/* A zero came: what was the frame that it ended? */
static int finish(const kinedge_decoder *decoder) {
    const size_t n = decoder->n;
    if (decoder->block == 0) {
        return 0; /* zeros between frames are free */
    }
    if (decoder->skipping || decoder->left != 0 || n < KINEDGE_HELLO_REQUEST_SIZE + KINEDGE_CRC_SIZE) {
        return KINEDGE_ERROR_FRAME;
    }
    if (kinedge_crc16(KINEDGE_CRC_START, decoder->buffer, n - KINEDGE_CRC_SIZE) !=
        get_u16(decoder->buffer + n - KINEDGE_CRC_SIZE)) {
        return KINEDGE_ERROR_CRC;
    }
    return (int)(n - KINEDGE_CRC_SIZE);
}

int kinedge_decoder_push(kinedge_decoder *decoder, uint8_t byte) {
    if (byte == 0) {
        const int result = finish(decoder);
        decoder->n_frames += result > 0;
        decoder->n_bad += result < 0;
        decoder->n = 0;
        decoder->block = decoder->left = decoder->skipping = 0;
        return result;
    }
    if (decoder->left > 0) {
        store(decoder, byte);
        decoder->left--;
        return 0;
    }
    if (decoder->block != 0 && decoder->block != KINEDGE_COBS_BLOCK + 1) {
        store(decoder, 0); /* no zero follows a full block, and none the last one */
    }
    decoder->block = byte;
    decoder->left = (uint8_t)(byte - 1);
    return 0;
}
