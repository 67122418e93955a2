//! Traces for a receiver that speaks OTLP over gRPC, if the environment names one.
//!
//! What the SDK itself reads there is left to it. A receiver that cannot be reached is told
//! of once and costs spans, no work: they wait in a queue that has an end, and the end of the
//! process waits no longer than [`LAST`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use opentelemetry::global;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};
use tokio::runtime::{Builder, Runtime};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Registry;

use crate::args::Command;

/// Variables that name a receiver.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// Time in which the last spans may reach their receiver.
const LAST: Duration = Duration::from_secs(2);

/// The way of spans to their receiver.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    /// Sends them, whatever else the process does.
    runtime: Runtime,
}

impl Traces {
    /// Begins to export what the command does, if it does anything with tasks and the
    /// environment names a receiver.
    ///
    /// # Errors
    /// If the environment cannot be followed.
    pub(crate) fn start(command: &Command) -> anyhow::Result<Option<Self>> {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let says = |name: &str, word: &str| std::env::var(name).is_ok_and(|value| value.eq_ignore_ascii_case(word));
        let is_off = says("OTEL_SDK_DISABLED", "true") || says("OTEL_TRACES_EXPORTER", "none");
        let Some(service) = service(command).filter(|_| !is_off && ENDPOINTS.into_iter().any(is_set)) else {
            return Ok(None);
        };
        let wrong = ENDPOINTS.into_iter().filter(|name| is_set(name)).find_map(|name| {
            let value = std::env::var(name).unwrap_or_default();
            (!value.starts_with("http://")).then_some((name, value))
        });
        match wrong {
            // The worker of an attempt says it for all of them.
            Some(_) if service == ATTEMPT => return Ok(None),
            Some((name, value)) => anyhow::bail!(
                "traces are not exported: {name} is {value:?}, expected http://HOST:PORT; https is not built in, so let \
                 a collector on this machine encrypt and hand on what it is sent"
            ),
            None => {}
        }
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("traces").enable_all().build()?;
        let _entered = runtime.enter();
        let exporter = SpanExporter::builder().with_tonic().with_retry_policy(RetryPolicy::disabled());
        let exporter = exporter.build().context("traces are not exported")?;
        // The worker of an attempt says it for all of them.
        let is_told = AtomicBool::new(service == ATTEMPT);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(service))
            .with_batch_exporter(Exporter { exporter, is_told })
            .build();
        global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(Some(Self { provider, runtime }))
    }

    /// What makes spans of this program's spans.
    pub(crate) fn layer(&self) -> OpenTelemetryLayer<Registry, SdkTracer> {
        let layer = tracing_opentelemetry::layer().with_tracer(self.provider.tracer("lithogen"));
        layer.with_location(false).with_threads(false).with_tracked_inactivity(false)
    }

    /// Sends what is left, if there is still time for it.
    pub(crate) fn end(self) {
        // The exporter has said what is wrong.
        let _ = self.provider.shutdown_with_timeout(LAST);
        self.runtime.shutdown_background();
    }
}

/// What the process of an attempt is called.
const ATTEMPT: &str = "lithogen-attempt";

/// What a command is called among the services of a trace, unless `OTEL_SERVICE_NAME` says it.
fn service(command: &Command) -> Option<&'static str> {
    match command {
        Command::Coordinator(_) => Some("lithogen-coordinator"),
        Command::Worker(args) if args.command.is_none() => Some("lithogen-worker"),
        #[cfg(feature = "worker")]
        Command::Attempt { .. } => Some(ATTEMPT),
        #[cfg(feature = "worker")]
        Command::Reproduce(_) => Some("lithogen"),
        _ => None,
    }
}

/// What the environment says about this process, and its name if that says none.
fn resource(service: &'static str) -> Resource {
    let said = Resource::builder().build();
    let is_named = said.get(&"service.name".into()).is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    if is_named { said } else { Resource::builder().with_service_name(service).build() }
}

/// Says once that spans do not arrive.
#[derive(Debug)]
struct Exporter {
    exporter: SpanExporter,
    is_told: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        if let Err(error) = &exported
            && !self.is_told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "traces do not reach their receiver; the work goes on, and this is said once");
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
