/* Any bytes into the parser and the device, with the device's time and application: nothing hangs, replies are well
 * formed, a valid HELLO is answered after anything, and nothing is driven before a reset.
 *
 * With FUZZ_WITH_LIBFUZZER an entry of libFuzzer; else ./program RUNS SEED makes inputs of its own: frames, damaged
 * frames and noise. Prints how many inputs it has executed, and how many frames were answered, driven and refused.
 */
#include <stdio.h>
#include <stdlib.h>

#include "device_host.h"
#include "eqrl_frame.h"
#include "eqrl_internal.h"

#define LARGEST 96u
#define REQUIRE(condition)                                                                                         \
    do {                                                                                                           \
        if (!(condition)) {                                                                                        \
            fprintf(stderr, "line %d: " #condition "\n", __LINE__);                                               \
            abort();                                                                                               \
        }                                                                                                          \
    } while (0)

static unsigned long num_answered;
static unsigned long num_refused;
static int is_begun; /* a RESET or the application has begun an episode */

/* Take a byte; check what it led to. */
static uint32_t take(uint8_t byte)
{
    const uint32_t driven = num_written;
    const uint32_t size = eqrl_device_take(byte);
    if (size == 0u) {
        REQUIRE(num_written == driven);
        return 0;
    }
    const uint8_t *const reply = eqrl_device_reply();
    const uint32_t length = reply[4] | (uint32_t)reply[5] << 8;
    REQUIRE(size == 12u + length && length >= 4u);
    REQUIRE(reply[0] == 0xA5u && reply[1] == 0x5Au && (reply[2] & 0x80u) != 0u);
    const uint32_t crc = ~eqrl_crc32(0xFFFFFFFFu, reply, 8u + length);
    REQUIRE(memcmp(reply + 8u + length, &crc, 4u) == 0);
    const uint8_t result = reply[8];
    REQUIRE(result <= EQRL_RESULT_BAD_ARGUMENT && reply[9] == 0u && reply[10] == 0u && reply[11] == 0u);
    if (reply[2] == 0x82u && result == EQRL_RESULT_OK) {
        is_begun = 1;
    }
    REQUIRE(num_written - driven <= 1u);
    REQUIRE(num_written == driven || reply[2] == 0x83u);
    if (result == EQRL_RESULT_OK) {
        num_answered++;
    } else {
        num_refused++;
    }
    return size;
}

static void require_hello(uint8_t sequence)
{
    uint8_t request[16];
    memset(request, 0, sizeof request);
    request[8] = (uint8_t)EQRL_PROTOCOL_VERSION;
    REQUIRE(eqrl_frame_finish(request, EQRL_REQUEST_HELLO, sequence, 4u) == sizeof request);
    host_ticks += 200000u; /* an unfinished frame is dropped */
    eqrl_device_poll(0u);
    for (uint32_t i = 0; i < sizeof request; i++) {
        const uint32_t size = take(request[i]);
        REQUIRE((size != 0u) == (i + 1u == sizeof request));
    }
    REQUIRE(eqrl_device_reply()[2] == 0x81u && eqrl_device_reply()[3] == sequence);
    REQUIRE(eqrl_device_reply()[8] == EQRL_RESULT_OK);
}

/* Bytes, with escapes that let time pass or give the application an observation. */
static void play(const uint8_t *input, uint32_t size)
{
    uint32_t i = 0;
    while (i < size) {
        if (input[i] == 0xEEu && i + 1u < size) {
            const uint8_t what = input[i + 1u];
            host_ticks += (uint32_t)what << 10;
            eqrl_device_poll(what & 1u);
            i += 2u;
            continue;
        }
        if (input[i] == 0xEDu && i + 1u < size) {
            due = input[i + 1u] % 4; /* 3 is no answer that read may give: as good as 1 */
            memset(&sensed, 0, sizeof sensed);
            memcpy(&sensed, input + i, size - i < sizeof sensed ? size - i : sizeof sensed);
            const uint32_t driven = num_written;
            is_begun |= due == EQRL_BOARD_EPISODE;
            (void)eqrl_device_run_application();
            REQUIRE(num_written - driven <= 1u);
            due = EQRL_BOARD_NOTHING;
            i += 2u;
            continue;
        }
        (void)take(input[i]);
        i++;
    }
    REQUIRE(is_begun || num_written == 0u);
}

static void start(void)
{
    REQUIRE(eqrl_device_start(16000000u, 1000000u, 0u) == EQRL_START_OK);
}

#ifdef FUZZ_WITH_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    static int is_started;
    if (!is_started) {
        start();
        is_started = 1;
    }
    play(input, (uint32_t)size);
    require_hello(size == 0u ? 0u : input[0]);
    return 0;
}
#else
static uint32_t seed;

