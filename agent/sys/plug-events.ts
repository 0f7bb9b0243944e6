import { closeSync, readSync } from "node:fs";
import { isSystemError } from "../driver/errors.ts";
import { loadKoffi } from "./native.ts";
import { watchDescriptor } from "./poll.ts";
import { socketCalls, SOCK_NONBLOCK, SOCK_RAW } from "./sockets.ts";

/**
 * What the kernel tells of devices that come and go, and of network links that do or change. Numbers: linux/netlink.h, linux/rtnetlink.h;
 * layout: struct sockaddr_nl.
 */

const AF_NETLINK = 16;
const sockaddrBytes = 12;
/** The kernel's own messages of devices are for group 1; udev sends its own to group 2. */
const devices = { protocol: 15 /* NETLINK_KOBJECT_UEVENT */, group: 1 };
const links = { protocol: 0 /* NETLINK_ROUTE */, group: 1 /* RTMGRP_LINK */ };
/** Messages are not read, only noticed; what does not fit is cut off. */
const messageBytes = 8_192;

/**
 * Calls back whenever something was plugged in or out, or a network link was set up or down, until the returned function is called. Keeps no
 * process alive.
 * @throws AgentError E_UNSUPPORTED where native code cannot be loaded; the system's error where such sockets are forbidden
 */
export async function watchPlugs(onChange: () => void): Promise<() => void> {
  const koffi = await loadKoffi();
  const sockets = socketCalls(koffi);
  const buffer = Buffer.alloc(messageBytes);
  const watch = ({ protocol, group }: typeof devices) => {
    const fd = sockets.open(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, protocol, "open a netlink socket");
    try {
      const address = Buffer.alloc(sockaddrBytes);
      address.writeUInt16LE(AF_NETLINK, 0);
      address.writeUInt32LE(group, 8);
      sockets.bind(fd, address, "listen to netlink");
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    const unwatch = watchDescriptor(koffi, fd, "readable", () => {
      if (drain(fd, buffer)) onChange();
    });
    return () => {
      unwatch();
      closeSync(fd);
    };
  };
  const stopDevices = watch(devices);
  try {
    const stopLinks = watch(links);
    return () => {
      stopDevices();
      stopLinks();
    };
  } catch (error) {
    stopDevices();
    throw error;
  }
}

/** @returns whether there was something, or something was lost */
function drain(fd: number, buffer: Buffer): boolean {
  for (let found = false; ; found = true) {
    try {
      readSync(fd, buffer);
    } catch (error) {
      return found || (isSystemError(error) && error.code === "ENOBUFS");
    }
  }
}
