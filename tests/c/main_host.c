/* main.c on this host: time passes only while it sleeps and while a byte is sent. Prints what its outputs saw.
 *
 *   ./program SCENARIO [FILE]   the application drives every 20 ms, and the bytes of FILE come after 100 ms
 *     app       until 1.5 s
 *     dead      the same, but the UART sends nothing after the start
 *     notimer   there is no time base: until the main loop has gone round 1000 times
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eqrl_device.h"
#include "eqrl_port.h"
#include "eqrl_transport.h"

#define PERIOD_US 20000u
#define BYTE_US 87u
#define DEAD_BYTE_US 60000u

static uint32_t now_us;
static uint32_t oldest; /* action, in us */
static uint32_t last_write;
static uint32_t next_observation;
static uint32_t num_written;
static uint32_t num_sent;
static uint32_t num_tried;
static uint32_t num_inits;
static uint32_t num_turns;
static uint32_t last_kick;
static uint32_t longest_unkicked;
static uint32_t watchdog_ms;
static uint8_t input[4096];
static uint32_t num_input;
static uint32_t taken;
static int is_dead;
static int has_timer = 1;

static void finish(void)
{
    printf("oldest %u written %u sent %u tried %u unkicked %u watchdog %u\n", oldest, num_written, num_sent, num_tried,
           longest_unkicked, watchdog_ms);
    exit(0);
}

uint32_t eqrl_port_clock_init(void)
{
    return EQRL_CLOCK_HZ;
}

void eqrl_port_uart_interrupt(void)
{
}

uint32_t eqrl_port_timer_init(uint32_t clock_hz)
{
    (void)clock_hz;
    return has_timer ? 1000000u : 0u;
}

uint32_t eqrl_port_ticks(void)
{
    return now_us;
}

void eqrl_port_watchdog_start(uint32_t timeout_ms)
{
    watchdog_ms = timeout_ms;
}

void eqrl_port_watchdog_kick(void)
{
    num_turns++;
    if (num_turns > 2000u && !has_timer) {
        finish();
    }
    if (watchdog_ms != 0u && now_us - last_kick > longest_unkicked) {
        longest_unkicked = now_us - last_kick;
    }
    last_kick = now_us;
}

int eqrl_port_watchdog_was_reset(void)
{
    return 0;
}

void eqrl_port_interrupts_off(void)
{
}

void eqrl_port_interrupts_on(void)
{
}

void eqrl_port_sleep(void)
{
    if (!has_timer) {
        printf("sleeps for ever\n");
        exit(0);
    }
    now_us += 1000u;
    if (now_us > 1500000u) {
        finish();
    }
}

void eqrl_transport_init(uint32_t clock_hz)
{
    (void)clock_hz;
}

int eqrl_transport_is_pending(void)
{
    return taken < num_input && now_us >= 100000u;
}

int eqrl_transport_receive(uint8_t *byte)
{
    if (!eqrl_transport_is_pending()) {
        return 0;
    }
    *byte = input[taken];
    taken++;
    return 1;
}

uint32_t eqrl_transport_overruns(void)
{
    return 0;
}

int eqrl_transport_send(uint8_t byte)
{
    (void)byte;
    if (now_us < 100000u) {
        return 1; /* the banner */
    }
    num_tried++;
    now_us += is_dead ? DEAD_BYTE_US : BYTE_US;
    num_sent += is_dead ? 0u : 1u;
    return !is_dead;
}

void eqrl_board_init(void)
{
    num_inits++;
    printf("init ");
}

int eqrl_board_read(eqrl_port_observation_t *observation)
{
    if (!has_timer || now_us < next_observation) {
        return EQRL_BOARD_NOTHING;
    }
    memset(observation, 0, sizeof *observation);
    const int is_first = next_observation == 0u;
    next_observation = now_us + PERIOD_US;
    return is_first ? EQRL_BOARD_EPISODE : EQRL_BOARD_STEP;
}

void eqrl_board_write(const eqrl_port_action_t *action, eqrl_status status)
{
    (void)action;
    (void)status;
    if (num_written != 0u && now_us - last_write > oldest) {
        oldest = now_us - last_write;
    }
    last_write = now_us;
    num_written++;
}

void eqrl_board_stop(void)
{
    printf("stop ");
}

int firmware_main(void);

int main(int argc, char **argv)
{
    is_dead = strcmp(argv[1], "dead") == 0;
    has_timer = strcmp(argv[1], "notimer") != 0;
    if (argc > 2) {
        FILE *const file = fopen(argv[2], "rb");
        num_input = file == NULL ? 0u : (uint32_t)fread(input, 1, sizeof input, file);
    }
    return firmware_main();
}
