//! Nothing to do without the features `dpdk` and `spdk`: the default build needs a Rust toolchain only.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "dpdk")]
    dpdk::build();
}

/// The shim in `native/port_dpdk.c`, linked to the host's DPDK, and bindings to its header.
#[cfg(feature = "dpdk")]
mod dpdk {
    use std::env;
    use std::path::PathBuf;
    use std::process::exit;

    const HEADER: &str = "native/port_dpdk.h";
    const SOURCE: &str = "native/port_dpdk.c";

    pub(crate) fn build() {
        println!("cargo:rerun-if-changed={HEADER}");
        println!("cargo:rerun-if-changed={SOURCE}");
        let library = pkg_config::Config::new()
            .range_version("22.11".."27")
            .probe("libdpdk")
            .unwrap_or_else(|error| {
                fail(&format!(
                    "the feature `dpdk` needs DPDK 22.11 to 26.x with its headers: install `libdpdk-dev`, \
                     or set PKG_CONFIG_PATH to where libdpdk.pc is\n{error}"
                ))
            });
        compile(&library);
        bind();
    }

    fn compile(library: &pkg_config::Library) {
        let mut build = cc::Build::new();
        build.file(SOURCE).includes(&library.include_paths).flag("-include").flag("rte_config.h");
        build.flag_if_supported("-std=gnu11").warnings(true).extra_warnings(true);
        // pkg-config's crate drops `-march`, without which the vendor's inline code does not compile.
        for flag in pkg_config_flags() {
            build.flag(&flag);
        }
        // Vendor headers are not ours to warn about.
        for path in &library.include_paths {
            build.flag("-isystem").flag(path.to_str().expect("pkg-config speaks UTF-8"));
        }
        build.try_compile("buslane_port_dpdk").unwrap_or_else(|error| {
            fail(&format!("{SOURCE} does not compile against the installed DPDK: {error}"))
        });
    }

    fn pkg_config_flags() -> Vec<String> {
        let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
        let output = std::process::Command::new(tool)
            .args(["--cflags-only-other", "libdpdk"])
            .output()
            .unwrap_or_else(|error| fail(&format!("cannot run pkg-config: {error}")));
        String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .filter(|flag| flag.starts_with("-m"))
            .map(str::to_owned)
            .collect()
    }

    fn bind() {
        let bindings = std::panic::catch_unwind(|| {
            bindgen::Builder::default()
                .header(HEADER)
                .allowlist_item("buslane_.*")
                .allowlist_item("BUSLANE_.*")
                .derive_default(true)
                .rust_target("1.95".parse().expect("a version"))
                .rust_edition(bindgen::RustEdition::Edition2024)
                .generate()
        });
        let Ok(Ok(bindings)) = bindings else {
            fail(&format!(
                "cannot bind {HEADER}: bindgen needs libclang, install `libclang-dev` (or set LIBCLANG_PATH)"
            ));
        };
        let out =
            PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("port_dpdk.rs");
        bindings
            .write_to_file(&out)
            .unwrap_or_else(|error| fail(&format!("cannot write {}: {error}", out.display())));
    }

    fn fail(why: &str) -> ! {
        eprintln!("error: {why}");
        exit(1)
    }
}
