//! Nothing to do without the features `dpdk` and `spdk`: the default build needs a Rust toolchain only.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
