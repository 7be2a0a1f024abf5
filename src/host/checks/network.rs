//! Checks of the network device the kernel receives on.

use std::net::Ipv4Addr;

use crate::host::View;
use crate::host::verdict::{Mend, Verdict};

/// Megabits a second of a link that is fast enough.
const MBIT_MIN: i64 = 10_000;

/// What IPv4 and UDP put before a datagram's payload.
const HEADER_BYTES: usize = 28;

/// The interface `address` is on: the one with the longest route to it that has no gateway.
fn interface(view: &View<'_>, address: Ipv4Addr) -> Option<String> {
    let text = view.tree.text("proc/net/route")?;
    let mut best: Option<(u32, String)> = None;
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, destination, gateway, _, _, _, _, mask, ..] = fields[..] else {
            continue;
        };
        // The kernel writes the bytes of an address as they stand in memory.
        let number = |hex: &str| Some(u32::from_str_radix(hex, 16).ok()?.swap_bytes());
        let (Some(destination), Some(mask)) = (number(destination), number(mask)) else {
            continue;
        };
        let matches = u32::from(address) & mask == destination && gateway == "00000000";
        if matches && best.as_ref().is_none_or(|(longest, _)| mask > *longest) {
            best = Some((mask, name.to_owned()));
        }
    }
    best.map(|(_, name)| name)
}

pub(in crate::host) fn nic(view: &View<'_>) -> Verdict {
    let Some(address) = view.needs.address else {
        return Verdict::not_applicable("DPDK drives the port, and tells its link at launch");
    };
    if address.is_loopback() {
        return Verdict::not_applicable("the port is the loopback");
    }
    let bytes = view.needs.datagram_bytes + HEADER_BYTES;
    let wanted = format!("link up, {MBIT_MIN} Mbit/s or more, MTU {bytes} or more");
    if address.is_unspecified() {
        return Verdict::unknown(wanted, "the port receives on all interfaces");
    }
    let Some(name) = interface(view, address) else {
        return Verdict::unknown(wanted, format!("no interface has a route to {address}"));
    };
    let path = format!("sys/class/net/{name}");
    let state = view.tree.text(&format!("{path}/operstate")).unwrap_or_default();
    let mtu = view.tree.number(&format!("{path}/mtu")).unwrap_or(0);
    let speed = view.tree.number(&format!("{path}/speed")).filter(|speed| *speed > 0);
    let driver = view.tree.link_name(&format!("{path}/device/driver"));
    let driver = driver.map_or_else(String::new, |name| format!(" ({name})"));
    let speed_text = speed.map_or_else(|| "speed unknown".into(), |mbit| format!("{mbit} Mbit/s"));
    let found = format!("{name}{driver} {state}, {speed_text}, MTU {mtu}");
    if state != "up" {
        return Verdict::bad(wanted, found, Mend::command(format!("ip link set {name} up")));
    }
    if usize::try_from(mtu).is_ok_and(|mtu| mtu < bytes) {
        let command = format!("ip link set {name} mtu {bytes}, or lower port.datagram_bytes");
        return Verdict::bad(wanted, found, Mend::command(command));
    }
    match speed {
        None => Verdict::unknown(wanted, found),
        Some(mbit) => Verdict::when(mbit >= MBIT_MIN, wanted, found, || {
            Mend::command(format!("ethtool {name}: look at cable, module and switch port"))
        }),
    }
}
