//! Says which tests this machine can run: those that need something that a fresh
//! machine lacks are shown as ignored, with what they need, rather than as passed.

/// Environment variables and the `cfg` that each sets.
const NEEDS: [(&str, &str); 7] = [
    ("LITHOGEN_TEST_SMALL_DISK", "small_disk"),
    ("LITHOGEN_TEST_S3", "s3"),
    ("LITHOGEN_TEST_POSTGRES", "postgres"),
    ("LITHOGEN_TEST_NETNS", "netns"),
    ("LITHOGEN_TEST_FAKETIME", "faketime"),
    ("LITHOGEN_TEST_PROMTOOL", "promtool"),
    ("LITHOGEN_PHOTOS", "photos"),
];

fn main() {
    for (variable, cfg) in NEEDS {
        println!("cargo::rustc-check-cfg=cfg({cfg})");
        println!("cargo::rerun-if-env-changed={variable}");
        if std::env::var_os(variable).is_some_and(|value| !value.is_empty()) {
            println!("cargo::rustc-cfg={cfg}");
        }
    }
    // What cargo has fetched suffices for this platform only.
    println!("cargo::rustc-env=PLATFORM={}", std::env::var("TARGET").unwrap_or_default());
    println!("cargo::rerun-if-changed=build.rs");
}
