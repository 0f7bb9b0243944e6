import type { RemoteNode } from "../../client/node.ts";
import type { Interface } from "../../driver/interface.ts";
import type { Commands } from "./command.ts";

/** What `j` knows of one kind of driver. */
export interface Kind {
  /** Help of a driver whose configuration describes it with nothing better. */
  readonly summary: string;
  /** Loads the commands; only for drivers that the words name. */
  commands(node: RemoteNode, signal: AbortSignal): Promise<Commands>;
}

type Load = Kind["commands"];

/** Commands made of the interface alone. */
function derived(load: () => Promise<Interface>): Load {
  return async () => {
    const [wanted, { commandsOf }] = await Promise.all([load(), import("./commands/derived.ts")]);
    return commandsOf(wanted);
  };
}

const power: Load = async () => (await import("./commands/power.ts")).commands;
const virtualPower: Load = async () => (await import("./commands/power.ts")).virtualCommands;
const network: Load = async () => (await import("./commands/network.ts")).commands;
const serial: Load = async () => (await import("./commands/serial.ts")).commands;
const storage: Load = async () => (await import("./commands/storage.ts")).commands;
const flasher: Load = async () => (await import("./commands/flasher.ts")).flasherCommands;
const mux: Load = async () => (await import("./commands/mux.ts")).muxCommands;
const muxFlasher: Load = async () => (await import("./commands/mux.ts")).muxFlasherCommands;
const netbootFlasher: Load = async () => (await import("./commands/netboot-flasher.ts")).commands;
const shell: Load = async (node, signal) => (await import("./commands/shell.ts")).commandsOf(node, signal);
const qemu: Load = async () => (await import("./commands/qemu.ts")).commands;
const qemuFlasher: Load = async () => (await import("./commands/qemu.ts")).qemuFlasherCommands;
const noyito: Load = async () => (await import("./commands/noyito.ts")).commands;
const dutNetwork: Load = async () => (await import("./commands/dut-network.ts")).commands;
const gpioOutput: Load = async () => (await import("./commands/gpio.ts")).outputCommands;
const gpioInput: Load = async () => (await import("./commands/gpio.ts")).inputCommands;
const i2c = derived(async () => (await import("../../../boards/i2c/interface.ts")).i2c);
const can: Load = async () => (await import("./commands/can.ts")).commands;
const http = derived(async () => (await import("../../../net/http/interface.ts")).http);
const tftp = derived(async () => (await import("../../../net/tftp/interface.ts")).tftp);
const isoTp = derived(async () => (await import("../../../boards/isotp/interface.ts")).isoTp);
const uds = derived(async () => (await import("../../../boards/uds/interface.ts")).uds);
const doip = derived(async () => (await import("../../../boards/doip/interface.ts")).doip);
const someIp = derived(async () => (await import("../../../net/someip/interface.ts")).someIp);
const iscsi = derived(async () => (await import("../../../net/iscsi/interface.ts")).iscsi);
const androidEmulator = derived(
  async () => (await import("../../../boards/androidemulator/interface.ts")).androidEmulator,
);
const cuttlefish = derived(async () => (await import("../../../boards/cuttlefish/interface.ts")).cuttlefish);
const adb: Load = async (node, signal) => {
  const own = derived(async () => (await import("../../../boards/adb/interface.ts")).adb);
  return { ...(await own(node, signal)), ...(await network(node, signal)) };
};
const xcp = derived(async () => (await import("../../../boards/xcp/interface.ts")).xcp);
const video: Load = async () => (await import("./commands/video.ts")).commands;
const probeRs: Load = async () => (await import("./commands/probe-rs.ts")).commands;
const stlinkMsd: Load = async () => (await import("./commands/boards.ts")).stlinkCommands;
const piPico: Load = async () => (await import("./commands/boards.ts")).picoCommands;
const esp32: Load = async () => (await import("./commands/boards.ts")).esp32Commands;
const rideSX = derived(async () => (await import("../../../boards/ridesx/interface.ts")).rideSX);
const renode: Load = async () => (await import("./commands/boards.ts")).renodeCommands;
const uboot = derived(async () => (await import("../../../boards/uboot/interface.ts")).ubootConsole);
const sshWrapper = derived(async () => (await import("../../../net/ssh/interface.ts")).sshWrapper);
const vnc = derived(async () => (await import("../../../net/vnc/interface.ts")).vnc);
const tmt = derived(async () => (await import("../../../net/tmt/interface.ts")).tmt);

