//! What a namespace says of itself, whether a log can be on it, and why what it completes is on media.

use super::says::{failed, refused};
use super::{SpdkConfig, native};
use crate::disk::DiskError;
use crate::ids::Durability;
use crate::limits::BLOCK_BYTES;

/// What a namespace and its controller are.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Device {
    /// Model number.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Firmware revision.
    pub firmware: String,
    /// Namespace id.
    pub namespace: u32,
    /// Size in bytes.
    pub bytes: u64,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// Bytes one command moves at most (MDTS).
    pub transfer_bytes_max: u32,
    /// Logical blocks that are written whole or not at all when the power goes (AWUPF).
    pub power_fail_blocks: u32,
    /// There is a volatile write cache.
    pub write_cache: bool,
    /// It is on.
    pub write_cache_on: bool,
    /// NGUID, else UUID, in hexadecimal; zeros where there is neither.
    pub identity: String,
    /// Reached by PCIe.
    pub is_local: bool,
}

/// What a controller says of its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Health {
    /// Temperature, in degrees Celsius; `None` where the controller does not tell.
    pub celsius: Option<i32>,
    /// Endurance used, in percent; may pass 100.
    pub used_percent: u8,
    /// Spare blocks left, in percent.
    pub spare_percent: u8,
    /// Bits of the critical warning field; 0 is well.
    pub critical_warnings: u8,
    /// Errors of the media.
    pub media_errors: u64,
    /// Power cuts without warning.
    pub unsafe_shutdowns: u64,
    /// Hours under power.
    pub power_on_hours: u64,
}

fn text(bytes: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> =
        bytes.iter().take_while(|&&byte| byte != 0).map(|byte| byte.cast_unsigned()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn identity_of(facts: &native::buslane_disk_facts) -> [u8; 16] {
    if facts.nguid != [0; 16] {
        return facts.nguid;
    }
    let mut identity = facts.uuid;
    if identity == [0; 16] {
        identity[..8].copy_from_slice(&facts.eui64);
    }
    identity
}

/// What the namespace is, by the first of its identities that it has: all ways to it come to the same.
pub(super) fn lock_name(facts: &native::buslane_disk_facts) -> String {
    let names = [("NGUID", facts.nguid.as_slice()), ("UUID", &facts.uuid), ("EUI64", &facts.eui64)];
    match names.iter().find(|(_, bytes)| bytes.iter().any(|&byte| byte != 0)) {
        Some((name, bytes)) => format!("namespace, {name} {}", hexadecimal(bytes)),
        None => {
            let (model, serial) = (text(&facts.model), text(&facts.serial));
            format!("namespace {} of controller {model} {serial}", facts.namespace_id)
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn device_of(facts: &native::buslane_disk_facts) -> Device {
    Device {
        model: text(&facts.model),
        serial: text(&facts.serial),
        firmware: text(&facts.firmware),
        namespace: facts.namespace_id,
        bytes: facts.bytes,
        block_bytes: facts.block_bytes,
        transfer_bytes_max: facts.transfer_bytes_max,
        power_fail_blocks: facts.power_fail_blocks,
        write_cache: facts.cache_present != 0,
        write_cache_on: facts.cache_enabled != 0,
        identity: hexadecimal(&identity_of(facts)),
        is_local: facts.is_local != 0,
    }
}

/// Whether the namespace is one a log can be on, and the one that is meant.
pub(super) fn check(device: &Device, config: &SpdkConfig) -> Result<(), DiskError> {
    let refused = |why: String, mend: &str| Err(refused(config, &why, mend));
    if usize::try_from(device.block_bytes).is_ok_and(|block| !BLOCK_BYTES.is_multiple_of(block)) {
        return refused(
            format!("its logical blocks have {} bytes", device.block_bytes),
            "format the namespace with 512 or 4096 bytes and no metadata",
        );
    }
    let wanted = config.identity.to_lowercase().replace('-', "");
    if !wanted.is_empty() && wanted != device.identity {
        return refused(
            format!("is namespace {}, wanted {wanted}", device.identity),
            "name the right device, or its identity in disk.spdk.identity",
        );
    }
    Ok(())
}

pub(super) fn enough_queue_pairs(
    config: &SpdkConfig,
    wanted: u32,
    given: u32,
) -> Result<(), DiskError> {
    if given >= wanted {
        return Ok(());
    }
    let why = format!("the controller gives {given} queue pairs, and there are {wanted} shards");
    Err(failed(config, &why, "lower shard.count, or let go of other users of the device"))
}

/// Why what it completes is on media; what is not known is refused.
pub(super) fn durability(device: &Device, config: &SpdkConfig) -> Result<Durability, DiskError> {
    let name = format!("{} {}", device.model, device.firmware);
    if config.power_loss_protected.contains(&name) {
        return Ok(Durability::PowerLossProtected);
    }
    match device {
        // What a target behind a fabric says of its cache is not what its own devices do.
        Device { is_local: false, .. } if config.accept_volatile => Ok(Durability::Volatile),
        Device { is_local: false, .. } => Err(DiskError::Refused {
            name: config.transport_id.clone(),
            why: format!("nothing is known of what `{name}` keeps when the power goes"),
            mend: format!(
                "if it is power-loss protected, say so: disk.spdk.power_loss_protected = [\"{name}\"]; \
                 to try it without: disk.accept_volatile = true"
            ),
        }),
        Device { write_cache: false, .. } => Ok(Durability::NoWriteCache),
        Device { write_cache_on: false, .. } => Ok(Durability::WriteCacheOff),
        Device { .. } => Ok(Durability::ForceUnitAccess),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(is_local: bool, write_cache: bool, write_cache_on: bool) -> Device {
        Device {
            model: "MODEL".into(),
            serial: "1".into(),
            firmware: "F1".into(),
            namespace: 1,
            bytes: 1 << 30,
            block_bytes: 4096,
            transfer_bytes_max: 131_072,
            power_fail_blocks: 1,
            write_cache,
            write_cache_on,
            identity: String::new(),
            is_local,
        }
    }

    fn config(accept_volatile: bool, protected: &[&str]) -> SpdkConfig {
        SpdkConfig {
            transport_id: "trtype:PCIe traddr:0000:00:00.0".into(),
            huge_memory_mib: 64,
            timeout_ms: 50,
            identity: String::new(),
            write_cache_off: false,
            power_loss_protected: protected.iter().map(ToString::to_string).collect(),
            accept_volatile,
            read_only: false,
        }
    }

    #[test]
    fn a_durability_class_is_known_or_refused() {
        let plain = config(false, &[]);
        let class = |device: Device, config: &SpdkConfig| durability(&device, config).ok();
        assert_eq!(class(device(true, false, false), &plain), Some(Durability::NoWriteCache));
        assert_eq!(class(device(true, true, false), &plain), Some(Durability::WriteCacheOff));
        assert_eq!(class(device(true, true, true), &plain), Some(Durability::ForceUnitAccess));
        assert_eq!(class(device(false, true, true), &plain), None);
        assert_eq!(
            class(device(false, false, false), &plain),
            None,
            "a target's word is not enough"
        );
        let volatile = config(true, &[]);
        assert_eq!(class(device(false, true, true), &volatile), Some(Durability::Volatile));
        let protected = config(false, &["MODEL F1"]);
        for local in [false, true] {
            let found = class(device(local, true, true), &protected);
            assert_eq!(found, Some(Durability::PowerLossProtected));
        }
        let other = config(false, &["MODEL F2"]);
        assert_eq!(class(device(false, true, true), &other), None, "another firmware");
    }
}
