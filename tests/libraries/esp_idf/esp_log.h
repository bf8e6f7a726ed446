/* Stands in for ESP-IDF. */
#include <stdio.h>
#define ESP_LOGE(tag, ...) printf(__VA_ARGS__)
