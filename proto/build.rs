//! Generates the wire types without `protoc`: protox compiles the files and
//! hands their descriptors to tonic.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["run", "task", "cluster", "worker", "artifact", "registration"];
    let files = files.map(|name| format!("lithogen/v1/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    // Reflection serves the descriptors as they are.
    std::fs::write(out.join("descriptors.bin"), prost_encode(&descriptors))?;
    // Numbers of attempts in order: a message with one that is NaN can be compared as text only.
    let wire = tonic_prost_build::configure().codec_path("crate::codec::SmallBuffers").btree_map("values");
    wire.compile_fds(descriptors)?;
    Ok(())
}

fn prost_encode(descriptors: &impl prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}
