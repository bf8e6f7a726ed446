/* Stands in for ESP-IDF: app_main, then 0.2 s of timers. */
#include <stdint.h>
#include <stdio.h>

void app_main(void);
void stand_in_run(int64_t until);
extern int num_driven;

int main(void)
{
    app_main();
    stand_in_run(200000);
    printf("driven %d\n", num_driven);
    return 0;
}
