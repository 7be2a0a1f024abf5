//! Checks of the disk the log is on, when the kernel drives it, and of the directory it is in.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::cpu;
use crate::host::View;
use crate::host::verdict::{Mend, Verdict};
use crate::profile::units::format_bytes;

const BLOCK: &str = "sys/class/block";

/// Degrees from which a device without a limit of its own is too hot.
const CELSIUS_MAX: i64 = 70;

/// Free space that has to remain.
const SPARE_BYTES: u64 = 64 << 20;

/// The path of the log from `/`; without `.` and `..`, links left as they are.
fn log_path(view: &View<'_>) -> Option<PathBuf> {
    let path = Path::new(view.needs.disk_path.as_ref()?);
    let start = if view.tree.is_live() { std::env::current_dir().ok() } else { None };
    let whole = start.unwrap_or_else(|| PathBuf::from("/")).join(path);
    let mut plain = PathBuf::new();
    for part in whole.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            Component::RootDir | Component::Normal(_) | Component::Prefix(_) => plain.push(part),
        }
    }
    Some(plain)
}

/// The last part of a path, or of what it links to.
fn device_name(view: &View<'_>, path: &str) -> Option<String> {
    let real = view.tree.real(path);
    let target = std::fs::canonicalize(&real).unwrap_or(real);
    Some(target.file_name()?.to_str()?.to_owned())
}

/// The whole disk a log is on: `nvme0n1` for a file system on `/dev/nvme0n1p2`.
fn disk(view: &View<'_>) -> Option<String> {
    let path = log_path(view)?;
    let name = if path.starts_with("/dev") {
        device_name(view, path.to_str()?)?
    } else {
        let mounts = view.tree.text("proc/mounts")?;
        let mut best: Option<(usize, String)> = None;
        for line in mounts.lines() {
            let mut words = line.split(' ');
            let (Some(source), Some(place)) = (words.next(), words.next()) else {
                continue;
            };
            // Later mounts cover earlier ones.
            if path.starts_with(place) && best.as_ref().is_none_or(|(n, _)| place.len() >= *n) {
                best = Some((place.len(), source.to_owned()));
            }
        }
        let (_, source) = best?;
        source.starts_with("/dev/").then(|| device_name(view, &source))??
    };
    let disks = view.tree.names(BLOCK)?;
    let whole = disks.into_iter().filter(|disk| {
        name.starts_with(disk.as_str()) && view.tree.exists(&format!("{BLOCK}/{disk}/queue"))
    });
    whole.max_by_key(String::len)
}

/// The verdict where the kernel drives no disk for us, or its disk cannot be found.
fn kernel_disk(view: &View<'_>, wanted: &str) -> Result<String, Box<Verdict>> {
    if view.needs.disk_path.is_none() {
        return Err(Box::new(Verdict::not_applicable("the kernel drives no disk of the profile")));
    }
    let missing = || Box::new(Verdict::unknown(wanted, "the disk below disk.path is not shown"));
    disk(view).ok_or_else(missing)
}

pub(in crate::host) fn cache(view: &View<'_>) -> Verdict {
    let wanted = "no volatile write cache, or FUA on each write";
    let name = match kernel_disk(view, wanted) {
        Ok(name) => name,
        Err(verdict) => return *verdict,
    };
    let text = |file: &str| view.tree.text(&format!("{BLOCK}/{name}/queue/{file}"));
    let Some(cache) = text("write_cache") else {
        return Verdict::unknown(
            wanted,
            format!("{name} does not say whether it has a write cache"),
        );
    };
    match (cache.as_str(), text("fua").as_deref()) {
        ("write through", _) => Verdict::good(wanted, format!("{name} has none")),
        (_, Some("1")) => Verdict::good(wanted, format!("{name} {cache}, with FUA")),
        _ => {
            let found = format!("{name} {cache}, no FUA: a flush after each write");
            let mend = "use a disk with power-loss protection (volatile write cache: none)";
            Verdict::poor(wanted, found, Mend::command(mend))
        }
    }
}

/// The controller of a namespace: `nvme0` of `nvme0n1`.
fn controller(disk: &str) -> Option<&str> {
    let (number, _) = disk.strip_prefix("nvme")?.split_once('n')?;
    Some(&disk[..4 + number.len()])
}

pub(in crate::host) fn identity(view: &View<'_>) -> Verdict {
    let wanted = "model and firmware known, device live";
    let name = match kernel_disk(view, wanted) {
        Ok(name) => name,
        Err(verdict) => return *verdict,
    };
    let queue = |file: &str| view.tree.number(&format!("{BLOCK}/{name}/queue/{file}"));
    let block = queue("logical_block_size").map_or_else(String::new, |b| format!(", {b} B blocks"));
    let atomic = queue("atomic_write_unit_max_bytes").filter(|bytes| *bytes > 0);
    let atomic = atomic.map_or_else(String::new, |bytes| format!(", atomic to {bytes} B"));
    let Some(controller) = controller(&name) else {
        let model = view.tree.text(&format!("{BLOCK}/{name}/device/model"));
        let model = model.unwrap_or_else(|| "no model".to_owned());
        return Verdict::unknown(wanted, format!("{name} is no NVMe device: {model}{block}"));
    };
    let text = |file: &str| view.tree.text(&format!("sys/class/nvme/{controller}/{file}"));
    let Some((model, firmware)) = text("model").zip(text("firmware_rev")) else {
        return Verdict::unknown(wanted, format!("{name} does not show its model"));
    };
    let state = text("state").unwrap_or_else(|| "unknown".to_owned());
    let found = format!("{name} {model}, firmware {firmware}, {state}{block}{atomic}");
    Verdict::when(state == "live", wanted, found, || {
        Mend::command(format!("nvme smart-log /dev/{controller}"))
    })
}

