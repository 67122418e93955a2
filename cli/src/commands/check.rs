//! `lithogen worker check`: could a worker on this machine work for that
//! coordinator? Each step needs the one before it; the first that fails is named.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::address::Address;
use proto::channel::{CONNECT_DEADLINE, Credentials, call, connect, handshake};
use proto::clock::now_ms;
use proto::identity::Identity;
use proto::join_token::Fingerprint;
use proto::tls::{self, Trust};
use proto::v1;
use proto::v1::artifact_service_client::ArtifactServiceClient;
use proto::v1::registration_service_client::RegistrationServiceClient;
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tonic::transport::Channel;

use crate::args::Check;
#[cfg(feature = "worker")]
use crate::commands::workers::in_words;
use crate::exit::{self, Problem};
use crate::identities;
use crate::out;

/// The most that two clocks may differ: beyond, certificates and logs are hard to believe.
const SKEW_MAX: Duration = Duration::from_secs(60);

/// Room that a worker needs for inputs, at least.
const ROOM: u64 = 5 << 30;

/// The outcome of one step.
struct Step {
    name: &'static str,
    /// What was found, or what is wrong and what to do.
    told: Result<String, String>,
}

/// Tests the way to a coordinator step by step and says which step failed.
///
/// # Errors
/// Naming the first step that failed.
pub async fn run(args: &Check) -> anyhow::Result<()> {
    let url = if args.coordinator.contains("://") {
        args.coordinator.clone()
    } else {
        format!("https://{}", args.coordinator)
    };
    let (host, port, encrypted) = match Address::parse(&url) {
        Ok(Address::Secure { host, port }) => (host, port, true),
        Ok(Address::Loopback { host, port }) => (host, port, false),
        Ok(Address::Socket(_)) => {
            return Err(Problem::new(exit::USAGE, "a Unix socket is on this machine; nothing is between").into());
        }
        Err(error) => return Err(Problem::new(exit::USAGE, error.to_string()).into()),
    };
    let side = side(args)?;
    let mut steps = Steps { steps: vec![], shown: !args.json };
    network(&mut steps, &url, &host, port, encrypted, &side).await;
    // What is on this machine can be tested in any case.
    steps.note("disk", disk(&args.state));
    steps.note("gpu", gpu());
    let failed = steps.steps.iter().find(|step| step.told.is_err()).map(|step| step.name);
    if args.json {
        let step = |step: &Step| {
            let told = step.told.as_ref().unwrap_or_else(|problem| problem);
            json!({ "step": step.name, "ok": step.told.is_ok(), "told": told })
        };
        let steps: Vec<Value> = steps.steps.iter().map(step).collect();
        let document = json!({ "schema_version": 1, "coordinator": url, "failed": failed, "steps": steps });
        out::line(serde_json::to_string_pretty(&document)?);
    }
    match failed {
        Some(name) => Err(Problem::new(exit::ERROR, format!("a worker here could not work: {name} failed")).into()),
        None => Ok(()),
    }
}

struct Steps {
    steps: Vec<Step>,
    shown: bool,
}

impl Steps {
    /// Notes a step; returns whether to go on.
    fn note(&mut self, name: &'static str, told: Result<String, String>) -> bool {
        if self.shown {
            let (mark, text) = match &told {
                Ok(text) => ("✓", text),
                Err(text) => ("✗", text),
            };
            out::line(format_args!("{mark} {name:<9} {text}"));
        }
        let goes_on = told.is_ok();
        self.steps.push(Step { name, told });
        goes_on
    }
}

/// What this side shows to the coordinator, and whom it believes.
struct Side {
    config: ClientConfig,
    /// Why the other side is believed, in words.
    trust: String,
    /// What the coordinator knows the worker by.
    identity: Option<String>,
}

fn side(args: &Check) -> anyhow::Result<Side> {
    if let Some(path) = &args.join_token_file {
        let config = tls::client(Trust::Pinned(identities::read_token(path)?.ca), None)?;
        return Ok(Side { config, trust: "it is the coordinator of the join token".to_owned(), identity: None });
    }
    if let Some(identity) = Identity::load(&args.state.join("identity"))? {
        let trust = "it is the coordinator that was joined".to_owned();
        return Ok(Side { config: identity.config()?, trust, identity: Some(identity.id) });
    }
    let trust = "whether it is the right coordinator was not checked: give --join-token-file".to_owned();
    Ok(Side { config: tls::client(Trust::OnSight, None)?, trust, identity: None })
}