static uint32_t draw(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return (seed >> 3) % below;
}

/* A frame that may be a valid request; returns its bytes. */
static uint32_t make_frame(uint8_t *target)
{
    static const uint8_t lengths[8] = {0, 4, 4, 4u + sizeof(eqrl_port_observation_t), 4, 4, 0, 4};
    uint8_t aligned[LARGEST];
    const uint32_t type = draw(8u);
    const uint32_t length = draw(8u) == 0u ? draw(40u) : lengths[type];
    for (uint32_t i = 0; i < length; i++) {
        const uint32_t is_flag = i < 4u ? 1u : 0u;
        aligned[8u + i] = (uint8_t)(draw(4u) == 0u ? draw(256u) : is_flag && i == 0u ? draw(4u) : 0u);
    }
    if (type == EQRL_REQUEST_HELLO || type == EQRL_REQUEST_RESET) {
        memset(aligned + 8, 0, 4);
    }
    const uint32_t sequence = draw(4u) == 0u ? 7u : draw(256u);
    const uint32_t size = eqrl_frame_finish(aligned, (uint8_t)(type == 6u && draw(64u) != 0u ? 3u : type), (uint8_t)sequence, length);
    memcpy(target, aligned, size);
    return size;
}

static uint32_t make_input(uint8_t *input)
{
    uint32_t size = 0;
    const uint32_t kind = draw(8u);
    if (kind != 0u) {
        size = make_frame(input);
    }
    if (kind >= 6u) { /* damage: a bit, a byte less, a byte more, an end cut off */
        const uint32_t place = draw(size);
        const uint32_t how = draw(4u);
        if (how == 0u) {
            input[place] ^= (uint8_t)(1u << draw(8u));
        } else if (how == 1u) {
            memmove(input + place, input + place + 1u, size - place - 1u);
            size--;
        } else if (how == 2u) {
            memmove(input + place + 1u, input + place, size - place);
            size++;
        } else {
            size = place;
        }
    }
    if (kind < 2u) {
        const uint32_t noise = draw(12u);
        for (uint32_t i = 0; i < noise; i++) {
            static const uint8_t likely[6] = {0xA5u, 0x5Au, 0xEEu, 0xEDu, 0x01u, 0x00u};
            input[size] = draw(2u) == 0u ? likely[draw(6u)] : (uint8_t)draw(256u);
            size++;
        }
    }
    return size;
}

int main(int argc, char **argv)
{
    const unsigned long runs = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000u;
    unsigned long executed = 0;
    unsigned long hellos = 0;
    seed = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) * 2654435761u | 1u : 1u;
    start();
    while (executed < runs) {
        uint8_t input[LARGEST + 16u];
        const uint32_t size = make_input(input);
        uint8_t *const exact = malloc(size + 1u); /* a sanitizer sees its end */
        memcpy(exact, input, size);
        play(exact, size);
        free(exact);
        executed++;
        if (executed % 16u == 0u) {
            require_hello((uint8_t)executed);
            hellos++;
        }
    }
    printf("%lu executed %lu hellos %lu answered %lu refused %lu driven %lu stopped\n", executed, hellos, num_answered,
           num_refused, (unsigned long)num_written, (unsigned long)num_stopped);
    return 0;
}
#endif
