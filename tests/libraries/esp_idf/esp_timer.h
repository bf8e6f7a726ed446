/* Stands in for ESP-IDF. */
#ifndef ESP_TIMER_H
#define ESP_TIMER_H

#include <stdint.h>

#include "esp_err.h"

typedef struct esp_timer *esp_timer_handle_t;

typedef struct {
    void (*callback)(void *arg);
    void *arg;
    int dispatch_method;
    const char *name;
} esp_timer_create_args_t;

esp_err_t esp_timer_create(const esp_timer_create_args_t *settings, esp_timer_handle_t *timer);
esp_err_t esp_timer_start_once(esp_timer_handle_t timer, uint64_t wait_us);
int64_t esp_timer_get_time(void);

#endif
