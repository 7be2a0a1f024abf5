//! Where sockets go: a directory that belongs to this user alone, or to its group where that is wanted.
//!
//! `{runtime}` in a profile becomes `$XDG_RUNTIME_DIR/buslane`, or `/tmp/buslane-<user id>` where there
//! is no such directory; `{instance}` becomes the profile's `instance`. The directory is made when a
//! profile names it, and refused when it is somebody else's. Where its group may enter it (under the unit), the group
//! may ask the appliance.

use std::path::PathBuf;

use super::{Profile, ProfileError};
use crate::access::runtime;

pub(crate) use runtime::{is_for_the_group, make};

/// The directory `{runtime}` stands for, made if need be.
///
/// # Errors
/// `ProfileError::Host` when it cannot be made or does not belong to this user alone.
pub(crate) fn directory() -> Result<PathBuf, ProfileError> {
    runtime::directory().map_err(ProfileError::Host)
}

/// Puts the real names in place of `{runtime}` and `{instance}`.
pub(super) fn expand(profile: &mut Profile) -> Result<(), ProfileError> {
    let instance = profile.instance.clone();
    let mut runtime = None;
    for text in texts(profile) {
        if text.contains("{runtime}") {
            if runtime.is_none() {
                runtime = Some(directory()?.to_string_lossy().into_owned());
            }
            *text = text.replace("{runtime}", runtime.as_deref().expect("set above"));
        }
        *text = text.replace("{instance}", &instance);
    }
    Ok(())
}

/// The values in which placeholders have a meaning.
fn texts(profile: &mut Profile) -> impl Iterator<Item = &mut String> {
    let ports = [&mut profile.port, &mut profile.client.port];
    let eal =
        ports.into_iter().filter_map(|port| port.dpdk.as_mut()).flat_map(|dpdk| &mut dpdk.eal);
    let Profile { disk, security, metrics, .. } = profile;
    eal.chain([&mut disk.path, &mut security.keys, &mut metrics.socket, &mut metrics.dir])
}
