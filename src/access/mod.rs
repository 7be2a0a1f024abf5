//! Who may reach an appliance, and what each may do there.

pub mod key;