/** Client class of the report → what `j` does with such a driver. Drivers of other classes are left out of the help. */
export const kinds: ReadonlyMap<string, Kind> = new Map([
  kind("jumpstarter_driver_composite.client.CompositeClient", "Generic composite device", () => Promise.resolve({})),
  kind("jumpstarter_driver_power.client.PowerClient", "Generic power", power),
  kind("jumpstarter_driver_power.client.VirtualPowerClient", "Generic power", virtualPower),
  kind("jumpstarter_driver_snmp.client.SNMPServerClient", "SNMP power control commands", power),
  kind("jumpstarter_driver_noyito_relay.client.NoyitoPowerClient", "Generic power", noyito),
  kind("jumpstarter_driver_network.client.NetworkClient", "Generic Network Connection", network),
  kind("jumpstarter_driver_network.client.DbusNetworkClient", "Generic Network Connection", network),
  kind("jumpstarter_driver_ssh.client.SSHWrapperClient", "SSH to the board", sshWrapper),
  kind("jumpstarter_driver_ssh_mount.client.SSHMountClient", "Board's files by sshfs", () => Promise.resolve({})),
  kind("jumpstarter_driver_vnc.client.VNClient", "VNC screen", vnc),
  kind("jumpstarter_driver_tmt.client.TMTClient", "tmt on the board", tmt),
  kind("jumpstarter_driver_pyserial.client.PySerialClient", "Serial port client", serial),
  kind("jumpstarter_driver_opendal.client.OpendalClient", "Opendal Storage", storage),
  kind("jumpstarter_driver_opendal.client.FlasherClient", "Generic flasher interface", flasher),
  kind("jumpstarter.client.flasher.FlasherClient", "Generic flasher interface", flasher),
  kind("jumpstarter_driver_opendal.client.StorageMuxClient", "Storage operations", mux),
  kind("jumpstarter_driver_opendal.client.StorageMuxFlasherClient", "Generic flasher interface", muxFlasher),
  kind("jumpstarter_driver_flashers.client.BaseFlasherClient", "Software-defined flasher interface", netbootFlasher),
  kind("jumpstarter_driver_qemu.client.QemuClient", "QEMU virtual machine", qemu),
  kind(
    "jumpstarter_driver_qemu.client.QemuFlasherClient",
    "Flasher client for QEMU with OCI support via fls.",
    qemuFlasher,
  ),
  kind("jumpstarter_driver_http.client.HttpServerClient", "HTTP server", http),
  kind("jumpstarter_driver_tftp.client.TftpServerClient", "TFTP server", tftp),
  kind("jumpstarter_driver_dut_network.client.DutNetworkClient", "DUT Network Isolation", dutNetwork),
  kind("jumpstarter_driver_can.client.CanClient", "CAN bus", can),
  kind("jumpstarter_driver_ustreamer.client.UStreamerClient", "Camera", video),
  kind("jumpstarter_driver_video.client.VideoClient", "Camera", video),
  kind("jumpstarter_driver_probe_rs.client.ProbeRsClient", "probe-rs client", probeRs),
  kind("jumpstarter_driver_corellium.client.CorelliumClient", "Virtual device of Corellium", () => Promise.resolve({})),
  kind("jumpstarter_driver_uboot.client.UbootConsoleClient", "U-Boot console", uboot),
  kind("jumpstarter_driver_gpiod.client.DigitalOutputClient", "Digital output", gpioOutput),
  kind("jumpstarter_driver_gpiod.client.DigitalInputClient", "Digital input", gpioInput),
  kind("jumpstarter_driver_raspberrypi.client.DigitalOutputClient", "Digital output", gpioOutput),
  kind("jumpstarter_driver_raspberrypi.client.DigitalInputClient", "Digital input", gpioInput),
  kind("jumpstarter_agent.client.I2cClient", "I2C bus", i2c),
  kind("jumpstarter_driver_can.client.IsoTpClient", "ISO-TP over CAN", isoTp),
  kind("jumpstarter_driver_uds.client.UdsClient", "Diagnostics of an ECU (UDS)", uds),
  kind("jumpstarter_driver_doip.client.DoIPDriverClient", "Diagnostics over IP (DoIP)", doip),
  kind("jumpstarter_driver_stlink_msd.client.StlinkMsdFlasherClient", "ST-LINK mass storage flasher", stlinkMsd),
  kind("jumpstarter_driver_pi_pico.client.PiPicoClient", "UF2 flasher", piPico),
  kind("jumpstarter_driver_someip.client.SomeIpDriverClient", "Services over IP (SOME/IP)", someIp),
  kind("jumpstarter_driver_esp32.client.Esp32FlasherClient", "ESP32 flasher", esp32),
  kind("jumpstarter_driver_ridesx.client.RideSXClient", "RideSX storage operations", rideSX),
  kind("jumpstarter_driver_ridesx.client.RideSXPowerClient", "Generic power", power),
  kind("jumpstarter_driver_adb.client.AdbClient", "ADB tunneling and device access", adb),
  kind("jumpstarter_driver_androidemulator.client.AndroidEmulatorClient", "Android emulator", androidEmulator),
  kind("jumpstarter_driver_cuttlefish.client.CuttlefishClient", "Cuttlefish device", cuttlefish),
  kind("jumpstarter_driver_cuttlefish.client.CvdPowerClient", "Generic power", virtualPower),
  kind("jumpstarter_driver_iscsi.client.ISCSIServerClient", "iSCSI target", iscsi),
  kind("jumpstarter_driver_xcp.client.XcpClient", "Measurement and calibration (XCP)", xcp),
  kind("jumpstarter_driver_renode.client.RenodeClient", "Generic composite device", renode),
  kind("jumpstarter_driver_shell.client.ShellClient", "Shell command executor", shell),
]);

function kind(clientClass: string, summary: string, commands: Load): [string, Kind] {
  return [clientClass, { summary, commands }];
}
