//! That a namespace has one user of this host.

use std::path::Path;

use super::SpdkConfig;
use super::says::failed;
use crate::disk::DiskError;
use crate::disk::lock::Lock;

/// What no other process of this host uses meanwhile.
#[derive(Debug, Default)]
pub(super) struct Locks {
    socket: Option<(String, Lock)>,
    namespace: Option<(String, Lock)>,
}

impl Locks {
    /// Sees to it that no other process attaches by the socket of a vfio-user target, which takes one client: a
    /// second one would wait inside the driver for the first to leave. A socket is found by a path, which has as many
    /// spellings as there are links; what is not there, the driver says.
    pub(super) fn socket(&mut self, config: &SpdkConfig, socket: &Path) -> Result<(), DiskError> {
        let Ok(real) = socket.canonicalize() else { return Ok(()) };
        hold(config, &format!("vfio-user {}", real.display()), &mut self.socket)
    }

    /// Sees to it that no other process has the namespace. One that came back may have another name, as those of a
    /// target that makes names up when it starts: whether it is what was lost, its log tells.
    pub(super) fn namespace(&mut self, config: &SpdkConfig, name: &str) -> Result<(), DiskError> {
        hold(config, name, &mut self.namespace)
    }
}

fn hold(
    config: &SpdkConfig,
    name: &str,
    held: &mut Option<(String, Lock)>,
) -> Result<(), DiskError> {
    if held.as_ref().is_some_and(|(known, _)| known == name) {
        return Ok(());
    }
    let lock = Lock::take(name).map_err(|why| {
        let mend =
            "stop the other one: a log has one writer; tools look at a disk that is not served";
        failed(config, &why, mend)
    })?;
    *held = Some((name.to_owned(), lock));
    Ok(())
}

/// Bytes that nobody knows before.
pub(super) fn random(config: &SpdkConfig, bytes: &mut [u8]) -> Result<(), DiskError> {
    getrandom::fill(bytes)
        .map_err(|error| failed(config, &format!("no random bytes: {error}"), "try again"))
}
