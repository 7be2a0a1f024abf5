//! `buslane host topology`.

use serde::Serialize;

use crate::cli::host::HostArgs;
use crate::cli::{Globals, Output};
use crate::command::{CommandError, Out};
use crate::host::topology::{Assignment, Device};
use crate::host::{CpuSet, Topology};

/// The version of the object; it changes when a field goes or changes its meaning.
const SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
struct Report<'a> {
    schema_version: u32,
    #[serde(flatten)]
    host: &'a Topology,
    proposed: Assignment,
}

pub(super) fn topology(globals: &Globals, args: &HostArgs) -> Result<(), CommandError> {
    let tree = super::tree(args)?;
    let host = Topology::read(&tree);
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        let proposed = host.propose();
        out.json(&Report { schema_version: SCHEMA_VERSION, host: &host, proposed })?;
        return out.finish();
    }
    cores(&mut out, &host)?;
    out.line("")?;
    out.line(&format!("{:<5} {:>12}  CPUS", "NODE", "MEMORY"))?;
    for node in &host.nodes {
        let memory = node.memory_bytes.map_or_else(|| "-".into(), |b| format!("{} MiB", b >> 20));
        out.line(&format!("{:<5} {memory:>12}  {}", node.number, node.cpus))?;
    }
    devices(&mut out, "NIC", &host.nics)?;
    devices(&mut out, "NVME", &host.nvmes)?;
    let Assignment { shards, idle, housekeeping, reason } = host.propose();
    out.line("")?;
    out.line(&format!("proposed for shards:       {} ({reason})", or_none(&shards)))?;
    out.line(&format!("to be left idle:           {}", or_none(&idle)))?;
    out.line(&format!("for everything else:       {}", or_none(&housekeeping)))?;
    out.finish()
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn cores(out: &mut Out, host: &Topology) -> Result<(), CommandError> {
    out.line(&format!(
        "{:<5} {:<7} {:<6} {:<6} {:<6} {:<10} ISOLATED",
        "CPU", "ONLINE", "CORE", "SOCKET", "NODE", "SIBLINGS"
    ))?;
    let number = |of: Option<usize>| of.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let yes = |is: bool| if is { "yes" } else { "no" };
    for cpu in &host.cpus {
        let siblings: CpuSet = cpu.siblings.iter().copied().collect();
        out.line(&format!(
            "{:<5} {:<7} {:<6} {:<6} {:<6} {:<10} {}",
            cpu.number,
            yes(cpu.online),
            number(cpu.core),
            number(cpu.socket),
            number(cpu.node),
            or_none(&siblings.to_string()),
            yes(cpu.isolated)
        ))?;
    }
    Ok(())
}

fn devices(out: &mut Out, what: &str, devices: &[Device]) -> Result<(), CommandError> {
    out.line("")?;
    out.line(&format!("{what:<12} {:<13} {:<5} {:<14} ABOUT", "PCI", "NODE", "DRIVER"))?;
    let part = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for device in devices {
        let node = device.node.map_or_else(|| "-".to_owned(), |node| node.to_string());
        let line = format!(
            "{:<12} {:<13} {node:<5} {:<14} {}",
            part(&device.name),
            part(&device.pci),
            part(&device.driver),
            device.about
        );
        out.line(line.trim_end())?;
    }
    Ok(())
}
