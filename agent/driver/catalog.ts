import type { AnyDriver } from "./driver.ts";

/** Loads the module that declares a driver; called only when a configuration names the driver. */
type Load = () => Promise<AnyDriver>;

/**
 * Type string → driver module. The only file that names driver modules, and only lazily, so that
 * an agent loads the code of the drivers its configuration names and of no others.
 */
export interface Catalog {
  /** All type strings, sorted. */
  types(): string[];
  /** Undefined for an unknown type. */
  load(type: string): Promise<AnyDriver> | undefined;
  /**
   * The driver that runs drivers of unknown types elsewhere, if this one can be.
   * @param meant a known type that looks much like it
   */
  foreign?(type: string, meant: string | undefined): Promise<AnyDriver | undefined>;
}

export function createCatalog(entries: ReadonlyMap<string, Load>, foreign?: Catalog["foreign"]): Catalog {
  return {
    types: () => [...entries.keys()].sort(),
    load: (type) => entries.get(type)?.(),
    ...(foreign === undefined ? {} : { foreign }),
  };
}

/** A driver's precise types are checked where it is declared; from here on by its schemas. */
function lazy(load: () => Promise<{ default: unknown }>): Load {
  return async () => (await load()).default as AnyDriver;
}

const can = lazy(() => import("../../boards/can/driver.ts"));
const composite = lazy(() => import("../../boards/composite/driver.ts"));
const mockPower = lazy(() => import("../../boards/power/driver.ts"));
const virtualBoard = lazy(() => import("../../boards/qemu/virtual-board/driver.ts"));
const virtualBoardPower = lazy(() => import("../../boards/qemu/virtual-board/power.ts"));
const virtualBoardSerial = lazy(() => import("../../boards/qemu/virtual-board/serial.ts"));
const qemu = lazy(() => import("../../boards/qemu/driver.ts"));
const qemuPower = lazy(() => import("../../boards/qemu/power.ts"));
const qemuFlasher = lazy(() => import("../../boards/qemu/flasher.ts"));
const qemuConsole = lazy(() => import("../../boards/qemu/console-driver.ts"));
const qemuVnc = lazy(() => import("../../boards/qemu/vnc.ts"));
const qemuSsh = lazy(() => import("../../boards/qemu/ssh.ts"));
const vsockNetwork = lazy(() => import("../../net/sockets/vsock.ts"));
const opendal = lazy(() => import("../../boards/storage/driver.ts"));
const mockFlasher = lazy(() => import("../../boards/storage/mock-flasher.ts"));
const mockMux = lazy(() => import("../../boards/storage/mock-mux.ts"));
const mockMuxFlasher = lazy(() => import("../../boards/storage/mock-mux-flasher.ts"));
const sdWire = lazy(() => import("../../boards/sdwire/driver.ts"));
const sdWire3 = lazy(() => import("../../boards/sdwire/sdwire3.ts"));
const usbSdMux = lazy(() => import("../../boards/usb-sd-mux/driver.ts"));
const pySerial = lazy(() => import("../../boards/serial/driver.ts"));
const nvDemuxSerial = lazy(() => import("../../boards/serial/nvdemux.ts"));
const digitalOutput = lazy(async () => ({ default: (await import("../../boards/gpio/driver.ts")).output }));
const digitalInput = lazy(async () => ({ default: (await import("../../boards/gpio/driver.ts")).input }));
const gpioPower = lazy(async () => ({ default: (await import("../../boards/gpio/driver.ts")).powerSwitch }));
const pinOutput = lazy(async () => ({ default: (await import("../../boards/gpio/raspberrypi.ts")).output }));
const pinInput = lazy(async () => ({ default: (await import("../../boards/gpio/raspberrypi.ts")).input }));
const pinPower = lazy(async () => ({ default: (await import("../../boards/gpio/raspberrypi.ts")).powerSwitch }));
const i2c = lazy(() => import("../../boards/i2c/driver.ts"));
const powerMeter = lazy(() => import("../../boards/i2c/power-meter.ts"));
const udsCan = lazy(() => import("../../boards/uds/can.ts"));
const udsDoip = lazy(() => import("../../boards/uds/doip.ts"));
const doip = lazy(() => import("../../boards/doip/driver.ts"));
const httpVideo = lazy(() => import("../../boards/video/driver.ts"));
const uStreamer = lazy(() => import("../../boards/ustreamer/driver.ts"));
const probeRs = lazy(() => import("../../boards/probe-rs/driver.ts"));
const corellium = lazy(() => import("../../boards/corellium/driver.ts"));
const corelliumPower = lazy(() => import("../../boards/corellium/power.ts"));
const corelliumConsole = lazy(() => import("../../boards/corellium/console.ts"));
const xcp = lazy(() => import("../../boards/xcp/driver.ts"));
const shell = lazy(() => import("../../boards/shell/driver.ts"));
const tcpNetwork = lazy(() => import("../../net/sockets/tcp.ts"));
const udpNetwork = lazy(() => import("../../net/sockets/udp.ts"));
const unixNetwork = lazy(() => import("../../net/sockets/unix.ts"));
const websocketNetwork = lazy(() => import("../../net/sockets/websocket.ts"));
const echoNetwork = lazy(() => import("../../net/sockets/echo.ts"));
const dbusNetwork = lazy(() => import("../../net/sockets/dbus.ts"));
const sshWrapper = lazy(() => import("../../net/ssh/driver.ts"));
const sshMount = lazy(() => import("../../net/ssh/mount.ts"));
const sshMitm = lazy(() => import("../../net/ssh-mitm/driver.ts"));
const vnc = lazy(() => import("../../net/vnc/driver.ts"));
const tmt = lazy(() => import("../../net/tmt/driver.ts"));
const tftp = lazy(() => import("../../net/tftp/driver.ts"));
const httpServer = lazy(() => import("../../net/http/driver.ts"));
const someIp = lazy(() => import("../../net/someip/driver.ts"));
const dutNetwork = lazy(() => import("../../net/dut-network/driver.ts"));
const isoTpPython = lazy(() => import("../../boards/isotp/python.ts"));
const isoTpSocket = lazy(() => import("../../boards/isotp/socket.ts"));
const dutlink = lazy(() => import("../../boards/dutlink/driver.ts"));
const dutlinkPower = lazy(() => import("../../boards/dutlink/power.ts"));
const dutlinkStorage = lazy(() => import("../../boards/dutlink/storage.ts"));
const dutlinkSerial = lazy(() => import("../../boards/dutlink/serial.ts"));
const ykush = lazy(() => import("../../boards/yepkit/driver.ts"));
const noyitoSerial = lazy(() => import("../../boards/noyito/serial.ts"));
const noyitoHid = lazy(() => import("../../boards/noyito/hid.ts"));
const hubPort = lazy(() => import("../../boards/hub-port/driver.ts"));
const energenie = lazy(() => import("../../boards/energenie/driver.ts"));
const snmpServer = lazy(() => import("../../boards/snmp/driver.ts"));
const tasmota = lazy(() => import("../../boards/tasmota/driver.ts"));
const httpPower = lazy(() => import("../../boards/http-power/driver.ts"));
const ubootConsole = lazy(() => import("../../boards/uboot/driver.ts"));
const adbServer = lazy(() => import("../../boards/adb/driver.ts"));
const androidEmulator = lazy(() => import("../../boards/androidemulator/driver.ts"));
const androidEmulatorPower = lazy(() => import("../../boards/androidemulator/power.ts"));
const stlinkMsd = lazy(() => import("../../boards/stlink-msd/driver.ts"));
const piPico = lazy(() => import("../../boards/pi-pico/driver.ts"));
const cuttlefish = lazy(() => import("../../boards/cuttlefish/driver.ts"));
const cuttlefishPower = lazy(() => import("../../boards/cuttlefish/power.ts"));
const cuttlefishStorage = lazy(() => import("../../boards/cuttlefish/storage.ts"));
const iscsi = lazy(() => import("../../net/iscsi/driver.ts"));
const esp32 = lazy(() => import("../../boards/esp32/driver.ts"));
const rideSX = lazy(() => import("../../boards/ridesx/driver.ts"));
const rideSXPower = lazy(() => import("../../boards/ridesx/power.ts"));
const renode = lazy(() => import("../../boards/renode/driver.ts"));
const renodePower = lazy(() => import("../../boards/renode/power.ts"));
const renodeFlasher = lazy(() => import("../../boards/renode/flasher.ts"));
const renodeConsole = lazy(() => import("../../boards/renode/console.ts"));
const baseFlasher = lazy(async () => ({ default: (await import("../../bundles/flasher/driver.ts")).baseFlasher }));
const tiFlasher = lazy(async () => ({ default: (await import("../../bundles/flasher/driver.ts")).tiJ784s4Flasher }));
const rcarFlasher = lazy(async () => ({ default: (await import("../../bundles/flasher/driver.ts")).rcarS4Flasher }));
const sideCar = lazy(() => import("../sidecar/driver.ts"));

