// Stands in for an Arduino core: ten turns of loop(), 20 ms apart.
#include "Arduino.h"

#include <cstdio>

static unsigned long now;
SerialPort Serial;
extern "C" int num_driven;

unsigned long micros() { return now; }
void SerialPort::begin(unsigned long) {}
void SerialPort::print(const char *text) { std::printf("%s", text); }
void SerialPort::println(int value) { std::printf("%d\n", value); }

int main()
{
    setup();
    for (int turn = 0; turn < 10; turn++) {
        loop();
        now += 20000;
    }
    std::printf("driven %d\n", num_driven);
}
