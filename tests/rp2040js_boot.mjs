// Boot a flat RP2040 image in rp2040js (npm, MIT) as the boot ROM would, and print the first line of UART0.
// node rp2040js_boot.mjs RP2040JS/dist/esm/index.js IMAGE.bin
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

console.warn = console.error;
const { Simulator } = await import(pathToFileURL(process.argv[2]));
const image = readFileSync(process.argv[3]);
const simulator = new Simulator();
const mcu = simulator.rp2040;
mcu.flash.set(image);
mcu.sram.set(image.subarray(0, 256), 0x41f00);
mcu.core.SP = 0x20041f00;
mcu.core.PC = 0x20041f00;
let text = "";
const end = () => {
  process.stdout.write(text);
  process.exit(0);
};
mcu.uart[0].onByte = (byte) => {
  text += String.fromCharCode(byte);
  if (byte === 10) end();
};
setTimeout(end, 30000);
simulator.execute();
