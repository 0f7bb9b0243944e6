/** The emulator's command line and its log, as the Android SDK documents them (developer.android.com, emulator-commandline). */

export interface EmulatorWords {
  readonly avd: string;
  readonly consolePort: number;
  readonly headless: boolean;
}

export function emulatorArguments({ avd, consolePort, headless }: EmulatorWords): string[] {
  const words = ["-avd", avd, "-port", `${consolePort}`, "-no-audio", "-no-boot-anim", "-skip-adb-auth"];
  return headless ? [...words, "-no-window"] : words;
}

/** Its name among the devices of an ADB server. */
export const serialOf = (consolePort: number) => `emulator-${consolePort}`;

export type LogLevel = "error" | "warn" | "info";

/** A line of its output: `WARNING | text`, or plain text. What it writes to stderr is an error. */
export function readLogLine(line: string, from: "stdout" | "stderr"): { level: LogLevel; text: string } {
  if (from === "stderr") return { level: "error", text: line.trim() };
  const [, level, text] = /^([^|]*)\|(.*)$/s.exec(line) ?? [];
  if (level === undefined || text === undefined) return { level: "info", text: line.trim() };
  if (/ERROR|FATAL/i.test(level)) return { level: "error", text: text.trim() };
  return { level: /WARN/i.test(level) ? "warn" : "info", text: text.trim() };
}
