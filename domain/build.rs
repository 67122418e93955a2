//! Turns LITHOGEN_GOLDEN, the folder of reference vectors, into `cfg(golden)`:
//! without it the tests against those vectors are reported as ignored.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LITHOGEN_GOLDEN");
    println!("cargo:rustc-check-cfg=cfg(golden)");
    if std::env::var_os("LITHOGEN_GOLDEN").is_some() {
        println!("cargo:rustc-cfg=golden");
    }
}
