import type { AnyDriver } from "../driver/driver.ts";
import { className } from "./config.ts";
import sideCar from "./driver.ts";
import { findPython, hasJumpstarter, probe } from "./python.ts";

/**
 * The driver for a type that nobody here knows: the side-car, if the type could be a Python class and there is a Python.
 * @param meant a known type that is spelled almost alike: then Python is asked whether it has the other one
 */
export async function foreignDriver(type: string, meant: string | undefined): Promise<AnyDriver | undefined> {
  const python = findPython(undefined);
  if (python === undefined || !className.test(type)) return undefined;
  if (!(await hasJumpstarter(python))) return undefined;
  if (meant !== undefined && (await probe(python, type)).missing !== undefined) return undefined;
  return sideCar;
}
