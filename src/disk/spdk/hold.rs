//! That a namespace has one user of this host.

use super::SpdkConfig;
use super::says::failed;
use crate::disk::DiskError;
use crate::disk::lock::Lock;

/// Sees to it that no other process of this host has the namespace. One that came back may have another name, as
/// those of a target that makes names up when it starts: whether it is what was lost, its log tells.
pub(super) fn hold(
    config: &SpdkConfig,
    found: &str,
    held: &mut Option<(String, Lock)>,
) -> Result<(), DiskError> {
    if held.as_ref().is_some_and(|(known, _)| known == found) {
        return Ok(());
    }
    let lock = Lock::take(found).map_err(|why| {
        let mend =
            "stop the other one: a log has one writer; tools look at a disk that is not served";
        failed(config, &why, mend)
    })?;
    *held = Some((found.to_owned(), lock));
    Ok(())
}

/// Bytes that nobody knows before.
pub(super) fn random(config: &SpdkConfig, bytes: &mut [u8]) -> Result<(), DiskError> {
    getrandom::fill(bytes)
        .map_err(|error| failed(config, &format!("no random bytes: {error}"), "try again"))
}
