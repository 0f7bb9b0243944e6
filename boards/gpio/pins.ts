/** Pins of the 40-pin header of a Raspberry Pi and what its chip calls them (the board's schematics, header J8). */
const byHeader: Readonly<Record<number, number>> = {
  ...{ 3: 2, 5: 3, 7: 4, 8: 14, 10: 15, 11: 17, 12: 18, 13: 27, 15: 22, 16: 23, 18: 24, 19: 10, 21: 9, 22: 25, 23: 11 },
  ...{ 24: 8, 26: 7, 27: 0, 28: 1, 29: 5, 31: 6, 32: 12, 33: 13, 35: 19, 36: 16, 37: 26, 38: 20, 40: 21 },
};

/** Numbers of the WiringPi library and pins of the header. */
const byWiringPi: Readonly<Record<number, number>> = {
  ...{ 0: 11, 1: 12, 2: 13, 3: 15, 4: 16, 5: 18, 6: 22, 7: 7, 8: 3, 9: 5, 10: 24, 11: 26, 12: 19, 13: 21, 14: 23 },
  ...{ 15: 8, 16: 10, 21: 29, 22: 31, 23: 33, 24: 35, 25: 37, 26: 32, 27: 36, 28: 38, 29: 40, 30: 27, 31: 28 },
};

/**
 * The line of a pin as gpiozero names it: `17`, `GPIO17`, `BCM17`, `BOARD11`, `J8:11`, `WPI0`, in capitals or not.
 * @returns undefined for what is no pin, or a pin of power or ground
 */
export function lineOfPin(pin: number | string): number | undefined {
  const [, kind = "", digits = ""] = /^(GPIO|BCM|BOARD|J8:|WPI|)(\d{1,3})$/.exec(`${pin}`.toUpperCase()) ?? [];
  const number = Number(digits);
  if (digits === "") return undefined;
  if (kind === "BOARD" || kind === "J8:") return byHeader[number];
  if (kind === "WPI") return byHeader[byWiringPi[number] ?? 0];
  return number;
}
