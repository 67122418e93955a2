//! Turns the variables that name what some tests need, the folder of reference
//! vectors and one of photographs, into a `cfg` each: without it those tests are
//! reported as ignored.

/// Environment variables and the `cfg` that each sets.
const NEEDS: [(&str, &str); 2] = [("LITHOGEN_GOLDEN", "golden"), ("LITHOGEN_PHOTOS", "photos")];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for (variable, cfg) in NEEDS {
        println!("cargo:rerun-if-env-changed={variable}");
        println!("cargo:rustc-check-cfg=cfg({cfg})");
        if std::env::var_os(variable).is_some() {
            println!("cargo:rustc-cfg={cfg}");
        }
    }
}
