//! Where threads run.

use super::LaunchError;
use crate::cpu;
use crate::profile::Core;

/// Pins the calling thread to the core a profile names, if it names one.
///
/// # Errors
/// When the operating system refuses.
pub fn pin(core: Core, cores: &[usize]) -> Result<Option<usize>, LaunchError> {
    pin_to(core.resolve(cores).map_err(LaunchError::Pin)?)
}

/// Pins the calling thread to a core, if there is one for it.
///
/// # Errors
/// When the operating system refuses.
pub fn pin_to(core: Option<usize>) -> Result<Option<usize>, LaunchError> {
    match core {
        Some(number) if !cpu::pin_to_core(number) => Err(LaunchError::Pin(number)),
        Some(_) | None => Ok(core),
    }
}
