/* SPDX-License-Identifier: Apache-2.0
 * Frames out of a stream of bytes, and into one.
 */
#include "eqrl_frame.h"

#include "eqrl_internal.h"

#define SYNC_0 0xA5u
#define SYNC_1 0x5Au
#define AT_TYPE 2u
#define AT_SEQUENCE 3u
#define AT_LENGTH 4u
#define AT_CHECK 6u

static uint32_t u16_at(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8;
}

static void put_u16(uint8_t *bytes, uint32_t value)
{
    bytes[0] = (uint8_t)value;
    bytes[1] = (uint8_t)(value >> 8);
}

static uint32_t header_crc(const uint8_t *header)
{
    return eqrl_crc32(0xFFFFFFFFu, header, AT_CHECK);
}

void eqrl_frame_start(eqrl_frame_parser *parser, void *body, uint32_t body_bytes)
{
    const uint32_t room = EQRL_FRAME_ARGUMENT_BYTES + body_bytes;
    parser->body = body;
    parser->capacity = room < EQRL_FRAME_MAX_PAYLOAD ? room : EQRL_FRAME_MAX_PAYLOAD;
    parser->taken = 0;
    parser->keeps_bodies = 1;
    parser->keeps_body = 1;
}

void eqrl_frame_drop(eqrl_frame_parser *parser)
{
    parser->taken = 0;
}

int eqrl_frame_fills_body(const eqrl_frame_parser *parser)
{
    return parser->taken >= EQRL_FRAME_HEADER_BYTES && parser->length > EQRL_FRAME_ARGUMENT_BYTES &&
           parser->keeps_body != 0;
}

uint8_t eqrl_frame_type(const eqrl_frame_parser *parser)
{
    return parser->header[AT_TYPE];
}

uint8_t eqrl_frame_sequence(const eqrl_frame_parser *parser)
{
    return parser->header[AT_SEQUENCE];
}

/* Keep the end of the header that may be the beginning of another. */
static void rescan(eqrl_frame_parser *parser)
{
    uint8_t *const header = parser->header;
    const uint32_t taken = parser->taken;
    uint32_t first = 1;
    while (first < taken &&
           (header[first] != SYNC_0 || (first + 1u < taken && header[first + 1u] != SYNC_1))) {
        first++;
    }
    for (uint32_t i = first; i < taken; i++) {
        header[i - first] = header[i];
    }
    parser->taken = taken - first;
}

static uint32_t take_header(eqrl_frame_parser *parser, uint8_t byte)
{
    parser->header[parser->taken] = byte;
    parser->taken++;
    if (parser->taken <= AT_TYPE) {
        if (byte != (parser->taken == 1u ? SYNC_0 : SYNC_1)) {
            rescan(parser);
        }
        return EQRL_FRAME_NOTHING;
    }
    if (parser->taken < EQRL_FRAME_HEADER_BYTES) {
        return EQRL_FRAME_NOTHING;
    }
    const uint32_t crc = header_crc(parser->header);
    if (u16_at(parser->header + AT_CHECK) != (~crc & 0xFFFFu)) {
        rescan(parser);
        return EQRL_FRAME_BAD_HEADER;
    }
    parser->length = u16_at(parser->header + AT_LENGTH);
    if (parser->length > parser->capacity) {
        parser->taken = 0;
        return EQRL_FRAME_TOO_LONG;
    }
    parser->running = eqrl_crc32(crc, parser->header + AT_CHECK, EQRL_FRAME_HEADER_BYTES - AT_CHECK);
    parser->crc = 0;
    parser->keeps_body = parser->keeps_bodies;
    return EQRL_FRAME_NOTHING;
}

uint32_t eqrl_frame_take(eqrl_frame_parser *parser, uint8_t byte)
{
    if (parser->taken < EQRL_FRAME_HEADER_BYTES) {
        return take_header(parser, byte);
    }
    const uint32_t place = parser->taken - EQRL_FRAME_HEADER_BYTES;
    parser->taken++;
    if (place < parser->length) {
        if (place < EQRL_FRAME_ARGUMENT_BYTES) {
            parser->argument[place] = byte;
        } else if (parser->keeps_body != 0) {
            parser->body[place - EQRL_FRAME_ARGUMENT_BYTES] = byte;
        } else {
            /* The body's place is not ours now. */
        }
        parser->running = eqrl_crc32(parser->running, &byte, 1u);
        return EQRL_FRAME_NOTHING;
    }
    parser->crc = parser->crc >> 8 | (uint32_t)byte << 24;
    if (place + 1u < parser->length + EQRL_FRAME_CRC_BYTES) {
        return EQRL_FRAME_NOTHING;
    }
    parser->taken = 0;
    return parser->crc == ~parser->running ? EQRL_FRAME_WHOLE : EQRL_FRAME_BAD_CRC;
}

uint32_t eqrl_frame_finish(uint8_t *frame, uint8_t type, uint8_t sequence, uint32_t payload_bytes)
{
    frame[0] = SYNC_0;
    frame[1] = SYNC_1;
    frame[AT_TYPE] = type;
    frame[AT_SEQUENCE] = sequence;
    put_u16(frame + AT_LENGTH, payload_bytes);
    put_u16(frame + AT_CHECK, ~header_crc(frame));
    const uint32_t before = EQRL_FRAME_HEADER_BYTES + payload_bytes;
    const uint32_t crc = ~eqrl_crc32(0xFFFFFFFFu, frame, before);
    put_u16(frame + before, crc);
    put_u16(frame + before + 2u, crc >> 16);
    return before + EQRL_FRAME_CRC_BYTES;
}
