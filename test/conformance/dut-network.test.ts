// The real Python client and its `j` drive a DUT network in a namespace of its own.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { missingForDutNetwork, startDutNetworkLab } from "../sim/dut-network-lab.ts";
import { clientEnv, clientProgram, missingClient, run } from "../sim/python-client.ts";

/** The first release that has the driver. */
const version = "0.9.0";

describe(`Python client ${version}`, { skip: missingClient(version) || missingForDutNetwork() }, () => {
  test("a DUT network", async (t) => {
    const lab = await startDutNetworkLab(t);
    const agent = await lab.agent({
      nat_mode: "1to1",
      addresses: [{ ip: "192.168.100.5", mac: "02:00:00:00:00:05", hostname: "kept", public_ip: "10.66.0.5" }],
      dns_entries: [{ hostname: "server.lab", ip: "10.1.2.3" }],
      local_ntp: true,
      enable_tcpdump: true,
    });
    await lab.dhcp();
    const link = await lab.board.run("ip", ["-j", "link", "show", "dev", "eth0"]);
    const mac = (JSON.parse(link) as { address: string }[])[0]?.address ?? "";
    lab.board.spawn("busybox", ["ping", "192.168.100.1"], { stdio: "ignore" });
    const env = clientEnv(agent.socketPath);
    const driven = await run(clientProgram(version, "python"), ["test/conformance/drive.py", `dut_network,${mac}`], {
      env,
    });
    assert.equal(driven.code, 0, `${driven.stdout}\n${driven.stderr}\nagent:\n${agent.output()}`);
    assert.match(driven.stdout, /passed dut_network/);

    const j = async (...words: string[]) => {
      const { code, stdout, stderr } = await run(clientProgram(version, "j"), ["network", ...words], { env });
      assert.equal(code, 0, stderr);
      return stdout;
    };
    assert.equal((JSON.parse(await j("status")) as { upstream: string }).upstream, "up0");
    assert.match(await j("leases"), new RegExp(`^${mac} +192\\.168\\.100\\.100`, "m"));
    assert.equal(await j("get-ip", mac), "192.168.100.100\n");
    assert.match(await j("nat-rules"), /masquerade/);
    assert.match(await j("add-dns", "third.lab", "10.3.3.3"), /Added DNS entry: third\.lab -> 10\.3\.3\.3/);
    assert.match(await j("dns-entries"), /^third\.lab +10\.3\.3\.3$/m);
    assert.match(await j("tcpdump", "-n", "-c", "1", "icmp"), /ICMP echo/);

    // The agent's own `j` says the same to the same words.
    const ownJ = async (...words: string[]) => {
      const { code, stdout, stderr } = await run(process.execPath, ["dist/j.js", "network", ...words], { env });
      assert.equal(code, 0, stderr);
      return stdout;
    };
    // A map has no order on the wire.
    assert.deepEqual(JSON.parse(await ownJ("status")), JSON.parse(await j("status")));
    for (const words of [
      ["leases"],
      ["get-ip", mac],
      ["nat-rules"],
      ["ntp-status"],
      ["dns-entries"],
      ["add-dns", "fourth.lab", "10.4.4.4"],
      ["remove-dns", "fourth.lab"],
      ["add-address", "192.168.100.6", "-m", "02:00:00:00:00:06", "--hostname", "six"],
      ["remove-address", "192.168.100.6"],
    ]) {
      // Numbers are floating point on the wire, and Python shows it.
      const theirs = (await j(...words)).replaceAll(/(\d)\.0$/gm, "$1");
      assert.equal((await ownJ(...words)).trimEnd(), theirs.trimEnd(), words.join(" "));
    }
    assert.match(await ownJ("tcpdump", "-n", "-c", "1", "icmp"), /ICMP echo/);
  });
});
