//! Whether sessions are sealed, and where the keys are.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{DiskDriver, DpdkProfile, PortDriver, Profile, ProfileError};

/// Whether sessions are sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SecurityMode {
    /// Authenticated and encrypted.
    #[default]
    Sealed,
    /// Neither.
    Plain,
}

/// How sessions are protected, and where the keys are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SecurityProfile {
    /// `sealed` or `plain`.
    pub mode: SecurityMode,
    /// Serve in plain mode also where others may come; with sealed sessions, those in the clear, too.
    pub accept_plain: bool,
    /// Directory of the keys; empty for one beside the log.
    pub keys: String,
}

/// What the directory of keys is called where no other name is given.
const KEYS: &str = "keys";

/// Where a log is that is told nothing else, and keys whose log is in no file.
const DATA: &str = "buslane-data";

impl Profile {
    /// The directory of the appliance's keys.
    #[must_use]
    pub fn keys_dir(&self) -> PathBuf {
        self.keys_dir_of(std::env::var_os("STATE_DIRECTORY"))
    }

    fn keys_dir_of(&self, state: Option<OsString>) -> PathBuf {
        if !self.security.keys.is_empty() {
            return PathBuf::from(&self.security.keys);
        }
        let log = Path::new(&self.disk.path);
        let is_device = log.starts_with("/dev")
            || fs::metadata(log).is_ok_and(|log| log.file_type().is_block_device());
        if self.disk.driver == DiskDriver::Uring && !is_device {
            return log.with_file_name(KEYS);
        }
        // systemd gives several, with colons between them.
        let first = state.as_deref().and_then(|all| std::env::split_paths(all).next());
        let state = first.filter(|path| path.is_absolute());
        state.unwrap_or_else(|| PathBuf::from(DATA)).join(KEYS)
    }

    /// Whether it is sound to serve in plain mode, where that is asked for.
    pub(super) fn check_security(&self) -> Result<(), ProfileError> {
        let is_plain = self.security.mode == SecurityMode::Plain;
        if !is_plain || self.security.accept_plain || self.is_of_this_host() {
            return Ok(());
        }
        let address = self.port.address;
        let what = format!(
            "security.mode is plain, and others than this host may reach {address}: whoever does may publish, consume and \
             trim; leave it sealed, listen on 127.0.0.1, or accept it with security.accept_plain = true"
        );
        Err(self.wrong("security.mode", &what))
    }

    /// Whether only processes of this host reach the port.
    fn is_of_this_host(&self) -> bool {
        match self.port.driver {
            PortDriver::Udp => self.port.address.ip().is_loopback(),
            PortDriver::Dpdk => self.port.dpdk.as_ref().is_some_and(is_memif),
        }
    }
}

/// Whether a device is shared memory between two processes.
fn is_memif(dpdk: &DpdkProfile) -> bool {
    dpdk.device.starts_with("net_memif")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::file::read;
    use crate::profile::{SHIPPED, load};

    fn profile(settings: &[&str]) -> Profile {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        read("x.toml", "", &settings).unwrap()
    }

    fn keys(settings: &[&str], state: Option<&str>) -> String {
        let dir = profile(settings).keys_dir_of(state.map(OsString::from));
        dir.to_str().unwrap().to_owned()
    }

    #[test]
    fn keys_are_beside_the_log_unless_it_is_in_no_file() {
        assert_eq!(keys(&[], None), "buslane-data/keys");
        assert_eq!(keys(&[], Some("/var/lib/x")), "buslane-data/keys");
        assert_eq!(keys(&["disk.path=/srv/a/log"], None), "/srv/a/keys");
        assert_eq!(keys(&["disk.path=log"], None), "keys");
        assert_eq!(keys(&["security.keys=/etc/k"], Some("/var/lib/x")), "/etc/k");
        assert_eq!(keys(&["security.keys=7"], None), "7");
        assert_eq!(keys(&["disk.path=/dev/nvme9n9"], Some("/var/lib/x")), "/var/lib/x/keys");
        let ram = ["disk.driver=ram"];
        assert_eq!(keys(&ram, None), "buslane-data/keys");
        assert_eq!(keys(&ram, Some("/var/lib/x:/var/lib/y")), "/var/lib/x/keys");
        assert_eq!(keys(&ram, Some("relative")), "buslane-data/keys");
        assert_eq!(keys(&ram, Some("")), "buslane-data/keys");
        let spdk = ["disk.driver=spdk", "disk.path=trtype:PCIe traddr:0000:81:00.0"];
        assert_eq!(keys(&spdk, Some("/var/lib/x")), "/var/lib/x/keys");
        let two = load("loopback", &["instance=two".into(), "security.keys=k-{instance}".into()]);
        assert_eq!(two.unwrap().keys_dir(), Path::new("k-two"));
    }

    #[test]
    fn sessions_are_sealed_unless_it_is_said() {
        for (name, text) in SHIPPED {
            let security = read(name, text, &[]).unwrap().security;
            assert_eq!(security, SecurityProfile::default(), "{name}");
            assert_eq!(security.mode, SecurityMode::Sealed);
        }
        let settings = ["security.mode=open".to_owned()];
        let said = read("x.toml", "", &settings).unwrap_err().to_string();
        assert!(said.contains("security.mode"), "{said}");
    }

    #[test]
    fn plain_is_for_this_host_unless_it_is_accepted() {
        let checked = |settings: &[&str]| profile(settings).check_security();
        checked(&["port.address=10.0.0.1:9310"]).unwrap();
        checked(&["security.mode=plain"]).unwrap();
        checked(&["security.mode=plain", "port.address=127.9.0.1:1"]).unwrap();
        for address in ["0.0.0.0:9310", "10.0.0.1:9310", "192.168.1.1:9310"] {
            let address = format!("port.address={address}");
            let said = checked(&["security.mode=plain", &address]).unwrap_err().to_string();
            assert!(said.contains("--set security.mode=plain: security.mode is plain"), "{said}");
            assert!(said.contains("security.accept_plain = true"), "{said}");
            checked(&["security.mode=plain", "security.accept_plain=true", &address]).unwrap();
        }
        let plain = ["security.mode=plain".to_owned()];
        load("memif", &plain).unwrap().check_security().unwrap();
        assert!(load("veth", &plain).unwrap().check_security().is_err());
        let nic = ["port.driver=dpdk", "port.dpdk.device=0000:03:00.0", "security.mode=plain"];
        assert!(checked(&nic).is_err(), "a loopback address says nothing there");
    }
}
