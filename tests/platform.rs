//! What the crate is built for, and with.

use std::path::Path;
use std::process::Command;

/// What the build script prints for a platform of so many bits.
fn printed(width: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("build_script_{width}"));
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let compiled = Command::new(rustc)
        .args(["--edition", "2024", "--crate-name", "build_script", "-o"])
        .args([&script, &root.join("build.rs")])
        .status()
        .expect("there is a compiler");
    assert!(compiled.success());
    let run = Command::new(&script).env("CARGO_CFG_TARGET_POINTER_WIDTH", width).output();
    String::from_utf8(run.expect("it runs").stdout).expect("text")
}

#[test]
fn a_platform_of_other_than_64_bits_is_refused_with_one_sentence() {
    let errors = |width| {
        let text = printed(width);
        text.lines().filter(|line| line.starts_with("cargo::error=")).count()
    };
    assert_eq!(errors("64"), 0);
    assert_eq!(errors("32"), 1);
    assert!(printed("32").contains("loop_pool needs a 64-bit platform"));
}

#[test]
fn there_is_one_aws_lc_in_the_program() {
    let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock"));
    let lock = lock.expect("it is kept");
    // rustls has it by aws-lc-rs, and we name it ourselves.
    assert_eq!(lock.matches("name = \"aws-lc-sys\"").count(), 1);
}
