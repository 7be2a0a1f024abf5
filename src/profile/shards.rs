//! How many shards an appliance has, and the core of each.

use super::{Core, Profile, ProfileError};
use crate::limits::SHARDS_MAX;
use crate::log::shares::shards;

impl Profile {
    /// The core of each shard, of those the process may use; `None` for one left to the scheduler.
    ///
    /// Where no cores are named, they are the last ones the process may use, downward, because the kernel and
    /// everybody else begin with the first.
    ///
    /// # Errors
    /// `ProfileError` that names the key, what it asks for, and those there are.
    pub fn shard_cores(&self, cores: &[usize]) -> Result<Vec<Option<usize>>, ProfileError> {
        let count = self.shard.count as usize;
        if !self.shard.cores.is_empty() {
            for (index, number) in self.shard.cores.iter().enumerate() {
                if !cores.contains(number) {
                    let what = format!(
                        "shard.cores[{index}] is {number}, but this process may use core {}; choose among them",
                        list(cores)
                    );
                    return Err(self.host("shard.cores", &what));
                }
            }
            return Ok(self.shard.cores.iter().copied().map(Some).collect());
        }
        self.check_core("shard.core", self.shard.core, cores)?;
        if count == 1 || self.shard.core == Core::None {
            let core = self.shard.core.resolve(cores).ok().flatten();
            return Ok(vec![core; count]);
        }
        if cores.len() < count {
            let what = format!(
                "shard.count is {count}, but this process may use core {} only; lower it, or leave the \
                 shards to the scheduler with shard.core = \"none\"",
                list(cores)
            );
            return Err(self.host("shard.count", &what));
        }
        let taken = cores.iter().copied().map(Some);
        Ok(if self.shard.core == Core::First {
            taken.take(count).collect()
        } else {
            taken.rev().take(count).collect()
        })
    }

    /// The key that names the core of a shard, for messages.
    #[must_use]
    pub fn shard_core_key(&self, index: usize) -> String {
        if self.shard.count == 1 && self.shard.cores.is_empty() {
            "shard.core".to_owned()
        } else {
            format!("shard.cores[{index}]")
        }
    }

    /// Whether number and cores of shards go with each other, and with the UDP ports there are.
    pub(super) fn check_shards(&self) -> Result<(), ProfileError> {
        let (count, named) = (self.shard.count, self.shard.cores.len());
        self.check_between("shard.count", count, 1..=SHARDS_MAX)?;
        if named != 0 && named != count as usize {
            let cores = if named == 1 { "1 core".to_owned() } else { format!("{named} cores") };
            let what = format!(
                "shard.cores names {cores} for {} (shard.count); name one for each",
                shards(count)
            );
            return Err(self.wrong("shard.cores", &what));
        }
        if count == 1 {
            return Ok(());
        }
        if let Core::Number(_) = self.shard.core
            && named == 0
        {
            let what = format!(
                "shard.core is one core, and there are {count} shards; name the core of each with shard.cores, as \
                 in shard.cores = [2, 3]"
            );
            return Err(self.wrong("shard.core", &what));
        }
        let base = u32::from(self.port.address.port());
        if base == 0 || base + count - 1 > u32::from(u16::MAX) {
            let what = format!(
                "port.address has UDP port {base}, and shard k listens on that port + k; choose one from 1 to {}",
                u32::from(u16::MAX) + 1 - count
            );
            return Err(self.wrong("port.address", &what));
        }
        Ok(())
    }
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use crate::profile::file::read;

    use super::*;

    fn profile(settings: &[&str]) -> Result<Profile, ProfileError> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        read("x.toml", "", &settings)
    }

    fn cores(settings: &[&str], there: &[usize]) -> Result<Vec<Option<usize>>, String> {
        profile(settings).unwrap().shard_cores(there).map_err(|error| error.to_string())
    }

    fn refused(settings: &[&str]) -> String {
        profile(settings).unwrap_err().to_string()
    }

    #[test]
    fn cores_are_those_named_or_the_last_ones_downward() {
        let there = [0, 1, 2, 3];
        assert_eq!(cores(&[], &there).unwrap(), [Some(3)]);
        assert_eq!(cores(&["shard.cores=[2]"], &there).unwrap(), [Some(2)]);
        assert_eq!(cores(&["shard.count=2"], &there).unwrap(), [Some(3), Some(2)]);
        let first = ["shard.count=2", "shard.core=first"];
        assert_eq!(cores(&first, &there).unwrap(), [Some(0), Some(1)]);
        let named = ["shard.count=2", "shard.cores=[1, 3]"];
        assert_eq!(cores(&named, &there).unwrap(), [Some(1), Some(3)]);
        let none = ["shard.count=2", "shard.core=none"];
        assert_eq!(cores(&none, &[0]).unwrap(), [None, None]);
        assert_eq!(cores(&["shard.count=2"], &[0, 1]).unwrap(), [Some(1), Some(0)]);
    }

    #[test]
    fn cores_that_are_not_there_are_named_with_those_that_are() {
        let error = cores(&["shard.count=2", "shard.cores=[1, 9]"], &[0, 1]).unwrap_err();
        assert_eq!(
            error,
            "--set shard.cores=[1, 9]: shard.cores[1] is 9, but this process may use core 0, 1; choose among \
             them"
        );
        let error = cores(&["shard.count=3"], &[0, 1]).unwrap_err();
        assert!(
            error.contains("shard.count is 3, but this process may use core 0, 1 only"),
            "{error}"
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let error = refused(&["shard.count=2", "shard.cores=[1, 2, 3]"]);
        assert!(error.contains("names 3 cores for 2 shards (shard.count)"), "{error}");
        let error = refused(&["shard.cores=[1, 2]"]);
        assert!(error.contains("names 2 cores for 1 shard (shard.count)"), "{error}");
        let error = refused(&["shard.count=2", "shard.core=1"]);
        assert!(error.contains("shard.cores = [2, 3]"), "{error}");
        assert!(refused(&["shard.count=0"]).contains("1 to 64"));
        assert!(refused(&["shard.count=65"]).contains("1 to 64"));
        for (port, from, to) in [(0, 1, 65_534), (65_535, 1, 65_534)] {
            let error = refused(&["shard.count=2", &format!("port.address=127.0.0.1:{port}")]);
            assert!(error.contains(&format!("from {from} to {to}")), "{error}");
        }
        let small = ["shard.count=4", "disk.size=512MiB"];
        profile(&small).unwrap();
        assert!(refused(&["shard.count=8", "disk.size=512MiB"]).contains("1GiB in all"));
    }
}
