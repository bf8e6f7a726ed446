/* Stands in for ESP-IDF: one timer, whose time stand_in_run lets pass. */
#include "esp_timer.h"

struct esp_timer {
    esp_timer_create_args_t settings;
    int64_t at;
};

static struct esp_timer only;
static int64_t now;

esp_err_t esp_timer_create(const esp_timer_create_args_t *settings, esp_timer_handle_t *timer)
{
    only.settings = *settings;
    *timer = &only;
    return 0;
}

esp_err_t esp_timer_start_once(esp_timer_handle_t timer, uint64_t wait_us)
{
    timer->at = now + (int64_t)wait_us;
    return 0;
}

int64_t esp_timer_get_time(void)
{
    return now;
}

void stand_in_run(int64_t until);

void stand_in_run(int64_t until)
{
    while (only.settings.callback != NULL && only.at < until) {
        now = only.at;
        only.settings.callback(only.settings.arg);
    }
}
