//! Which commit this is. Nothing else to do without the features `dpdk` and `spdk`: the default build needs a Rust
//! toolchain only.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=BUSLANE_COMMIT={}", commit());
    #[cfg(any(feature = "dpdk", feature = "spdk"))]
    shims::build();
}

/// The commit, of releases: a build to try things would be made anew for each. `BUSLANE_COMMIT` says it where there
/// is no repository.
fn commit() -> String {
    println!("cargo:rerun-if-env-changed=BUSLANE_COMMIT");
    if let Some(commit) = std::env::var("BUSLANE_COMMIT").ok().filter(|commit| !commit.is_empty()) {
        return commit;
    }
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return "a build for development".to_owned();
    }
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    // A directory above may be a repository of something else.
    let is_ours = git(&["rev-parse", "--show-cdup"]).is_some_and(|up| up.is_empty());
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|_| is_ours) {
        for path in [log.as_str(), "src", "native", "Cargo.toml", "Cargo.lock"] {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let described = git(&["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]);
    described.filter(|_| is_ours).unwrap_or_else(|| "unknown".to_owned())
}

/// The shims in `native/`, linked to the host's libraries, and bindings to their headers.
#[cfg(any(feature = "dpdk", feature = "spdk"))]
mod shims {
    use std::env;
    use std::path::PathBuf;
    use std::process::{Command, exit};

    pub(crate) fn build() {
        // SPDK's directories are searched first: it may bring newer libraries than the system's.
        #[cfg(feature = "spdk")]
        spdk();
        #[cfg(feature = "dpdk")]
        dpdk();
    }

    #[cfg(feature = "dpdk")]
    fn dpdk() {
        let library = pkg_config::Config::new()
            .range_version("22.11".."27")
            .probe("libdpdk")
            .unwrap_or_else(|error| {
                fail(&format!(
                    "the feature `dpdk` needs DPDK 22.11 to 26.x with its headers: install `libdpdk-dev`, \
                     or set PKG_CONFIG_PATH to where libdpdk.pc is\n{error}"
                ))
            });
        if !library.include_paths.iter().any(|dir| dir.join("rte_eth_ring.h").exists()) {
            fail(
                "this DPDK was built without network drivers (there is no rte_eth_ring.h), as SPDK builds its \
                 own: build DPDK by itself, with its drivers, and SPDK `--with-dpdk=` that one (docs/spdk.md), or \
                 leave the feature `dpdk` out",
            );
        }
        // A driver: pkg-config names those only to who links them statically.
        println!("cargo:rustc-link-lib=rte_net_ring");
        let sources = ["eal", "gate", "handshake", "memif", "port", "steering"]
            .map(|name| format!("dpdk/{name}"));
        println!("cargo:rerun-if-changed=native/dpdk");
        compile(
            "port_dpdk",
            &sources,
            &library.include_paths,
            "libdpdk",
            &["-include", "rte_config.h"],
        );
        bind("port_dpdk");
    }

    /// Of the system's libraries that SPDK names, what the NVMe driver needs. The others belong to targets and block
    /// devices, and not all of them are installed where SPDK is (`-lvfio-user` of its own submodule is not).
    #[cfg(feature = "spdk")]
    const SYSTEM: [&str; 10] = [
        "-lisal",
        "-lisal_crypto",
        "-luuid",
        "-lssl",
        "-lcrypto",
        "-lnuma",
        "-lm",
        "-lrt",
        "-ldl",
        "-lpthread",
    ];

    /// SPDK by its parts `spdk_nvme` and `spdk_env_dpdk`: shared libraries where they are, else static
    /// ones, whole, since transports register themselves.
    #[cfg(feature = "spdk")]
    fn spdk() {
        let library = pkg_config::Config::new()
            .cargo_metadata(false)
            .probe("spdk_nvme")
            .unwrap_or_else(|error| {
                fail(&format!(
                    "the feature `spdk` needs SPDK 25.09 to 26.x, installed by its own guide: \
                     spdk_nvme.pc has to be where pkg-config looks (PKG_CONFIG_PATH)\n{error}"
                ))
            });
        let dir = PathBuf::from(pkg_config_says(&["--variable=libdir", "spdk_nvme"]).trim());
        let dir = [dir]
            .into_iter()
            .chain(library.link_paths.iter().cloned())
            .find(|dir| dir.join("libspdk_nvme.so").exists() || dir.join("libspdk_nvme.a").exists())
            .unwrap_or_else(|| fail("libspdk_nvme is not where spdk_nvme.pc says"));
        let is_shared = dir.join("libspdk_nvme.so").exists();
        // SPDK's libraries leave DPDK's to whoever links them. One process has one EAL, so the port has to
        // have the same; SPDK itself refuses one it does not know when it starts.
        let dpdk = pkg_config::Config::new()
            .cargo_metadata(false)
            .range_version("24.11".."27")
            .probe("libdpdk")
            .unwrap_or_else(|error| {
                fail(&format!(
                    "the feature `spdk` needs the DPDK that SPDK was built with, 24.11 to 26.x: libdpdk.pc \
                     has to be found before any other (PKG_CONFIG_PATH)\n{error}"
                ))
            });
        let sources =
            ["admin", "controller", "env", "queue", "reserve"].map(|name| format!("spdk/{name}"));
        println!("cargo:rerun-if-changed=native/spdk");
        compile("disk_spdk", &sources, &library.include_paths, "spdk_nvme", &[]);
        bind("disk_spdk");
        dpdk.link_paths.iter().for_each(|dir| argument(&format!("-L{}", dir.display())));
        link_spdk(is_shared);
    }

    #[cfg(feature = "spdk")]
    fn link_spdk(is_shared: bool) {
        let flags = pkg_config_says(&["--libs", "spdk_nvme", "spdk_env_dpdk", "spdk_syslibs"]);
        let flags: Vec<&str> = flags.split_whitespace().collect();
        for dir in flags.iter().filter_map(|flag| flag.strip_prefix("-L")) {
            println!("cargo:rustc-link-search=native={dir}");
        }
        // A static SPDK takes a shared DPDK all the same: the port has it, and a process has one EAL.
        let dpdk_dir = PathBuf::from(pkg_config_says(&["--variable=libdir", "libdpdk"]).trim());
        let dpdk_is_shared = dpdk_dir.join("librte_eal.so").exists();
        if cfg!(feature = "dpdk") && !dpdk_is_shared {
            fail(&format!(
                "the DPDK in {} has no shared libraries, and a process with a port and a disk needs one that both \
                 share: build DPDK with them (meson does), SPDK `--with-dpdk=` that one (docs/spdk.md), or leave \
                 the feature `dpdk` out",
                dpdk_dir.display()
            ));
        }
        let is_static = |flag: &str| {
            flag.starts_with("-lspdk_") && !is_shared
                || flag.starts_with("-lrte_") && !dpdk_is_shared
        };
        let is_ours = |flag: &str| flag.starts_with("-lspdk_") || flag.starts_with("-lrte_");
        // Nothing of ours refers to what registers itself (sockets, transports, memory pools), nor to what
        // shared libraries of SPDK need without saying so.
        argument("-Wl,--whole-archive,-Bstatic");
        flags.iter().filter(|flag| is_static(flag)).for_each(|flag| argument(flag));
        argument("-Wl,-Bdynamic,--no-whole-archive,--no-as-needed");
        let is_dynamic = |flag: &str| is_ours(flag) && !is_static(flag) || SYSTEM.contains(&flag);
        flags.iter().filter(|flag| is_dynamic(flag)).for_each(|flag| argument(flag));
        argument("-Wl,--as-needed");
    }

    #[cfg(feature = "spdk")]
    fn argument(flag: &str) {
        println!("cargo:rustc-link-arg={flag}");
    }

    fn compile(
        name: &str,
        sources: &[String],
        includes: &[PathBuf],
        package: &str,
        flags: &[&str],
    ) {
        let mut build = cc::Build::new();
        for source in sources {
            let source = format!("native/{source}.c");
            println!("cargo:rerun-if-changed={source}");
            build.file(&source);
        }
        for flag in flags {
            build.flag(flag);
        }
        build.flag_if_supported("-std=gnu11").warnings(true).extra_warnings(true);
        build.flag("-Werror=implicit-function-declaration");
        // pkg-config's crate drops `-march`, without which the vendor's inline code does not compile.
        let others = pkg_config_says(&["--cflags-only-other", package]);
        for flag in others.split_whitespace().filter(|flag| flag.starts_with("-m")) {
            build.flag(flag);
        }
        // Vendor headers are not ours to warn about.
        for path in includes {
            build.flag("-isystem").flag(path.to_str().expect("pkg-config speaks UTF-8"));
        }
        build.try_compile(&format!("buslane_{name}")).unwrap_or_else(|error| {
            fail(&format!("native/ does not compile against the installed {package}: {error}"))
        });
    }

    fn pkg_config_says(arguments: &[&str]) -> String {
        let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
        // Linkers differ in which directories they search unasked.
        let output = Command::new(tool)
            .env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1")
            .args(arguments)
            .output()
            .unwrap_or_else(|error| fail(&format!("cannot run pkg-config: {error}")));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn bind(name: &str) {
        let header = format!("native/{name}.h");
        println!("cargo:rerun-if-changed={header}");
        let bindings = std::panic::catch_unwind(|| {
            bindgen::Builder::default()
                .header(&header)
                .allowlist_item("buslane_.*")
                .allowlist_item("BUSLANE_.*")
                .derive_default(true)
                .rust_target("1.95".parse().expect("a version"))
                .rust_edition(bindgen::RustEdition::Edition2024)
                .generate()
        });
        let Ok(Ok(bindings)) = bindings else {
            fail(&format!(
                "cannot bind {header}: bindgen needs libclang, install `libclang-dev` (or set LIBCLANG_PATH)"
            ));
        };
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
        let out = out.join(format!("{name}.rs"));
        bindings
            .write_to_file(&out)
            .unwrap_or_else(|error| fail(&format!("cannot write {}: {error}", out.display())));
    }

    fn fail(why: &str) -> ! {
        eprintln!("error: {why}");
        exit(1)
    }
}
