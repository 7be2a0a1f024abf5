//! In a binary without DPDK: say so.

use crate::port::{AnyPort, Port, PortError};
use crate::profile::{PortProfile, Profile};

pub(super) fn start(profile: &PortProfile) -> Result<(), PortError> {
    open(profile).map(|_| ())
}

pub(super) fn open_pair(
    server: &PortProfile,
    _client: &PortProfile,
) -> Result<(AnyPort, AnyPort), PortError> {
    Err(open(server).err().expect("never opened here"))
}

pub(super) fn open_all(profile: &Profile) -> Result<Vec<Box<dyn Port + Send>>, PortError> {
    Err(open(&profile.port).err().expect("never opened here"))
}

pub(super) fn open(_profile: &PortProfile) -> Result<Box<dyn Port + Send>, PortError> {
    Err(PortError::Device {
        what: "port.driver = \"dpdk\"".into(),
        why: "this binary was built without DPDK".into(),
        mend: "build it with: cargo build --release --features dpdk".into(),
    })
}
