/* A device on this host, driven over stdin and stdout: a command byte and the length of its data (uint32), then the
 * data; answered by a length and that many bytes.
 *
 *   b bytes      they come from the host; answers with the replies
 *   t ticks      time passes
 *   p            eqrl_device_poll
 *   a due, observation   the application has one: eqrl_device_run_application
 *   s clock, ticks a second, flags   eqrl_device_start; answers its outcome
 *   x bytes      eqrl_device_exchange
 *   q            answers num_written, num_stopped, num_kicks, the last action
 */
#include <stdio.h>
#include <stdlib.h>

#include "device_host.h"

static uint8_t data[1 << 17];
static uint8_t answer[1 << 18];

static uint32_t feed(uint32_t num_bytes)
{
    uint32_t total = 0;
    for (uint32_t i = 0; i < num_bytes; i++) {
        const uint32_t size = eqrl_device_take(data[i]);
        if (size != 0u) {
            memcpy(answer + total, eqrl_device_reply(), size);
        }
        total += size;
    }
    return total;
}

static uint32_t word(uint32_t index)
{
    uint32_t value;
    memcpy(&value, data + 4u * index, sizeof value);
    return value;
}

static uint32_t put(uint32_t at, uint32_t value)
{
    memcpy(answer + at, &value, sizeof value);
    return at + 4u;
}

static uint32_t state_of_outputs(void)
{
    uint32_t size = put(0u, num_written);
    size = put(size, num_stopped);
    size = put(size, num_kicks);
    memcpy(answer + size, &written, sizeof written);
    return size + (uint32_t)sizeof written;
}

static uint32_t run_application(void)
{
    due = (int)word(0u);
    memcpy(&sensed, data + 4, sizeof sensed);
    return put(0u, (uint32_t)eqrl_device_run_application());
}

static uint32_t exchange(uint32_t num_bytes)
{
    uint8_t *const request = malloc(num_bytes + 1u); /* so that a sanitizer sees its end */
    memcpy(request, data, num_bytes);
    const uint32_t size = eqrl_device_exchange(request, num_bytes, answer, (uint32_t)sizeof answer);
    free(request);
    return size;
}

static uint32_t execute(int command, uint32_t num_bytes)
{
    switch (command) {
    case 'b':
        return feed(num_bytes);
    case 't':
        host_ticks += word(0u);
        return 0;
    case 'p':
        eqrl_device_poll(num_bytes == 4u ? word(0u) : 0u);
        return 0;
    case 'a':
        return run_application();
    case 's':
        return put(0u, eqrl_device_start(word(0u), word(1u), word(2u)));
    case 'x':
        return exchange(num_bytes);
    case 'q':
        return state_of_outputs();
    default:
        exit(2);
    }
}

int main(void)
{
    uint8_t head[5];
    while (fread(head, 1, sizeof head, stdin) == sizeof head) {
        uint32_t size;
        memcpy(&size, head + 1, sizeof size);
        if (size > sizeof data || fread(data, 1, size, stdin) != size) {
            return 1;
        }
        size = execute(head[0], size);
        fwrite(&size, 1, sizeof size, stdout);
        fwrite(answer, 1, size, stdout);
        fflush(stdout);
    }
    return 0;
}
