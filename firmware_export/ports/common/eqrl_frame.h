/* SPDX-License-Identifier: Apache-2.0
 * eqrl_frame.h - frames out of a stream of bytes, and into one. Knows no request and no policy.
 *
 * sync A5 5A, type, sequence, payload bytes N (u16), check of these six (low half of their CRC-32, u16), payload,
 * CRC-32 of all before it. Little endian. Anything may stand between frames. docs/protocol.md has the rules.
 */
#ifndef EQRL_FRAME_H
#define EQRL_FRAME_H

#include <stdint.h>

#define EQRL_FRAME_HEADER_BYTES 8u
#define EQRL_FRAME_CRC_BYTES 4u
#define EQRL_FRAME_ARGUMENT_BYTES 4u /* of the payload, which are kept apart from the rest of it */
#define EQRL_FRAME_MAX_PAYLOAD 0xFFFFu

/* What a byte led to. */
enum {
    EQRL_FRAME_NOTHING = 0,
    EQRL_FRAME_WHOLE = 1,     /* type to crc and the payload are set */
    EQRL_FRAME_BAD_CRC = 2,   /* of a whole frame; sequence is set */
    EQRL_FRAME_BAD_HEADER = 3,
    EQRL_FRAME_TOO_LONG = 4   /* for our memory; sequence is set */
};

typedef struct {
    uint8_t *body;     /* room for the payload after its first four bytes */
    uint32_t capacity; /* of the payload: four and the room in body */
    uint32_t taken;    /* bytes of an unfinished frame */
    uint32_t running;  /* CRC over them, without the CRC itself */
    uint8_t header[EQRL_FRAME_HEADER_BYTES];
    uint8_t argument[EQRL_FRAME_ARGUMENT_BYTES]; /* the first bytes of the payload */
    uint32_t length;                             /* of the payload */
    uint32_t crc;                                /* as received */
    int keeps_bodies;                            /* of frames that begin from now on; to be set by the caller */
    int keeps_body;                              /* of this frame: else it is checked and not stored */
} eqrl_frame_parser;

void eqrl_frame_start(eqrl_frame_parser *parser, void *body, uint32_t body_bytes);

/* Take one byte; bounded work. Returns EQRL_FRAME_... */
uint32_t eqrl_frame_take(eqrl_frame_parser *parser, uint8_t byte);

/* Forget an unfinished frame. */
void eqrl_frame_drop(eqrl_frame_parser *parser);

/* Whether bytes of a frame are on their way to `body`, which nobody else may write meanwhile. */
int eqrl_frame_fills_body(const eqrl_frame_parser *parser);

uint8_t eqrl_frame_type(const eqrl_frame_parser *parser);
uint8_t eqrl_frame_sequence(const eqrl_frame_parser *parser);

/* Put header and CRC around a payload that lies at frame + 8. Returns the bytes of the frame. */
uint32_t eqrl_frame_finish(uint8_t *frame, uint8_t type, uint8_t sequence, uint32_t payload_bytes);

#endif
