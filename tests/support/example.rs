//! The example workers as releases: built on demand, because `cargo test --test NAME` builds no examples.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The built example (`worker`, `faulty`, `load`) of the profile that this test was built in.
pub(crate) fn built(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build).join(name)
}

/// Builds every example. Several test processes at a time are fine: cargo locks its target directory.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--examples", "--target-dir"]).arg(profile.parent().expect("target/PROFILE"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("run cargo");
    assert!(status.success(), "cargo build --examples: {status}");
    profile.join("examples")
}

/// A copy of `program` at `to` that ends in lines `ROLLOUT-EXAMPLE-KEY=value`: a release of its own, with a digest of its
/// own, that does as the lines say. The copy appears whole, as a deploy script would put it in place.
pub(crate) fn release(program: &Path, to: &Path, lines: &[(&str, &str)]) -> PathBuf {
    let unfinished = to.with_extension("unfinished");
    fs::copy(program, &unfinished).unwrap_or_else(|error| panic!("copy {}: {error}", program.display()));
    let mut file = OpenOptions::new().append(true).open(&unfinished).expect("open the copy");
    file.write_all(b"\n").expect("append");
    for (key, value) in lines {
        writeln!(file, "ROLLOUT-EXAMPLE-{key}={value}").expect("append");
    }
    file.set_permissions(Permissions::from_mode(0o755)).expect("make it executable");
    drop(file);
    fs::rename(&unfinished, to).expect("put it in place");
    to.to_owned()
}