async fn network(steps: &mut Steps, url: &str, host: &str, port: u16, encrypted: bool, side: &Side) {
    let addresses = match tokio::net::lookup_host((host, port)).await {
        Ok(found) => found.collect(),
        Err(_) => vec![],
    };
    let told = match &addresses[..] {
        [] => Err(format!("{host} has no address; check the name, or use the coordinator's address")),
        found => Ok(found.iter().map(|one| one.ip().to_string()).collect::<Vec<_>>().join(", ")),
    };
    if !steps.note("dns", told) {
        return;
    }
    let (stream, told) = match dial(&addresses).await {
        Ok((stream, took)) => (Some(stream), Ok(format!("connected in {:.1} ms", took.as_secs_f64() * 1e3))),
        Err(problem) => (None, Err(problem)),
    };
    let (true, Some(stream)) = (steps.note("tcp", told), stream) else { return };
    if encrypted {
        let told = encrypt(host, port, stream, side).await;
        if !steps.note("tls", told) {
            return;
        }
    } else if !steps.note("tls", Ok("none: plaintext on this machine".to_owned())) {
        return;
    }
    let asked = ask(url, side).await;
    let told = asked.as_ref().map(|(info, _, _)| format!("coordinator {}", info.version)).map_err(Clone::clone);
    let (true, Ok((info, before, after))) = (steps.note("grpc", told), asked) else { return };
    let told = match info.protocol.cmp(&proto::PROTOCOL) {
        std::cmp::Ordering::Equal => Ok(format!("{} on both sides", info.protocol)),
        order => {
            let upgrade = if order.is_lt() { "the coordinator" } else { "this program" };
            Err(format!(
                "the coordinator speaks {}, this program {}; upgrade {upgrade}",
                info.protocol,
                proto::PROTOCOL
            ))
        }
    };
    if !steps.note("protocol", told) {
        return;
    }
    steps.note("clock", clock(info.time_ms, before, after));
    if let Some(identity) = &side.identity {
        steps.note("identity", recognised(url, side, identity).await);
    }
}

async fn dial(addresses: &[SocketAddr]) -> Result<(TcpStream, Duration), String> {
    let mut problems = vec![];
    for address in addresses {
        let begun = Instant::now();
        match tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, begun.elapsed())),
            Ok(Err(error)) => problems.push(format!("{address}: {error}")),
            Err(_) => problems.push(format!("{address}: no answer within {CONNECT_DEADLINE:?}")),
        }
    }
    let problems = problems.join("; ");
    Err(format!(
        "{problems}; does the coordinator run, with --listen on that address, and do firewalls let it through?"
    ))
}

async fn encrypt(host: &str, port: u16, stream: TcpStream, side: &Side) -> Result<String, String> {
    let config = Arc::new(side.config.clone());
    let ended = tokio::time::timeout(CONNECT_DEADLINE, handshake(host, port, stream, config)).await;
    let stream = ended
        .map_err(|_| "the other side does not answer; is it a coordinator, or a proxy in between?".to_owned())?
        .map_err(|error| error.to_string())?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let ca = chain.last().map(|ca| Fingerprint::of(ca).to_string()).unwrap_or_default();
    Ok(format!("TLS 1.3, CA {}…, {}", &ca[..ca.len().min(16)], side.trust))
}

/// What the coordinator says, and the milliseconds since 1970 before and after.
type Answer = (v1::GetServerInfoResponse, i64, i64);

fn channel(url: &str, side: &Side) -> Result<Channel, String> {
    connect(url, &Credentials::new(side.config.clone())).map_err(|error| error.to_string())
}

async fn ask(url: &str, side: &Side) -> Result<Answer, String> {
    let channel = channel(url, side)?;
    let before = now_ms();
    let answer = RegistrationServiceClient::new(channel).get_server_info(call(v1::GetServerInfoRequest {})).await;
    let answer = answer.map_err(|status| match status.code() {
        tonic::Code::Unimplemented => "the other side is no coordinator, or an old one; upgrade it".to_owned(),
        _ => format!("{}; is a proxy in between that does not speak HTTP/2?", status.message()),
    })?;
    Ok((answer.into_inner(), before, now_ms()))
}

