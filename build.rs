//! Refuses platforms that cannot be, and passes on what pyo3 found out about the interpreter, such as
//! `Py_GIL_DISABLED`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let width = std::env::var("CARGO_CFG_TARGET_POINTER_WIDTH").unwrap_or_default();
    if width != "64" {
        // A token is a slot and a generation in the one word that the kernel and mio carry.
        println!(
            "cargo::error=loop_pool needs a 64-bit platform, and this one has {width} bits: its tokens \
             are slot and generation in one word"
        );
    }
    #[cfg(feature = "python")]
    pyo3_build_config::use_pyo3_cfgs();
}
