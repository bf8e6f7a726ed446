// SPDX-License-Identifier: Apache-2.0
// Boot an RP2040 image in rp2040js (npm, MIT) as the boot ROM would; UART0 is a TCP socket on 127.0.0.1.
// node rp2040js_bridge.mjs RP2040JS/dist/esm/index.js IMAGE.uf2
// Prints where, and starts the chip with the first client. Ends with its standard input.
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { pathToFileURL } from "node:url";

const [, , library, image] = process.argv;
const INSTRUCTIONS_A_TURN = 20000;
const FIFO_DEPTH = 16; // of the UART; more would be lost, as on the wire
const FLASH = 0x10000000;
const BOOT2_BYTES = 256;
const BOOT2_PLACE = 0x20041f00;
const SRAM = 0x20000000;

console.warn = console.log = () => {}; // standard output carries the port only
const { Simulator } = await import(pathToFileURL(library));

const crcOf = (bytes) => {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte << 24;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x80000000 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
  }
  return crc >>> 0;
};

const simulator = new Simulator();
const { rp2040: mcu, clock } = simulator;
const file = readFileSync(image);
for (let at = 0; at < file.length; at += 512) {
  const size = file.readUInt32LE(at + 16);
  mcu.flash.set(file.subarray(at + 32, at + 32 + size), file.readUInt32LE(at + 12) - FLASH);
}
const boot2 = mcu.flash.subarray(0, BOOT2_BYTES);
if (crcOf(boot2.subarray(0, 252)) !== Buffer.from(boot2).readUInt32LE(252)) {
  process.stderr.write("the CRC of the second-stage boot is wrong: the boot ROM would not start it\n");
  process.exit(1);
}
mcu.sram.set(boot2, BOOT2_PLACE - SRAM);
mcu.core.SP = BOOT2_PLACE;
mcu.core.PC = BOOT2_PLACE;

const uart = mcu.uart[0];
const received = [];
let sent = [];
let client = null;
let isIdle = false;
uart.onByte = (byte) => sent.push(byte);

const flush = () => {
  if (sent.length > 0 && client !== null) client.write(Buffer.from(sent));
  sent = [];
};

// One turn of the chip. While it sleeps with nothing to receive, its time passes as ours does.
const turn = () => {
  isIdle = false;
  const nanos = 1e9 / mcu.clkSys;
  for (let i = 0; i < INSTRUCTIONS_A_TURN; i++) {
    const isListening = uart.interruptMask !== 0; // what came before would raise no interrupt in this model
    if (received.length > 0 && isListening && uart.rxFIFO.itemCount < FIFO_DEPTH) {
      uart.feedByte(received.shift());
    }
    if (!mcu.core.waiting) {
      clock.tick(mcu.core.executeInstruction() * nanos);
    } else if (received.length === 0) {
      isIdle = true;
      break;
    }
  }
  flush();
  if (isIdle) {
    setTimeout(wake, 1);
  } else {
    setImmediate(turn);
  }
};

const wake = () => {
  if (!isIdle) return;
  clock.tick(clock.nanosToNextAlarm);
  if (mcu.core.pendingSystick) mcu.core.waiting = false; // rp2040js leaves a sleep for other interrupts only
  turn();
};

const server = createServer((socket) => {
  const isFirst = client === null;
  client = socket;
  socket.setNoDelay(true);
  socket.on("error", () => {});
  socket.on("data", (bytes) => {
    for (const byte of bytes) received.push(byte);
    if (isIdle) turn();
  });
  if (isFirst) turn();
});
server.listen(0, "127.0.0.1", () => {
  process.stdout.write(`uart: filename=tcp:127.0.0.1:${server.address().port}\n`);
});
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