/// Whether the identity may still speak: a question that asks for nothing tells.
async fn recognised(url: &str, side: &Side, identity: &str) -> Result<String, String> {
    let nothing = v1::FindMissingRequest::default();
    let answer = ArtifactServiceClient::new(channel(url, side)?).find_missing(call(nothing)).await;
    answer.map(|_| format!("it knows {identity}")).map_err(|status| status.message().to_owned())
}

/// Compares the coordinator's clock with this machine's; the coordinator looked at its own between
/// the two moments.
fn clock(theirs_ms: i64, before_ms: i64, after_ms: i64) -> Result<String, String> {
    let skew_ms = theirs_ms.saturating_sub(before_ms.midpoint(after_ms));
    let told = format!("the coordinator's is {:+.3} s from this machine's", skew_ms as f64 / 1e3);
    if skew_ms.unsigned_abs() <= SKEW_MAX.as_millis() as u64 {
        Ok(told)
    } else {
        Err(format!("{told}; have both set by NTP"))
    }
}

fn disk(state: &Path) -> Result<String, String> {
    // The folder may not be there yet: its nearest ancestor is on the same disk.
    let state = std::path::absolute(state).map_err(|error| error.to_string())?;
    let there = state.ancestors().find(|folder| folder.exists()).unwrap_or(&state);
    let there = there.canonicalize().map_err(|error| format!("{}: {error}", there.display()))?;
    let disks = sysinfo::Disks::new_with_refreshed_list().ok();
    let holds = disks.iter().flatten().filter(|disk| there.starts_with(disk.mount_point()));
    let Some(disk) = holds.max_by_key(|disk| disk.mount_point().as_os_str().len()) else {
        return Ok(format!("{}: how much is free is not known", there.display()));
    };
    let free = disk.available_space();
    let told = format!("{:.1} GB free for {}", free as f64 / 1e9, state.display());
    if free >= ROOM {
        Ok(told)
    } else {
        Err(format!("{told}; a worker needs {:.0} GB, so make room or choose another --state", ROOM as f64 / 1e9))
    }
}

/// What NVIDIA's driver says; without it, which other drivers are installed.
#[cfg(feature = "worker")]
fn gpu() -> Result<String, String> {
    use worker::devices::{self, Error};
    match devices::look() {
        Ok(driver) => {
            let gpus = driver.devices.iter().map(|device| match device.gpu.memory_mib {
                0 => device.gpu.name.clone(),
                mib => format!("{} with {:.0} GiB", device.gpu.name, mib as f64 / 1024.0),
            });
            let gpus = match &gpus.collect::<Vec<_>>()[..] {
                [] => "no GPU for this user".to_owned(),
                gpus => in_words(gpus.iter().map(String::as_str)),
            };
            Ok(format!("NVIDIA driver {}, CUDA {}: {gpus}", driver.version, driver.cuda))
        }
        Err(Error::NoDriver) => Ok(installed()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(not(feature = "worker"))]
fn gpu() -> Result<String, String> {
    Ok(installed())
}

/// Which drivers are installed, by their libraries' files.
fn installed() -> String {
    let drivers = [("libnvidia-ml.so.1", "NVIDIA"), ("libcuda.so.1", "CUDA"), ("libvulkan.so.1", "Vulkan")];
    let found: Vec<&str> =
        drivers.into_iter().filter(|(library, _)| is_installed(library)).map(|(_, name)| name).collect();
    if found.is_empty() {
        "none: it would compute on the CPU".to_owned()
    } else {
        format!("{} found", found.join(", "))
    }
}

/// Whether the dynamic linker would find a library: on its path, in its cache, or
/// in the folders that it knows.
fn is_installed(library: &str) -> bool {
    let paths = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let known = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/lib/wsl/lib"];
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let known = known.into_iter().map(std::path::PathBuf::from).chain([multiarch.into()]);
    let cached = || {
        let cache = std::fs::read("/etc/ld.so.cache").unwrap_or_default();
        cache.windows(library.len()).any(|window| window == library.as_bytes())
    };
    std::env::split_paths(&paths).chain(known).any(|folder| folder.join(library).exists()) || cached()
}