pub(in crate::host) fn temperature(view: &View<'_>) -> Verdict {
    let wanted = "below the device's limit";
    let name = match kernel_disk(view, wanted) {
        Ok(name) => name,
        Err(verdict) => return *verdict,
    };
    let command = format!("nvme smart-log /dev/{name}");
    let Some(controller) = controller(&name) else {
        return Verdict::unknown(wanted, format!("{name} is no NVMe device"));
    };
    let directory = format!("sys/class/nvme/{controller}");
    let names = view.tree.names(&directory).unwrap_or_default();
    let sensors = names.iter().filter(|name| name.starts_with("hwmon"));
    // Older kernels put it one directory deeper.
    let nested = view.tree.names(&format!("{directory}/hwmon")).unwrap_or_default();
    let sensors: Vec<String> = sensors
        .map(|name| format!("{directory}/{name}"))
        .chain(nested.iter().map(|name| format!("{directory}/hwmon/{name}")))
        .collect();
    let read = |file: &str| {
        let found = sensors.iter().find_map(|s| view.tree.number(&format!("{s}/{file}")));
        found.map(|thousandths| thousandths / 1000)
    };
    let Some(now) = read("temp1_input") else {
        return Verdict::unknown(wanted, "the kernel shows no temperature").with_command(command);
    };
    let most = read("temp1_max").filter(|most| *most > 0).unwrap_or(CELSIUS_MAX);
    let found = format!("{name} {now} C, limit {most} C");
    Verdict::when(now < most, wanted, found, || {
        Mend::command("cool the device: air flow, heat sink")
    })
}

/// What `nvme smart-log` says of a controller: asked on the host, read from a captured tree.
fn smart_log(view: &View<'_>, controller: &str) -> Option<serde_json::Value> {
    let bytes = if view.tree.is_live() {
        let device = format!("/dev/{controller}");
        let output =
            Command::new("nvme").args(["smart-log", &device, "-o", "json"]).output().ok()?;
        output.status.success().then_some(output.stdout)?
    } else {
        view.tree.bytes(&format!("captured/{controller}.smart-log.json"))?
    };
    serde_json::from_slice(&bytes).ok()
}

pub(in crate::host) fn health(view: &View<'_>) -> Verdict {
    let wanted = "no critical warning, no media error, spare above threshold, wear below 100 %";
    let name = match kernel_disk(view, wanted) {
        Ok(name) => name,
        Err(verdict) => return *verdict,
    };
    let Some(controller) = controller(&name) else {
        return Verdict::unknown(wanted, format!("{name} is no NVMe device"));
    };
    let command = format!("nvme smart-log /dev/{controller}");
    let Some(log) = smart_log(view, controller) else {
        let why = "only the device knows: it takes nvme-cli, and root";
        return Verdict::unknown(wanted, why).with_command(command);
    };
    let number = |name: &str| log.get(name).and_then(serde_json::Value::as_u64);
    let used = number("percent_used").or_else(|| number("percentage_used"));
    let facts = number("critical_warning").zip(used).zip(number("media_errors"));
    let spare = number("avail_spare").zip(number("spare_thresh"));
    let (Some(((warning, used), errors)), Some((spare, threshold))) = (facts, spare) else {
        return Verdict::unknown(wanted, "its log has not the fields known").with_command(command);
    };
    let found = format!(
        "{name} critical warning {warning}, {errors} media errors, spare {spare} % (threshold \
         {threshold} %), wear {used} %"
    );
    let good = warning == 0 && errors == 0 && spare > threshold && used < 100;
    Verdict::when(good, wanted, found, || {
        Mend::command(format!("replace the device; see: {command}"))
    })
}

/// The directory of the log's file; `Err` where the log is no file.
fn directory_of(view: &View<'_>) -> Result<PathBuf, Box<Verdict>> {
    let path = log_path(view).filter(|path| !path.starts_with("/dev"));
    let none = || Box::new(Verdict::not_applicable("the log is not a file"));
    path.and_then(|path| path.parent().map(Path::to_owned)).ok_or_else(none)
}

pub(in crate::host) fn directory(view: &View<'_>) -> Verdict {
    let wanted = "writable by its owner or group only";
    let path = match directory_of(view) {
        Ok(path) => path,
        Err(verdict) => return *verdict,
    };
    let shown = path.display().to_string();
    let Ok(metadata) = std::fs::metadata(view.tree.real(&shown)) else {
        return Verdict::unknown(wanted, format!("{shown} is not there yet"));
    };
    let mode = metadata.mode() & 0o7777;
    Verdict::when(mode & 0o002 == 0, wanted, format!("{shown} has mode {mode:04o}"), || {
        Mend::command(format!("chmod o-w {shown}"))
    })
}

pub(in crate::host) fn space(view: &View<'_>) -> Verdict {
    let path = match directory_of(view) {
        Ok(path) => path,
        Err(verdict) => return *verdict,
    };
    let bytes = view.needs.disk_bytes.saturating_add(SPARE_BYTES);
    let wanted = format!("{} free", format_bytes(bytes));
    if !view.tree.is_live() {
        return Verdict::unknown(wanted, "a captured tree holds no file system");
    }
    if log_path(view).is_some_and(|path| path.exists()) {
        return Verdict::good(wanted, "the log is there already");
    }
    let existing = path.ancestors().find(|path| path.exists());
    let Some(free) = existing.and_then(cpu::free_bytes) else {
        return Verdict::unknown(wanted, format!("{} does not say", path.display()));
    };
    let found = format!("{} MiB free", free >> 20);
    Verdict::when(free >= bytes, wanted, found, || {
        Mend::command("set disk.path to a larger file system, or lower disk.size")
    })
}