/** The drivers that ship with the agent. */
export const shippedDrivers: Catalog = createCatalog(
  new Map<string, Load>([
    // boards/composite
    ["jumpstarter_driver_composite.driver.Composite", composite],
    // boards/power
    ["jumpstarter_driver_power.driver.MockPower", mockPower],
    ["jumpstarter_driver_power.driver.SyncMockPower", mockPower],
    ["jumpstarter.drivers.power.driver.MockPower", mockPower],
    // boards/can
    ["jumpstarter_driver_can.driver.Can", can],
    ["jumpstarter_driver_can.Can", can],
    // boards/serial
    ["jumpstarter_driver_pyserial.driver.PySerial", pySerial],
    ["jumpstarter_driver_pyserial.nvdemux.driver.NVDemuxSerial", nvDemuxSerial],
    // boards/storage
    ["jumpstarter_driver_opendal.driver.Opendal", opendal],
    ["jumpstarter_driver_opendal.driver.MockFlasher", mockFlasher],
    ["jumpstarter_driver_opendal.driver.MockStorageMux", mockMux],
    ["jumpstarter.drivers.storage.driver.MockStorageMux", mockMux],
    ["jumpstarter_driver_opendal.driver.MockStorageMuxFlasher", mockMuxFlasher],
    // boards/gpio
    ["jumpstarter_driver_gpiod.driver.DigitalOutput", digitalOutput],
    ["jumpstarter_driver_gpiod.driver.DigitalInput", digitalInput],
    ["jumpstarter_driver_gpiod.driver.PowerSwitch", gpioPower],
    ["jumpstarter_driver_raspberrypi.driver.DigitalOutput", pinOutput],
    ["jumpstarter_driver_raspberrypi.driver.DigitalInput", pinInput],
    ["jumpstarter_driver_raspberrypi.driver.PowerSwitch", pinPower],
    // boards/i2c
    ["jumpstarter_agent.I2c", i2c],
    ["jumpstarter_agent.PowerMeter", powerMeter],
    // boards/isotp
    ["jumpstarter_driver_can.driver.IsoTpPython", isoTpPython],
    ["jumpstarter_driver_can.IsoTpPython", isoTpPython],
    ["jumpstarter_driver_can.driver.IsoTpSocket", isoTpSocket],
    ["jumpstarter_driver_can.IsoTpSocket", isoTpSocket],
    // boards/sdwire
    ["jumpstarter_driver_sdwire.driver.SDWire", sdWire],
    ["jumpstarter_agent.SDWire3", sdWire3],
    // boards/usb-sd-mux
    ["jumpstarter_agent.UsbSdMux", usbSdMux],
    // boards/shell
    ["jumpstarter_driver_shell.driver.Shell", shell],
    // boards/uboot
    ["jumpstarter_driver_uboot.driver.UbootConsole", ubootConsole],
    // boards/dutlink
    ["jumpstarter_driver_dutlink.driver.Dutlink", dutlink],
    ["jumpstarter_driver_dutlink.driver.DutlinkPower", dutlinkPower],
    ["jumpstarter_driver_dutlink.driver.DutlinkStorageMux", dutlinkStorage],
    ["jumpstarter_driver_dutlink.driver.DutlinkSerial", dutlinkSerial],
    // boards/yepkit
    ["jumpstarter_driver_yepkit.driver.Ykush", ykush],
    // boards/noyito
    ["jumpstarter_driver_noyito_relay.driver.NoyitoPowerSerial", noyitoSerial],
    ["jumpstarter_driver_noyito_relay.driver.NoyitoPowerHID", noyitoHid],
    // boards/hub-port
    ["jumpstarter_agent.HubPortPower", hubPort],
    // boards/energenie
    ["jumpstarter_driver_energenie.driver.EnerGenie", energenie],
    // boards/snmp
    ["jumpstarter_driver_snmp.driver.SNMPServer", snmpServer],
    // boards/adb
    ["jumpstarter_driver_adb.driver.AdbServer", adbServer],
    // boards/androidemulator
    ["jumpstarter_driver_androidemulator.driver.AndroidEmulator", androidEmulator],
    ["jumpstarter_driver_androidemulator.driver.AndroidEmulatorPower", androidEmulatorPower],
    // boards/uds
    ["jumpstarter_driver_uds_can.driver.UdsCan", udsCan],
    ["jumpstarter_driver_uds_doip.driver.UdsDoip", udsDoip],
    // boards/doip
    ["jumpstarter_driver_doip.driver.DoIP", doip],
    // boards/stlink-msd
    ["jumpstarter_driver_stlink_msd.driver.StlinkMsdFlasher", stlinkMsd],
    // boards/pi-pico
    ["jumpstarter_driver_pi_pico.driver.PiPicoFlasher", piPico],
    // boards/ustreamer, boards/video
    ["jumpstarter_driver_ustreamer.driver.UStreamer", uStreamer],
    ["jumpstarter_driver_video.driver.HttpVideo", httpVideo],
    // boards/tasmota
    ["jumpstarter_driver_tasmota.driver.TasmotaPower", tasmota],
    // boards/http-power
    ["jumpstarter_driver_http_power.driver.HttpPower", httpPower],
    // boards/probe-rs
    ["jumpstarter_driver_probe_rs.driver.ProbeRs", probeRs],
    // boards/esp32
    ["jumpstarter_driver_esp32.driver.Esp32Flasher", esp32],
    // boards/ridesx
    ["jumpstarter_driver_ridesx.driver.RideSXDriver", rideSX],
    ["jumpstarter_driver_ridesx.driver.RideSXPowerDriver", rideSXPower],
    // boards/corellium
    ["jumpstarter_driver_corellium.driver.Corellium", corellium],
    ["jumpstarter_driver_corellium.driver.CorelliumPower", corelliumPower],
    ["jumpstarter_driver_corellium.driver.CorelliumConsole", corelliumConsole],
    // boards/xcp
    ["jumpstarter_driver_xcp.driver.Xcp", xcp],
    // boards/renode
    ["jumpstarter_driver_renode.driver.Renode", renode],
    ["jumpstarter_driver_renode.driver.RenodePower", renodePower],
    ["jumpstarter_driver_renode.driver.RenodeFlasher", renodeFlasher],
    ["jumpstarter_agent.RenodeConsole", renodeConsole],
    // boards/cuttlefish
    ["jumpstarter_driver_cuttlefish.driver.Cuttlefish", cuttlefish],
    ["jumpstarter_driver_cuttlefish.driver.CvdPower", cuttlefishPower],
    ["jumpstarter_agent.CuttlefishStorage", cuttlefishStorage],
    // boards/qemu
    ["jumpstarter_agent.VirtualBoard", virtualBoard],
    ["jumpstarter_agent.VirtualBoardPower", virtualBoardPower],
    ["jumpstarter_agent.VirtualBoardSerial", virtualBoardSerial],
    ["jumpstarter_driver_qemu.driver.Qemu", qemu],
    ["jumpstarter_driver_qemu.driver.QemuPower", qemuPower],
    ["jumpstarter_driver_qemu.driver.QemuFlasher", qemuFlasher],
    ["jumpstarter_agent.QemuConsole", qemuConsole],
    ["jumpstarter_agent.QemuVnc", qemuVnc],
    ["jumpstarter_agent.QemuSsh", qemuSsh],
    // net/sockets
    ["jumpstarter_driver_network.driver.TcpNetwork", tcpNetwork],
    ["jumpstarter.drivers.network.driver.TcpNetwork", tcpNetwork],
    ["jumpstarter_driver_network.driver.UdpNetwork", udpNetwork],
    ["jumpstarter_driver_network.driver.UnixNetwork", unixNetwork],
    ["jumpstarter_driver_network.driver.VsockNetwork", vsockNetwork],
    ["jumpstarter_driver_network.driver.WebsocketNetwork", websocketNetwork],
    ["jumpstarter_driver_network.driver.EchoNetwork", echoNetwork],
    ["jumpstarter.drivers.network.driver.EchoNetwork", echoNetwork],
    ["jumpstarter_driver_network.driver.DbusNetwork", dbusNetwork],
    // net/ssh
    ["jumpstarter_driver_ssh.driver.SSHWrapper", sshWrapper],
    ["jumpstarter_driver_ssh_mount.driver.SSHMount", sshMount],
    // net/ssh-mitm
    ["jumpstarter_driver_ssh_mitm.driver.SSHMITM", sshMitm],
    // net/vnc
    ["jumpstarter_driver_vnc.driver.Vnc", vnc],
    // net/tmt
    ["jumpstarter_driver_tmt.driver.TMT", tmt],
    // net/tftp
    ["jumpstarter_driver_tftp.driver.Tftp", tftp],
    ["jumpstarter_driver_tftp.driver.TftpServer", tftp],
    // net/http
    ["jumpstarter_driver_http.driver.HttpServer", httpServer],
    // net/iscsi
    ["jumpstarter_driver_iscsi.driver.ISCSI", iscsi],
    // net/someip
    ["jumpstarter_driver_someip.driver.SomeIp", someIp],
    // net/dut-network
    ["jumpstarter_driver_dut_network.driver.DutNetwork", dutNetwork],
    // bundles
    ["jumpstarter_driver_flashers.driver.BaseFlasher", baseFlasher],
    ["jumpstarter_driver_flashers.driver.TIJ784S4Flasher", tiFlasher],
    ["jumpstarter_driver_flashers.driver.RCarS4Flasher", rcarFlasher],
    // agent/sidecar
    ["jumpstarter_agent.SideCar", sideCar],
  ]),
  async (type, meant) => (await import("../sidecar/foreign.ts")).foreignDriver(type, meant),
);
