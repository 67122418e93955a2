//! Short texts that people copy from one place to another, and manifests.

use domain::artifact::{Entry, Manifest};
use domain::digest::Digest;
use proto::address::Address;
use proto::join_token::{Fingerprint, JoinToken, Secret};

use super::MEMORY;
use crate::mutate::Target;

#[test]
fn any_address_is_refused_or_itself() {
    let corpus = ["http://127.0.0.1:7443", "https://host.example:1,https://[::1]:65535", "unix:/run/lithogen.sock"]
        .map(|url| url.as_bytes().to_vec())
        .to_vec();
    let words = ["https://", "unix:", "[::1]", ":7443", ",", "@", "//", "%2f"].map(str::to_owned).to_vec();
    let execute = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        match Address::parse_all(&text) {
            Ok(addresses) => {
                // The path of a socket may have commas.
                let urls =
                    if text.trim_start().starts_with("unix:") { vec![&*text] } else { text.split(',').collect() };
                let singly: Vec<_> = urls.into_iter().filter_map(|url| Address::parse(url.trim()).ok()).collect();
                assert_eq!(addresses, singly);
                format!("{:?}", addresses.iter().map(Address::is_secure).collect::<Vec<_>>())
            }
            Err(error) => error.to_string(),
        }
    };
    Target { name: "address", executions: 5_000, memory: MEMORY, corpus, words }.run(execute);
}

#[test]
fn any_token_is_refused_or_itself() {
    let secret: Secret = "00112233445566778899aabbccddeeff".parse().unwrap();
    let token = JoinToken { ca: Fingerprint::of(b"certificate"), secret };
    let corpus = vec![token.to_string().into_bytes()];
    let execute = |bytes: &[u8]| match String::from_utf8_lossy(bytes).parse::<JoinToken>() {
        Ok(token) => {
            assert_eq!(token.to_string().parse(), Ok(token));
            "a token".to_owned()
        }
        Err(error) => error.to_string(),
    };
    Target { name: "join-token", executions: 5_000, memory: MEMORY, corpus, words: vec![] }.run(execute);
}

#[test]
fn any_digest_is_refused_or_itself() {
    let corpus = vec![Digest::of(b"x").to_string().into_bytes()];
    let execute = |bytes: &[u8]| match String::from_utf8_lossy(bytes).parse::<Digest>() {
        Ok(digest) => {
            assert_eq!(digest.to_string().as_bytes(), bytes);
            "a digest".to_owned()
        }
        Err(_) => "none".to_owned(),
    };
    Target { name: "digest", executions: 5_000, memory: MEMORY, corpus, words: vec![] }.run(execute);
}

#[test]
fn any_manifest_is_refused_or_plain() {
    let entry = |path: &str| Entry { path: path.to_owned(), digest: Digest::of(path.as_bytes()), size: 1 << 40 };
    let manifest = Manifest::new(vec![entry("a/b.png"), entry("c"), entry("images/000.png")]).unwrap();
    let words = ["../", "/", "\\\\", "\\u0000", "a/b.png", "c/d"].map(str::to_owned).to_vec();
    let execute = |bytes: &[u8]| match serde_json::from_slice::<Manifest>(bytes) {
        Ok(manifest) => {
            assert_eq!(serde_json::from_slice::<Manifest>(&manifest.to_bytes()).unwrap(), manifest);
            assert!(manifest.entries().iter().all(|entry| entry.size <= manifest.size()));
            manifest.entries().len().to_string()
        }
        Err(error) => error.to_string(),
    };
    Target { name: "manifest", executions: 5_000, memory: MEMORY, corpus: vec![manifest.to_bytes()], words }
        .run(execute);
}
