/* Stands in for an Arduino core: what the example uses of one. */
#ifndef ARDUINO_H
#define ARDUINO_H

#include <stdint.h>

unsigned long micros();
void setup();
void loop();

class SerialPort {
public:
    void begin(unsigned long rate);
    void print(const char *text);
    void println(int value);
};

extern SerialPort Serial;

#endif
