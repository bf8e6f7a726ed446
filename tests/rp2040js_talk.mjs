// Boot a flat RP2040 image in rp2040js (npm, MIT) as the boot ROM would, and talk with it over UART0.
// node rp2040js_talk.mjs RP2040JS/dist/esm/index.js IMAGE.bin TURNS
// TURNS is JSON, [[text, bytes], ...]: send text once the bytes of the turn before have come. Prints what each turn
// brought, as JSON; "reset" follows where the watchdog ended it.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

console.warn = console.error;
const { Simulator } = await import(pathToFileURL(process.argv[2]));
const image = readFileSync(process.argv[3]);
const NANOS_A_CYCLE = 1e9 / 125e6;
const turns = JSON.parse(process.argv[4]);
const simulator = new Simulator();
const mcu = simulator.rp2040;
mcu.flash.set(image);
mcu.sram.set(image.subarray(0, 256), 0x41f00);
mcu.core.SP = 0x20041f00;
mcu.core.PC = 0x20041f00;
const came = [""];
const end = (more) => {
  process.stdout.write(JSON.stringify([...came, ...more]));
  process.exit(0);
};
const next = () => {
  const [text] = turns[came.length - 1];
  for (const letter of text) mcu.uart[0].feedByte(letter.charCodeAt(0));
};
mcu.uart[0].onByte = (byte) => {
  came[came.length - 1] += String.fromCharCode(byte);
  if (came.at(-1).length < turns[came.length - 1][1]) return;
  if (came.length === turns.length) end([]);
  came.push("");
  next();
};
mcu.peripherals[0x40058].onWatchdogTrigger = () => end(["reset"]);
setTimeout(() => end(["timeout"]), 60000);
next();

// The simulator's own loop does not end a sleep for SysTick; a chip does.
const run = () => {
  for (let i = 0; i < 200000; i++) {
    if (!mcu.core.waiting) {
      simulator.clock.tick(mcu.core.executeInstruction() * NANOS_A_CYCLE);
    } else {
      simulator.clock.tick(simulator.clock.nanosToNextAlarm);
      if (mcu.core.pendingSystick) mcu.core.waiting = false;
    }
  }
  setImmediate(run);
};
run();
